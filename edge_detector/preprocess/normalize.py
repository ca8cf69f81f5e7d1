"""Turn pixels into the input tensor, straight into the model's integers."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.manifest import InputSpec
from edge_detector.preprocess.letterbox import LetterboxTransform, letterbox
from edge_detector.quantization import QuantizationParams

_TOP_BIT = np.uint8(0x80)


class Normalizer:
    """Maps each pixel value by a table of 3 x 256 entries: value = (pixel - mean) / std, rounded and saturated.

    Tables that keep the value (uint8, scale 1) or subtract 128 (int8, scale 1) are applied without a look-up.
    """

    def __init__(self, spec: InputSpec, params: QuantizationParams | None) -> None:
        """Build the table; `params` is None where the model takes float32."""
        self.spec = spec
        values = (np.arange(256.0)[:, None] - np.asarray(spec.mean)) / np.asarray(spec.std)
        table = values.astype(np.float32) if params is None else params.quantize(values)
        self._table: npt.NDArray[Any] = table if spec.color == "rgb" else np.ascontiguousarray(table[:, ::-1])
        self._keeps_pixels = _equals(self._table, np.arange(256, dtype=np.uint8))
        self._subtracts_128 = _equals(self._table, np.arange(-128, 128, dtype=np.int8))

    def __call__(self, canvas: npt.NDArray[np.uint8], *, overwrite: bool = False) -> npt.NDArray[Any]:
        """Return RGB pixels (H, W, 3) uint8 as tensor (1, H, W, 3), contiguous; it may share the pixels' memory.

        With `overwrite` they need not stay what they are, if they are contiguous: that saves a fresh array.
        """
        if self.spec.color == "bgr":
            canvas, overwrite = np.asarray(cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), np.uint8), True
        if self._keeps_pixels:
            tensor: npt.NDArray[Any] = np.ascontiguousarray(canvas)
        elif self._subtracts_128:
            target = canvas if overwrite and canvas.flags.c_contiguous else None
            tensor = np.bitwise_xor(canvas, _TOP_BIT, out=target, order="C").view(np.int8)
        else:
            tensor = np.asarray(cv2.LUT(canvas, self._table[None]))
        return tensor[None]


def prepare(image: npt.NDArray[np.uint8], normalizer: Normalizer) -> tuple[npt.NDArray[Any], LetterboxTransform]:
    """Return the input tensor (1, height, width, 3) of an RGB picture (h, w, 3) uint8, and where it lies on the canvas.

    The one way from pixels to tensor: detection, calibration and evaluation all go through here.
    """
    canvas, transform = letterbox(image, normalizer.spec)
    return normalizer(canvas, overwrite=True), transform


def _equals(table: npt.NDArray[Any], column: npt.NDArray[Any]) -> bool:
    return table.dtype == column.dtype and bool((table == column[:, None]).all())
