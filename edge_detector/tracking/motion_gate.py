"""MotionGate: whether anything moves in front of a camera that stands still, and where."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.tracking.flow import Luma

Floats = npt.NDArray[np.float32]
Marks = npt.NDArray[np.uint8]
_SIDE = 160  # longer side of what is compared, pixels
_SETTLES_S = 6.0  # what stays so long becomes background,
_MOVING_SETTLES_S = 25.0  # what goes on moving needs longer,
_STOPPED_SETTLES_S = 4.0  # and what came and stands still now, or was never there, less
_NOISE_SETTLES_S = 4.0
_NOISE_FACTOR = 4.0  # a pixel moves if it changes by so many times its usual change
_NOISE_LEARNED = 1.5  # a speck that changes by more than so many times its limit is learned as if by that much
_OTHER_SCENE = 0.35  # part of the picture that no object covers at once: the light has changed, or the camera turned
_WHITE = 253.0
_LEAST_SPREAD = 12.0  # between the quartiles of brightness, to tell contrast by
_LARGE = 8.0  # times the least area: counts at once
_LASTING = 0.8  # of its area must have been there in the picture before, unless it is large
_EARLIER_S = 0.5  # what has not changed for so long stands still
_LEARNS_S = 2.0  # after that, the background is learned anew for so long
_OPENING = cv2.getStructuringElement(cv2.MORPH_RECT, (2, 2))
_JOINING = cv2.getStructuringElement(cv2.MORPH_RECT, (5, 5))


@dataclass(frozen=True, slots=True, eq=False)
class Movement:
    """What moves in a picture.

    Attributes:
        xyxy: (N, 4) boxes around what moves, in fractions of the picture's width and height.
        new_scene: whether the whole picture changed at once.
    """

    xyxy: npt.NDArray[np.float64]
    new_scene: bool = False

    def __bool__(self) -> bool:
        return self.new_scene or len(self.xyxy) > 0


class MotionGate:
    """Compares small luma pictures with what the scene usually looks like. Used by one thread only.

    Light that changes everywhere alike is taken out before; how much each pixel changes anyway (noise, rain, leaves,
    flicker) is learned; specks do not count.
    """

    def __init__(
        self, threshold: int = 15, min_area: float = 0.0002, mask: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Begin with the next picture.

        Args:
            threshold: least change of brightness that counts, of 255.
            min_area: least part of the picture that must move at one place.
            mask: (H, W) of any size; where it is set nothing counts.
        """
        self._threshold = float(threshold)
        self._min_area = min_area
        self._mask = mask
        self._background: Floats | None = None
        self._noise: Floats = np.zeros((0, 0), np.float32)
        self._seen: Marks = np.zeros((0, 0), np.uint8)
        self._moved: Marks = np.zeros((0, 0), np.uint8)
        self._earlier: deque[tuple[float, Floats]] = deque(maxlen=3)  # pictures, the oldest about `_EARLIER_S` old
        self._at_s = 0.0
        self._learning_until_s = 0.0

    def look(self, luma: Luma, at_s: float) -> Movement:
        """Return what moves in the picture `luma`, taken at `at_s` seconds; the first picture is a new scene."""
        small = _small(luma)
        if self._background is None or small.shape != self._background.shape:
            self._begin(small, at_s)
            return Movement(np.zeros((0, 4)), new_scene=True)
        dt_s, self._at_s = max(0.0, at_s - self._at_s), at_s
        usual = _in_light_of(self._background, small)
        change = np.abs(small - np.clip(usual, 0, _WHITE))
        limit = self._limit()
        moving = (change > limit).astype(np.uint8) & self._seen
        moving = np.asarray(cv2.morphologyEx(moving, cv2.MORPH_OPEN, _OPENING), np.uint8)
        if cv2.countNonZero(moving) > _OTHER_SCENE * moving.size:
            self._begin(small, at_s)
            self._learning_until_s = at_s + _LEARNS_S
            return Movement(np.zeros((0, 4)), new_scene=True)
        active = (np.abs(small - self._earlier[0][1]) > limit).astype(np.uint8)
        boxes = self._boxes(moving, active)
        self._learn(small, usual, change, moving, active, dt_s)
        return Movement(boxes)

    def _begin(self, small: Floats, at_s: float) -> None:
        if self._background is None or small.shape != self._background.shape:
            self._noise = np.zeros_like(small)
            self._moved = np.zeros(small.shape, np.uint8)
            self._seen = np.ones(small.shape, np.uint8)
            if self._mask is not None:
                masked = cv2.resize(self._mask.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
                self._seen[masked > 0] = 0
        self._background = small
        self._earlier.clear()
        self._earlier.append((at_s, small))
        self._at_s = at_s

    def _limit(self) -> Floats:
        return np.asarray(np.maximum(self._noise * _NOISE_FACTOR, self._threshold), np.float32)

    def _learn(self, small: Floats, usual: Floats, change: Floats, moving: Marks, active: Marks, dt_s: float) -> None:
        pace = np.float32(1 - np.exp(-dt_s / _SETTLES_S))
        moving_pace = np.float32(1 - np.exp(-dt_s / _MOVING_SETTLES_S))
        stopped_pace = np.float32(1 - np.exp(-dt_s / _STOPPED_SETTLES_S))
        if self._at_s < self._learning_until_s:
            pace = moving_pace = stopped_pace = np.float32(1 - np.exp(-dt_s / (_LEARNS_S / 4)))
        paces = np.where(moving > 0, np.where(active > 0, moving_pace, stopped_pace), pace)
        paces[(small >= _WHITE) & (usual >= _WHITE)] = 0  # how bright it would be in less light is known better
        self._background = usual + paces * (small - usual)
        noise_pace = np.float32(1 - np.exp(-dt_s / _NOISE_SETTLES_S))
        learned = np.minimum(change, self._limit() * _NOISE_LEARNED)
        # What moves is learned only as it begins to: a passer-by does so once, what flickers again and again.
        learned = np.where((moving > 0) & (self._moved > 0), self._noise, learned)
        self._noise += noise_pace * (learned - self._noise)
        self._moved = moving
        if self._at_s - self._earlier[-1][0] >= _EARLIER_S / 2:
            self._earlier.append((self._at_s, small))

    def _boxes(self, moving: Marks, active: Marks) -> npt.NDArray[np.float64]:
        """Return what differs from the background, did so before unless it is large, and goes on moving."""
        if not cv2.countNonZero(moving):
            return np.zeros((0, 4))
        joined = cv2.dilate(moving, _JOINING)
        _, areas_of, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
        solid = np.bincount(areas_of[moving > 0], minlength=len(stats))
        height, width = moving.shape
        least = max(4.0, self._min_area * moving.size)
        lasting = np.bincount(areas_of[self._moved > 0], minlength=len(stats))
        changing = np.bincount(areas_of[(active & moving) > 0], minlength=len(stats))
        counts = (solid >= least) & (changing > 0) & ((lasting >= _LASTING * solid) | (solid >= _LARGE * least))
        kept = stats[1:][counts[1:]]
        corners = np.concatenate([kept[:, :2], kept[:, :2] + kept[:, 2:4]], axis=1)
        return corners / np.array([width, height, width, height], np.float64)


def _small(luma: Luma) -> Floats:
    scale = min(1.0, _SIDE / max(luma.shape))
    size_wh = max(1, round(luma.shape[1] * scale)), max(1, round(luma.shape[0] * scale))
    return cv2.resize(luma, size_wh, interpolation=cv2.INTER_AREA).astype(np.float32)


def _in_light_of(background: Floats, picture: Floats) -> Floats:
    """Return the background as bright and as rich in contrast as the picture is, by the quartiles of some pixels."""
    quartiles = [np.percentile(values[::3, ::3], (25, 50, 75)) for values in (background, picture)]
    (low, middle, high), (low_now, middle_now, high_now) = quartiles
    known = min(high - low, high_now - low_now) >= _LEAST_SPREAD  # else the ratio is one of mere noise
    gain = np.float32(np.clip((high_now - low_now) / (high - low), 0.5, 2.0) if known else 1.0)
    return np.asarray((background - np.float32(middle)) * gain + np.float32(middle_now), np.float32)
