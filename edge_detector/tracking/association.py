"""Which detection belongs to which object: pairs of least total cost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def match(cost: npt.NDArray[np.float64], limit: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the pairs, each used once; a pair costs less than `limit`.

    Cheapest first; then pairs exchange partners as long as that lowers the sum: within the small groups in which
    objects compete for detections this finds the optimum, for a fraction of the Hungarian method's price.
    """
    rows, columns = np.nonzero(cost < limit)
    order = np.argsort(cost[rows, columns], kind="stable")
    partner: dict[int, int] = {}
    taken: dict[int, int] = {}
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in partner and column not in taken:
            partner[row], taken[column] = column, row
    capped = np.minimum(cost, limit)
    better = True
    while better:
        better = False
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            mine, other = partner.get(row), taken.get(column)
            if mine == column:
                continue
            # Row takes the column; the other row takes what row had, if that is worth anything, else nothing.
            before = (limit if mine is None else capped[row, mine]) + (
                limit if other is None else capped[other, column]
            )
            swap = limit if other is None or mine is None else capped[other, mine]
            if cost[row, column] + (swap if other is not None else limit) < before - 1e-9:
                better = True
                if mine is not None:
                    del taken[mine]
                partner[row], taken[column] = column, row
                if other is not None:
                    del partner[other]
                    if mine is not None and swap < limit:
                        partner[other], taken[mine] = mine, other
    return np.array(list(partner), np.intp), np.array(list(partner.values()), np.intp)


def iou_matrix(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return intersection over union (N, M) of boxes (N, 4) and (M, 4), x1, y1, x2, y2."""
    low = np.maximum(first[:, np.newaxis, :2], second[np.newaxis, :, :2])
    high = np.minimum(first[:, np.newaxis, 2:], second[np.newaxis, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2, dtype=np.float64)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64) for boxes in (first, second)]
    union = areas[0][:, np.newaxis] + areas[1][np.newaxis] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float64)
