"""Optimal assignment without scipy, so that the metrics run wherever NumPy does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def assign(cost: npt.NDArray[np.float64]) -> tuple[Ints, Ints]:
    """Return the rows and columns of the cheapest pairs, min(N, M) of them, of finite costs (N, M).

    Shortest augmenting paths: R. Jonker, A. Volgenant, "A shortest augmenting path algorithm for dense and sparse
    linear assignment problems", Computing 38, 1987.
    """
    if cost.shape[0] > cost.shape[1]:
        columns, rows = assign(cost.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    count, width = cost.shape
    row_price, column_price = np.zeros(count), np.zeros(width)
    owner = np.full(width, -1)  # the row that has the column
    for start in range(count):
        reach, before = np.full(width, np.inf), np.full(width, -1)
        done = np.zeros(width, np.bool_)
        row, column, distance = start, -1, 0.0
        visited = []
        while row >= 0:
            through = distance + cost[row] - row_price[row] - column_price
            better = ~done & (through < reach)
            reach[better], before[better] = through[better], column
            column = int(np.argmin(np.where(done, np.inf, reach)))
            distance, row = float(reach[column]), int(owner[column])
            done[column] = True
            visited.append(column)
        row_price[start] += distance
        for passed in visited[:-1]:
            row_price[owner[passed]] += distance - reach[passed]
            column_price[passed] -= distance - reach[passed]
        while column >= 0:
            previous = int(before[column])
            owner[column] = start if previous < 0 else owner[previous]
            column = previous
    columns = np.flatnonzero(owner >= 0)
    order = np.argsort(owner[columns])
    return owner[columns][order], columns[order]


def match(similarity: npt.NDArray[np.float64], least: float) -> tuple[Ints, Ints]:
    """Return as many pairs of `similarity` (N, M) >= `least` as can be, and of those the most similar ones."""
    allowed = similarity >= least
    if not allowed.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if allowed.sum(axis=0).max() == 1 and allowed.sum(axis=1).max() == 1:
        rows, columns = np.nonzero(allowed)
        return rows, columns
    rows, columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    part = similarity[np.ix_(rows, columns)]
    forbidden = (1 + np.abs(part).max()) * 2 * max(part.shape)  # dearer than any number of allowed pairs
    at, to = assign(np.where(part >= least, -part, forbidden))
    good = part[at, to] >= least
    return rows[at[good]], columns[to[good]]
