"""A float .tflite of five convolutions for the tests of number formats."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import keras
import numpy as np
import numpy.typing as npt

from edge_detector.manifest import InputSpec
from tools.quantize.calibrate import collect
from tools.quantize.export import export_keras
from tools.quantize.precision import Precision, activation_ranges
from tools.quantize.ranges import Range, RangeMethod

SIDE = 32
SPEC = InputSpec(width=SIDE, height=SIDE)
Damage = Literal["none", "outlier channel", "outlier weight"]


def five_convolutions(damage: Damage = "none") -> bytes:
    """Return a network with outputs "begin" and "end", of which one layer, "conv2", can be hard to represent in 8 bits.

    Outlier channel: one of its outputs is 100 times greater; the next layer makes up for it. Outlier weight: great
    weights on an input that is always 0 leave few steps to the others.
    """
    random = np.random.default_rng(0)
    kernels = [random.normal(0, (2 / (9 * depth)) ** 0.5, (3, 3, depth, 8)) for depth in (3, 8, 8, 8, 8)]
    biases = [random.normal(0, 0.2, 8) for _ in kernels]
    kernels[0] /= 100  # of pixels
    if damage == "outlier channel":
        kernels[2][..., 0] *= 100
        biases[2][0] *= 100
        kernels[3][:, :, 0] /= 100
    elif damage == "outlier weight":
        kernels[1][..., 0], biases[1][0] = 0, 0
        kernels[2][:, :, 0] = 60
    source = keras.Input((SIDE, SIDE, 3), batch_size=1, name="images")
    values = source
    for index, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        last = index == len(kernels) - 1
        layer = keras.layers.Conv2D(
            8, 3, padding="same", activation=None if last else "relu", name="end" if last else f"conv{index}"
        )
        values = layer(values)
        layer.set_weights([kernel, bias])
        if index == 0:
            begin = values
    return export_keras(keras.Model(source, {"begin": begin, "end": values}))


def photos(count: int, seed: int) -> list[npt.NDArray[np.uint8]]:
    """Return smooth pictures (32, 32, 3)."""
    random = np.random.default_rng(seed)
    return [np.asarray(cv2.resize(picture, (SIDE, SIDE)), np.uint8) for picture in _noise(random, count)]


def tensors(count: int = 4) -> list[npt.NDArray[np.float32]]:
    """Return input tensors of photos that are not calibrated on."""
    return [photo[None].astype(np.float32) for photo in photos(count, 2)]


def ranges_of(content: bytes, precision: Precision = Precision.INT8) -> dict[str, Range]:
    """Return min/max ranges of all activations on 20 photos."""
    histograms = collect(content, photos(20, 1), SPEC, 1)
    return activation_ranges(histograms, SPEC, ("end",), RangeMethod.MINMAX, 0, precision)


def _noise(random: np.random.Generator, count: int) -> Any:
    return random.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
