"""Score filter: finds the class outputs worth decoding while they are still stored integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_detector.quantization import QuantizationParams

ScoreConversion = Literal["sigmoid", "identity"]

# Integers are looked through in blocks: the maximum of one takes a quarter of the time of finding places in it, and few
# blocks have any. Smaller ones cost more calls than they save, in larger ones more values are looked at twice.
_BLOCK = 4096
_MANY = 16 * _BLOCK  # of fewer the places are found as fast


@dataclass(frozen=True, slots=True, eq=False)
class ScoreFilter:
    """Which values of one tensor pass a confidence threshold, and the confidence that they stand for.

    Attributes:
        lowest: the smallest stored value that passes; one above the type's range if none does.
        conversion: what turns a real class output into a confidence.
        table: confidence of each stored integer from the type's minimum on; None where the values are real numbers.
    """

    lowest: float
    conversion: ScoreConversion
    table: npt.NDArray[np.float32] | None = None

    @classmethod
    def build(cls, params: QuantizationParams | None, conversion: ScoreConversion, threshold: float) -> ScoreFilter:
        """Return the filter of a tensor that is quantized with `params`, or holds real numbers if None.

        The threshold in 0..1 is inclusive.
        """
        if params is None:
            return cls(_logit(threshold) if conversion == "sigmoid" else threshold, conversion)
        limits = np.iinfo(params.dtype)
        table = _confidence(params.dequantize(np.arange(limits.min, limits.max + 1)), conversion)
        return cls(int(limits.min + np.searchsorted(table, np.float32(threshold))), conversion, table)

    def best(self, values: npt.NDArray[Any], limit: int) -> npt.NDArray[np.intp]:
        """Return the indices (K,) of the values (N,) that pass, at most `limit` of them.

        Of more the greatest are taken, in descending order; among equals the earlier ones.
        """
        by_blocks = self.table is not None and len(values) >= _MANY  # the maximum of real numbers may be NaN
        passing = _from(values, self.lowest) if by_blocks else np.flatnonzero(values >= self.lowest)
        if len(passing) <= limit:
            return passing
        found = values[passing]
        # ~ and - both reverse the order, ~ without overflow; integers of 8 or 16 bits are sorted in linear time.
        return passing[np.argsort(-found if self.table is None else ~found, kind="stable")[:limit]]

    def confidence(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the confidence (K,) that class outputs (K,), as stored, stand for."""
        if self.table is None:
            return _confidence(values, self.conversion)
        return self.table[values.astype(np.intp) - np.iinfo(values.dtype).min]


def _from(values: npt.NDArray[Any], lowest: float) -> npt.NDArray[np.intp]:
    """Return the indices (K,), ascending, of the integers (N,) that are `lowest` or more."""
    whole = len(values) - len(values) % _BLOCK
    blocks = values[:whole].reshape(-1, _BLOCK)
    having = np.flatnonzero(blocks.max(axis=1) >= lowest)
    block, place = np.divmod(np.flatnonzero(blocks[having] >= lowest), _BLOCK)
    rest = np.flatnonzero(values[whole:] >= lowest)
    return np.concatenate([having[block] * _BLOCK + place, rest + whole])


def _confidence(real: npt.NDArray[Any], conversion: ScoreConversion) -> npt.NDArray[np.float32]:
    if conversion == "identity":
        return real.astype(np.float32)
    return np.exp(-np.logaddexp(0.0, -real.astype(np.float64))).astype(np.float32)  # sigmoid without overflow


def _logit(probability: float) -> float:
    """Return the inverse of the sigmoid; -inf at 0, inf at 1."""
    with np.errstate(divide="ignore"):
        return float(np.log(probability) - np.log1p(-probability))
