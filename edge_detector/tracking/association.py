"""Which detection belongs to which object: pairs of least total cost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def match(cost: Floats, limit: float) -> tuple[Indices, Indices]:
    """Return rows and columns of the pairs of least total cost, each used once; a pair costs less than `limit`.

    The Hungarian method, by shortest augmenting paths (Jonker and Volgenant 1987): a row without a partner costs
    `limit`. scipy has it too, for 114 MB of disk and 30 MB of memory.
    """
    able = np.flatnonzero((cost < limit).any(axis=1))
    if not len(able):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    count, width = len(able), cost.shape[1]
    # Behind the real columns one for each row, for staying alone; what is forbidden costs more than all that is not.
    forbidden = 2 * limit * (count + 1)
    table = np.full((count, width + count), forbidden)
    table[:, :width] = np.where(cost[able] < limit, cost[able], forbidden)
    table[np.arange(count), width + np.arange(count)] = limit
    row_of = _assign(table)
    columns = np.flatnonzero(row_of[:width] >= 0)
    rows = row_of[columns]
    paired = table[rows, columns] < limit
    return able[rows[paired]], columns[paired]


def _assign(cost: Floats) -> Indices:
    """Return for each of M columns the row that it is given to, or -1; `cost` is (N, M) with N <= M."""
    height, width = cost.shape
    row_of = np.full(width, -1, np.intp)
    row_price, column_price = np.zeros(height), np.zeros(width)
    for first in range(height):
        row, least = first, np.full(width, np.inf)
        came_from, done = np.full(width, -1, np.intp), np.zeros(width, bool)
        reached = -1
        while row >= 0:
            reduced = cost[row] - row_price[row] - column_price
            nearer = ~done & (reduced < least)
            least[nearer], came_from[nearer] = reduced[nearer], reached
            column = int(np.argmin(np.where(done, np.inf, least)))
            step = least[column]
            tree = np.append(row_of[done], first)
            row_price[tree] += step
            column_price[done] -= step
            least[~done] -= step
            done[column], reached, row = True, column, int(row_of[column])
        while reached >= 0:
            before = int(came_from[reached])
            row_of[reached] = row_of[before] if before >= 0 else first
            reached = before
    return row_of


def iou_matrix(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Floats:
    """Return intersection over union (N, M) of boxes (N, 4) and (M, 4), x1, y1, x2, y2."""
    low = np.maximum(first[:, np.newaxis, :2], second[np.newaxis, :, :2])
    high = np.minimum(first[:, np.newaxis, 2:], second[np.newaxis, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2, dtype=np.float64)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64) for boxes in (first, second)]
    union = areas[0][:, np.newaxis] + areas[1][np.newaxis] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float64)
