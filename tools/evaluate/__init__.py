"""COCO average precision, through the runtime's own detector."""
