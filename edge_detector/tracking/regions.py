"""Regions: which part of the picture to search enlarged, where objects would be too small on the whole."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from edge_detector.object_config import RegionsConfig

Floats = npt.NDArray[np.float64]
Region = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the picture

SMALL_PX = 64  # height on the model's canvas below which an object gains by being enlarged
_REMEMBERED = 32  # regions that are known to have been searched
_EDGE = 0.015  # part of a region's side; what reaches so near to an edge within the picture may be cut there


class Regions:
    """Takes turns between the whole picture and enlarged parts of it, those that waited longest first."""

    def __init__(self, settings: RegionsConfig, canvas_wh: tuple[int, int]) -> None:
        """Begin with the whole picture; `canvas_wh` is the size of the model's input in pixels."""
        self._settings = settings
        self._canvas_wh = canvas_wh
        self._turn = 0
        self._enlarged: deque[tuple[Floats, float]] = deque(maxlen=_REMEMBERED)

    def propose(self, targets_xyxy: Floats, size_wh: tuple[int, int]) -> Region | None:
        """Return the part of a picture of `size_wh` pixels that should be searched now, or None for the whole.

        `targets_xyxy` (N, 4) are objects and what moves, in fractions of the picture.
        """
        if not self._settings.enabled or self._settings.zoom == 1 or self._turn % self._settings.whole_every == 0:
            return None
        side = 1 / self._settings.zoom
        extent = targets_xyxy[:, 2:] - targets_xyxy[:, :2]
        scale = min(self._canvas_wh[0] / size_wh[0], self._canvas_wh[1] / size_wh[1])
        small = (extent[:, 1] * size_wh[1] * scale < SMALL_PX) & np.all(extent < 0.8 * side, axis=1)
        middle = (targets_xyxy[:, :2] + targets_xyxy[:, 2:]) / 2
        small &= np.all((middle >= 0) & (middle < 1), axis=1)
        if not small.any():
            return None
        corner = self._corner(np.clip(targets_xyxy[small], 0, 1), side)
        x1, y1 = (round(value * length) for value, length in zip(corner.tolist(), size_wh, strict=True))
        width, height = (max(1, round(side * length)) for length in size_wh)
        return x1, y1, min(size_wh[0], x1 + width), min(size_wh[1], y1 + height)

    def searched(self, region: Region | None, size_wh: tuple[int, int], at_s: float) -> None:
        """Note what is searched of the picture of `at_s`; the next proposal is another one."""
        self._turn += 1
        if region is not None:
            x1, y1, x2, y2 = region
            rounded = np.array([x1 - 1, y1 - 1, x2 + 1, y2 + 1])  # a target may end within the last pixel
            self._enlarged.append((rounded / np.tile(size_wh, 2), at_s))

    def _corner(self, targets: Floats, side: float) -> Floats:
        """Return the upper left corner of the region: around the target that waited longest, with most others in it."""
        centres = (targets[:, :2] + targets[:, 2:]) / 2
        waiting_since = np.full(len(targets), -np.inf)
        for region, at_s in self._enlarged:
            held = np.all((targets[:, :2] >= region[:2]) & (targets[:, 2:] <= region[2:]), axis=1)
            waiting_since[held] = at_s
        first = int(np.argmin(waiting_since))
        corners = np.clip((centres[first] + centres) / 2 - side / 2, 0, 1 - side)
        holds = np.all(
            (targets[np.newaxis, :, :2] >= corners[:, np.newaxis])
            & (targets[np.newaxis, :, 2:] <= corners[:, np.newaxis] + side),
            axis=2,
        )
        holds[~holds[:, first]] = False
        if not holds.any():
            return np.asarray(np.clip(centres[first] - side / 2, 0, 1 - side), np.float64)
        return np.asarray(corners[int(np.argmax(holds.sum(axis=1)))], np.float64)


def whole_in(region: Region, size_wh: tuple[int, int], xyxy: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Return (N,) whether boxes (N, 4), in pixels of the picture, are not cut by the region's edges."""
    x1, y1, x2, y2 = region
    margin = _EDGE * max(x2 - x1, y2 - y1)
    low = [-np.inf if edge <= 0 else edge + margin for edge in (x1, y1)]
    high = [np.inf if edge >= side else edge - margin for edge, side in zip((x2, y2), size_wh, strict=True)]
    return np.asarray(np.all((xyxy[:, :2] > low) & (xyxy[:, 2:] < high), axis=1), bool)
