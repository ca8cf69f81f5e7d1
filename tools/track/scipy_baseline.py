"""A yardstick: constant-velocity Kalman filters in seconds and ByteTrack's two stages, with optimal or greedy pairs.

Y. Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022. Instead of the IoU,
which is 0 between two looks at a walking person at 1 Hz, pairs have the negative log likelihood of the filter.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections

Floats = npt.NDArray[np.float64]

SIGMA_MEASURED = 0.05  # of the box's own width and height
SIGMA_START_SPEED = 1.0  # heights per second
SIGMA_ACCELERATION = 1.0  # heights per second squared
GATE = 16.92  # chi-square, 4 degrees of freedom: one true pair in 500 is refused
ALONE = 30.0  # cost of a track and a detection without a partner


class Baseline:
    """Tracks with every state in arrays: centre x, centre y, width, height, each with its speed."""

    def __init__(self, high: float = 0.4, min_hits: int = 2, lost_s: float = 2.0, greedy: bool = False) -> None:
        self._high, self._min_hits, self._lost_s = high, min_hits, lost_s
        self._assign = _greedy if greedy else import_module("scipy.optimize").linear_sum_assignment
        self._state = np.zeros((0, 4, 2))
        self._cov = np.zeros((0, 4, 2, 2))
        self._ids = np.zeros(0, np.int64)
        self._hits = np.zeros(0, np.int64)
        self._seen_s = np.zeros(0)
        self._at_s = 0.0
        self._next_id = 1

    def update(self, detections: Detections, at_s: float) -> None:
        """Associate the detections of one moment, in seconds."""
        self._predict(at_s - self._at_s)
        self._at_s = at_s
        measured = _measured(detections.xyxy.astype(np.float64))
        high = detections.confidence >= self._high
        free_tracks, free = np.arange(len(self._ids)), np.flatnonzero(high)
        used_tracks, used = self._associate(free_tracks, measured, free)
        free_tracks, new = np.setdiff1d(free_tracks, used_tracks), np.setdiff1d(free, used)
        self._associate(free_tracks, measured, np.flatnonzero(~high))
        unseen_s = at_s - self._seen_s
        self._keep((unseen_s == 0) | (self._hits >= self._min_hits) & (unseen_s <= self._lost_s))
        self._start(measured[new])

    def objects(self, at_s: float) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Return the (N, 4) boxes of confirmed tracks carried on to `at_s`, and their (N,) ids."""
        shown = self._hits >= self._min_hits
        carried = self._state[shown, :, 0] + (at_s - self._at_s) * self._state[shown, :, 1]
        half = np.maximum(carried[:, 2:], 1) / 2
        return np.concatenate([carried[:, :2] - half, carried[:, :2] + half], axis=1), self._ids[shown]

    def _predict(self, step_s: float) -> None:
        carry = np.array([[1.0, step_s], [0.0, 1.0]])
        noise = np.array([[step_s**4 / 4, step_s**3 / 2], [step_s**3 / 2, step_s**2]])  # white acceleration
        acceleration = (SIGMA_ACCELERATION * self._state[:, 3, 0])[:, None] * np.array([1.0, 0.5, 0.25, 0.5])
        self._cov = carry @ self._cov @ carry.T + noise * acceleration[..., None, None] ** 2
        self._state = self._state @ carry.T

    def _associate(
        self, tracks: npt.NDArray[Any], measured: Floats, picked: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Correct the `tracks` with the picked rows of `measured` and return the pairs."""
        error = measured[None, picked] - self._state[tracks, None, :, 0]
        variance = self._cov[tracks, None, :, 0, 0] + _noise(measured[None, picked])
        distance = (error**2 / variance).sum(axis=2)
        cost = distance + np.log(variance / _noise(measured[None, picked])).sum(axis=2)
        cost = np.where(distance < GATE, np.minimum(cost, ALONE), ALONE)
        rows, columns = self._assign(cost)
        rows, columns = (side[cost[rows, columns] < ALONE] for side in (rows, columns))
        at, to = tracks[rows], picked[columns]
        gain = self._cov[at, :, :, 0] / variance[rows, columns, :, None]
        self._state[at] += gain * error[rows, columns, :, None]
        self._cov[at] -= gain[..., :, None] * self._cov[at, :, None, 0, :]
        self._hits[at] += 1
        self._seen_s[at] = self._at_s
        return at, to

    def _keep(self, alive: npt.NDArray[np.bool_]) -> None:
        self._state, self._cov, self._ids = self._state[alive], self._cov[alive], self._ids[alive]
        self._hits, self._seen_s = self._hits[alive], self._seen_s[alive]

    def _start(self, measured: Floats) -> None:
        count = len(measured)
        speed = SIGMA_START_SPEED * measured[:, 3:] * np.array([1.0, 0.3, 0.1, 0.25])
        cov = np.zeros((count, 4, 2, 2))
        cov[..., 0, 0], cov[..., 1, 1] = _noise(measured), speed**2
        self._state = np.concatenate([self._state, np.stack([measured, np.zeros_like(measured)], axis=2)])
        self._cov = np.concatenate([self._cov, cov])
        self._ids = np.concatenate([self._ids, np.arange(self._next_id, self._next_id + count)])
        self._hits = np.concatenate([self._hits, np.ones(count, np.int64)])
        self._seen_s = np.concatenate([self._seen_s, np.full(count, self._at_s)])
        self._next_id += count


def _measured(xyxy: Floats) -> Floats:
    return np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def _noise(measured: Floats) -> Floats:
    return (SIGMA_MEASURED * np.maximum(measured[..., [2, 3, 2, 3]], 4)) ** 2


def _greedy(cost: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return pairs, each the cheapest of those that are left."""
    left, rows, columns = cost.copy(), [], []
    for _ in range(min(cost.shape)):
        row, column = np.unravel_index(int(np.argmin(left)), cost.shape)
        left[row], left[:, column] = np.inf, np.inf
        rows.append(row)
        columns.append(column)
    return np.array(rows, np.int64), np.array(columns, np.int64)
