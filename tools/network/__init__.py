"""SSD-ResNet50-FPN: one description, one weight format, two builds (PyTorch trains, Keras exports)."""
