"""A model that is computed instead of learned: it finds the coloured boxes of `SyntheticSource`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.backends import DeviceHealth, check_input
from edge_detector.detector import Detector
from edge_detector.manifest import DetectionOpOutputs, InputSpec, ModelManifest
from edge_detector.quantization import QuantizationParams, QuantizedTensor, RawOutputs


class ColorBackend:
    """Boxes around what is mostly red, green and blue in the tensor, put out as TFLite_Detection_PostProcess does.

    `delay_s` is the time that an inference takes; `fails_at` is the number of the call that raises `error`.
    """

    name = "colours"
    health = DeviceHealth()

    def __init__(
        self, input_wh: tuple[int, int], delay_s: float = 0.0, fails_at: int = -1, error: Exception | None = None
    ) -> None:
        self.input_shape = (1, input_wh[1], input_wh[0], 3)
        self.input_params = QuantizationParams(1.0, 0, np.dtype(np.uint8))
        self.calls = 0
        self._delay_s = delay_s
        self._fails_at = fails_at
        self._error = error

    def infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        check_input(tensor, self.input_shape, self.input_params)
        self.calls += 1
        if self.calls - 1 == self._fails_at and self._error is not None:
            raise self._error
        time.sleep(self._delay_s)
        rows = [(channel, *box) for channel in range(3) if (box := self._find(tensor[0], channel))]
        classes = np.array([[row[0] for row in rows]], np.float32)
        boxes = np.array([[row[1:] for row in rows]], np.float32).reshape(1, -1, 4)
        outputs = {"boxes": boxes, "classes": classes, "scores": np.full(classes.shape, 0.9, np.float32)}
        outputs["count"] = np.array([len(rows)], np.float32)
        return {name: QuantizedTensor(values) for name, values in outputs.items()}

    def close(self) -> None:
        pass

    def _find(self, picture: npt.NDArray[np.uint8], channel: int) -> tuple[float, float, float, float] | None:
        rest = np.delete(picture, channel, axis=2).max(axis=2)
        rows, columns = np.nonzero(picture[..., channel] > rest.astype(int) + 60)
        if not len(rows):
            return None
        height, width = picture.shape[:2]
        top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        return top / height, left / width, bottom / height, right / width


@pytest.fixture
def color_detector() -> Callable[..., Detector]:
    """Return a function that makes a detector of the classes red, green and blue; see `ColorBackend`."""

    def make(input_wh: tuple[int, int] = (160, 120), threshold: float | None = None, **backend: Any) -> Detector:
        manifest = ModelManifest(
            name="colours",
            input=InputSpec(width=input_wh[0], height=input_wh[1]),
            outputs=DetectionOpOutputs(boxes="boxes", classes="classes", scores="scores", count="count"),
            labels=("red", "green", "blue"),
        )
        return Detector(manifest, ColorBackend(input_wh, **backend), threshold)

    return make
