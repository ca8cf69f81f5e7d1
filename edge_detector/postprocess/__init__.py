"""Stage 4: raw outputs -> detections."""
