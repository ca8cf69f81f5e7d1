"""How far objects moved between two pictures: optical flow on a small luma picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.resize import resize

Luma = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

LUMA_SIDE = 320  # longer side of the small picture, pixels
MAX_OBJECTS = 64  # of more, the rest is left to their speeds: the time per picture stays bounded
_GRID_XY = (4, 6)  # points per object
_INNER = 0.3  # half of the part of a box that they lie in: its rim shows the background
_WINDOW = (9, 9)
_LEVELS = 3
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 12, 0.03)
_RETURN_PX = 0.7  # a point that goes there and back must come back so near
_LEAST_POINTS = 5
_TEXTURE = 1e-3  # least eigenvalue; below it there is nothing to hold on to


def to_luma(image: npt.NDArray[np.uint8]) -> Luma:
    """Return the picture (H, W, 3) RGB as luma, its longer side `LUMA_SIDE` pixels at most."""
    height, width = image.shape[:2]
    scale = min(1.0, LUMA_SIDE / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.cvtColor(resize(image, size_wh), cv2.COLOR_RGB2GRAY), np.uint8)


def displacements(before: Luma, now: Luma, xyxy: Floats, expected_xy: Floats) -> Floats:
    """Return how far objects moved, (N, 2) in pixels of the luma picture; NaN where that cannot be told.

    Args:
        before: the earlier picture.
        now: the later one, of the same size.
        xyxy: (N, 4) boxes in `before`, in its pixels.
        expected_xy: (N, 2) how far each probably moved.
    """
    moved = np.full((len(xyxy), 2), np.nan)
    points, owner = _points(xyxy[:MAX_OBJECTS], before.shape[1::-1])
    if not len(points):
        return moved
    there = _follow(before, now, points, points + expected_xy[owner])
    back = _follow(now, before, there, points)
    with np.errstate(invalid="ignore"):
        good = np.square(back - points).sum(axis=1) < _RETURN_PX**2
    shift_xy = there - points
    for index in np.flatnonzero(np.bincount(owner[good], minlength=len(xyxy)) >= _LEAST_POINTS).tolist():
        moved[index] = np.median(shift_xy[good & (owner == index)], axis=0)
    return moved


def _follow(before: Luma, now: Luma, points: Floats, guess: Floats) -> Floats:
    """Return where points (P, 2) of `before` are in `now`; NaN where they are lost (Lucas-Kanade, in pyramids)."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        before,
        now,
        points.astype(np.float32).reshape(-1, 1, 2),
        guess.astype(np.float32).reshape(-1, 1, 2),
        winSize=_WINDOW,
        maxLevel=_LEVELS,
        criteria=_CRITERIA,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        minEigThreshold=_TEXTURE,
    )
    return np.where(found > 0, there.reshape(-1, 2), np.nan).astype(np.float64)


def _points(xyxy: Floats, size_wh: tuple[int, ...]) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return points (P, 2) that show the objects, and the box that each belongs to.

    They lie in the inner parts of the boxes. Of two that overlap, the one that reaches lower stands in front: there the
    other one is not seen.
    """
    columns, rows = np.meshgrid(np.linspace(-_INNER, _INNER, _GRID_XY[0]), np.linspace(-_INNER, _INNER, _GRID_XY[1]))
    grid = np.stack([columns.ravel(), rows.ravel()], axis=1)
    centre, sides = (xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]
    points = (centre[:, np.newaxis] + grid * sides[:, np.newaxis]).reshape(-1, 2)
    owner = np.repeat(np.arange(len(xyxy)), len(grid))
    inside = np.all((points >= 1) & (points < np.array(size_wh) - 1), axis=1)
    covered = np.all((points[:, np.newaxis] > xyxy[:, :2]) & (points[:, np.newaxis] < xyxy[:, 2:]), axis=2)
    hidden = np.any(covered & (xyxy[owner, 3][:, np.newaxis] < xyxy[:, 3]), axis=1)
    return points[inside & ~hidden], owner[inside & ~hidden]
