"""OpenCV's own networks, cv2.dnn, on the CPU.

From ONNX: OpenCV 5.0 cannot read int8 .tflite files with a ReLU ("Lookup table for RELU" is not implemented).
"""

from __future__ import annotations

from typing import Any

import cv2

from tools.bench.contenders import Found, Laps
from tools.bench.contenders.onnx_common import blob_of, found_in
from tools.bench.kit import Kit


class OpenCv:
    """The whole way."""

    def __init__(self, kit: Kit, model: str) -> None:
        cv2.setNumThreads(kit.threads)
        self._kit = kit
        self._net = cv2.dnn.readNetFromONNX(kit.model(model))

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        blob, scale, pad = blob_of(given, self._kit)
        laps("preprocess")
        self._net.setInput(blob)
        scores, boxes = self._net.forward(["scores", "boxes"])
        laps("invoke")
        found = found_in(scores, boxes, self._kit, scale, pad, given.shape)
        laps("postprocess")
        return found
