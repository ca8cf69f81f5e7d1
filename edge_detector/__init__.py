"""edge_detector: finds objects in pictures with a quantized TFLite model, on small computers."""

from edge_detector.detections import Detections
from edge_detector.errors import (
    ConfigError,
    DelegateError,
    EdgeDetectorError,
    EndOfStream,
    ModelError,
    PublishError,
    SourceError,
)
from edge_detector.frame import Frame, FrameResult

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "DelegateError",
    "Detections",
    "EdgeDetectorError",
    "EndOfStream",
    "Frame",
    "FrameResult",
    "ModelError",
    "PublishError",
    "SourceError",
    "__version__",
]
