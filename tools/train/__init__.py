"""Training of SSD-ResNet50-FPN on COCO-format data."""
