"""From the distribution of an activation to the range that its 256 steps shall cover."""

from __future__ import annotations

from enum import Enum

import numpy as np

from tools.quantize.calibrate import Histogram

Range = tuple[float, float]
_FRACTIONS = np.linspace(0.1, 1.0, 46)


class RangeMethod(str, Enum):
    """How ranges are chosen: all values, all but a share at either end, or with the least mean squared error."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"


def choose_range(histogram: Histogram, method: RangeMethod, percentile: float) -> Range:
    """Return the least and greatest value to represent; 0 lies between, both are within the observed values.

    `percentile`, 50..100, is the share of values below the upper end and above the lower one.
    """
    if method is RangeMethod.PERCENTILE:
        return _percentile(histogram, percentile / 100)
    if method is RangeMethod.MSE:
        return _least_error(histogram)
    return histogram.low, histogram.high


def _percentile(histogram: Histogram, share: float) -> Range:
    below = np.cumsum(histogram.counts) / histogram.counts.sum()
    low, high = histogram.centers[np.searchsorted(below, [1 - share, share])]
    return max(histogram.low, min(0.0, low)), min(histogram.high, max(0.0, high))


def _least_error(histogram: Histogram) -> Range:
    """Return the best of a grid of ranges, one end after the other, twice."""
    low, high = histogram.low, histogram.high
    occupied = np.flatnonzero(histogram.counts)
    values, counts = histogram.centers[occupied], histogram.counts[occupied]

    def error(low: float, high: float) -> float:
        step = max(high - low, np.finfo(np.float32).tiny) / 255
        return float(counts @ (np.clip(np.rint((values - low) / step), 0, 255) * step + low - values) ** 2)

    for _ in range(2):
        high = min(histogram.high * _FRACTIONS, key=lambda end: error(low, end))
        low = min(histogram.low * _FRACTIONS, key=lambda end: error(end, high))
    return float(low), float(high)
