"""Stage 2: image -> tensor."""
