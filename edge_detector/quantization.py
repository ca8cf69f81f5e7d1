"""Quantized numbers: real = scale * (stored - zero_point). Source: TFLite 8-bit quantization spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class QuantizationParams:
    """Per-tensor quantization of an integer tensor.

    Attributes:
        scale: real value of one step, > 0.
        zero_point: stored integer that means 0.0.
        dtype: the stored integer type, such as int8 or uint8.
    """

    scale: float
    zero_point: int
    dtype: np.dtype[Any]

    def quantize(self, values: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return `values` (real numbers, any shape) as stored integers: rounded to nearest, saturated."""
        limits = np.iinfo(self.dtype)
        stored = np.rint(np.asarray(values, np.float64) / self.scale) + self.zero_point
        saturated: npt.NDArray[Any] = np.clip(stored, limits.min, limits.max).astype(self.dtype)
        return saturated

    def dequantize(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return stored integers (any shape) as float32 real numbers."""
        steps = stored.astype(np.float32) - np.float32(self.zero_point)
        real: npt.NDArray[np.float32] = steps * np.float32(self.scale)
        return real


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """Values as a model stores them; `params` is None where they are real numbers already."""

    values: npt.NDArray[Any]
    params: QuantizationParams | None = None

    def dequantized(self) -> npt.NDArray[np.float32]:
        """Return the real numbers, float32, same shape."""
        if self.params is None:
            return self.values.astype(np.float32, copy=False)
        return self.params.dequantize(self.values)


# A model's outputs by tensor name, still as stored; copies, never views into the interpreter's memory.
RawOutputs = Mapping[str, QuantizedTensor]
