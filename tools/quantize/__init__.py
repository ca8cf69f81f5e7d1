"""From weights to a verified .tflite: float export, calibration, int8, parity, manifest."""
