"""Stage 4b: detections -> objects over time."""
