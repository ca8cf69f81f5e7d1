"""MediaPipe Tasks' ObjectDetector: picture in, detections out; it resizes, normalizes and runs the model itself."""

from __future__ import annotations

from typing import Any

import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from tools.bench.contenders import Found, Laps
from tools.bench.kit import Kit


class MediaPipe:
    """The whole way.

    Its Python API has no number of threads, and the library's own default for Linux is one (MediaPipe's
    calculators/tensor/inference_calculator_utils.cc).
    """

    def __init__(self, kit: Kit, model: str) -> None:
        options = vision.ObjectDetectorOptions(
            base_options=BaseOptions(model_asset_path=kit.model(model)),
            running_mode=vision.RunningMode.IMAGE,
            max_results=kit.max_detections,
            score_threshold=kit.threshold,
        )
        self._labels = kit.labels
        self._detector = vision.ObjectDetector.create_from_options(options)

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        found = self._detector.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=given)).detections
        boxes = [(box.origin_x, box.origin_y, box.width, box.height) for box in (item.bounding_box for item in found)]
        x, y, width, height = np.array(boxes, np.float32).reshape(-1, 4).T
        best = [item.categories[0] for item in found]
        classes = [self._labels.index(category.category_name) for category in best]
        scores = np.array([category.score for category in best])
        return Found(np.stack([x, y, x + width, y + height], axis=1), scores, np.array(classes, int))
