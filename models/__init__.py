"""Shipped models; imported as `edge_detector.models`."""
