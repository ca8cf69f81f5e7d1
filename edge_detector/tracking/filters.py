"""Which detections count: the label, size, shape, score and place that the settings ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from edge_detector.errors import ConfigError
from edge_detector.object_config import FilterConfig, ObjectsConfig
from edge_detector.tracking.polygons import Points, contains, to_fractions


def min_scores(objects: ObjectsConfig, labels: Sequence[str], leave: float, threshold: float) -> list[float]:
    """Return for each label the score below which detections are ignored.

    Where a filter leaves it open, it is the part `leave` of the label's threshold, or of `threshold` if that is lower.
    """
    filters = [objects.filters.get(label, FilterConfig()) for label in labels]
    own = [threshold if one.threshold is None else one.threshold for one in filters]
    given = [one.min_score for one in filters]
    return [leave * min(begin, threshold) if low is None else low for low, begin in zip(given, own, strict=True)]


class ObjectFilter:
    """The settings `objects` for a model with these labels and pictures of a known size."""

    def __init__(
        self,
        objects: ObjectsConfig,
        labels: Sequence[str],
        size_wh: tuple[int, int],
        leave: float,
        default_threshold: float,
    ) -> None:
        """Resolve limits and masks.

        Args:
            objects: labels, filters and masks.
            labels: of the model, by class id.
            size_wh: width and height of the pictures in pixels.
            leave: part of the threshold that stands where a filter leaves `min_score` open, see `min_scores`.
            default_threshold: stands where a filter leaves `threshold` open.

        Raises:
            ConfigError: a mask lies outside the picture, or a lowest area in one unit is above a highest in the other.
        """
        self._size_wh = size_wh
        filters = [objects.filters.get(label, FilterConfig()) for label in labels]
        tracked = [objects.track is None or label in objects.track for label in labels]
        scores = min_scores(objects, labels, leave, default_threshold)
        self._tracked = np.array(tracked, bool)
        self._min_score = np.array(scores, np.float32)  # as the detections', so that equal is equal
        self._area = np.array([self._areas(one, label) for one, label in zip(filters, labels, strict=True)])
        self._ratio = np.array([(one.min_ratio, _limit(one.max_ratio)) for one in filters])
        self._thresholds = [default_threshold if one.threshold is None else one.threshold for one in filters]
        everywhere = np.ones(len(labels), bool)
        self._masks = [(everywhere, polygon) for polygon in self._polygons(objects.mask, "objects.mask")]
        for label, one in objects.filters.items():
            classes = np.array([label == name for name in labels])
            self._masks += [(classes, polygon) for polygon in self._polygons(one.mask, f"objects.filters.{label}.mask")]

    def keep(self, detections: Detections) -> Detections:
        """Return the detections, in pixels of the picture, that pass all tests of their class."""
        class_id = detections.class_id
        x1, y1, x2, y2 = detections.xyxy.astype(np.float64).T
        width, height = np.maximum(x2 - x1, 0), np.maximum(y2 - y1, 0)
        kept = self._tracked[class_id] & (detections.confidence >= self._min_score[class_id])
        kept &= _within(width * height, self._area[class_id])
        kept &= _within(width / np.maximum(height, 1e-9), self._ratio[class_id])
        feet_xy = np.stack([(x1 + x2) / 2, y2], axis=1) / self._size_wh
        for classes, polygon_xy in self._masks:
            kept &= ~(classes[class_id] & contains(polygon_xy, feet_xy))
        return detections[kept]

    def threshold_of(self, class_id: int) -> float:
        """Return what the median of an object's scores must reach before it counts."""
        return self._thresholds[class_id]

    def _areas(self, one: FilterConfig, label: str) -> tuple[float, float]:
        """Return the lowest and the highest area in pixels."""
        picture = self._size_wh[0] * self._size_wh[1]
        low, high = (limit * picture if limit < 1 else limit for limit in (one.min_area, _limit(one.max_area)))
        if low > high:
            raise ConfigError(
                f"objects.filters.{label}: of a picture of {self._size_wh[0]}x{self._size_wh[1]}, "
                f"min_area is {low:g} pixels, above max_area, {high:g}"
            )
        return low, high

    def _polygons(self, mask: Sequence[Points], path: str) -> list[npt.NDArray[np.float64]]:
        return [to_fractions(points, self._size_wh, f"{path}.{number}") for number, points in enumerate(mask)]


def _limit(value: float | None) -> float:
    return np.inf if value is None else value


def _within(values: npt.NDArray[np.float64], limits: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return (N,) whether values (N,) are within limits (N, 2)."""
    return np.asarray((values >= limits[:, 0]) & (values <= limits[:, 1]), bool)
