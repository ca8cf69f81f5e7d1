"""Class-aware greedy non-maximum suppression (NMS), and box voting after it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_detector.postprocess.boxes import pairwise_iou

_BLOCK = 128  # candidates per step: small enough that a step's IoU matrix stays in the cache


def suppress(
    xyxy: npt.NDArray[np.float32],
    class_id: npt.NDArray[np.int64],
    iou_threshold: float,
    max_kept: int,
) -> npt.NDArray[np.intp]:
    """Return the indices of the boxes to keep, ascending, at most `max_kept`.

    A box goes if its IoU with a better kept box of its class exceeds the threshold: the greedy algorithm, exactly.

    Args:
        xyxy: (N, 4) in descending order of confidence, any unit, not NaN.
        class_id: (N,)
        iou_threshold: 0..1.
        max_kept: the best so many are enough.
    """

    def overlaps(first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        same_class = np.equal(class_id[first][:, None], class_id[second])
        return same_class & np.greater(pairwise_iou(xyxy[first], xyxy[second]), iou_threshold)

    kept = np.zeros(0, np.intp)
    for start in range(0, len(xyxy), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(xyxy)))
        block = block[~overlaps(kept, block).any(axis=0)]
        kept = np.concatenate([kept, block[_greedy(np.triu(overlaps(block, block), k=1))]])
        if len(kept) >= max_kept:
            break
    return kept[:max_kept]


def vote(
    xyxy: npt.NDArray[np.float32],
    class_id: npt.NDArray[np.int64],
    confidence: npt.NDArray[np.float32],
    kept: npt.NDArray[np.intp],
    iou_threshold: float,
) -> npt.NDArray[np.float32]:
    """Return the kept boxes (K, 4), each the mean of those of its class that overlap it, weighted by confidence.

    What NMS takes away saw the same object from other anchors: together they know its edges better than the best one.
    Source: bounding box voting, Gidaris and Komodakis 2015.

    Args:
        xyxy: (N, 4) any unit, not NaN.
        class_id: (N,)
        confidence: (N,) 0..1.
        kept: indices of those that stay.
        iou_threshold: 0..1; who overlaps by more has a vote, and the kept box itself.
    """
    votes = np.greater(pairwise_iou(xyxy[kept], xyxy), iou_threshold) & np.equal(class_id[kept][:, None], class_id)
    votes[np.arange(len(kept)), kept] = True
    # Sums over the few that vote. A matrix product would do, but after a large one BLAS's threads spin for a while, and
    # the next inference takes up to twice as long.
    voter_of, voter = np.nonzero(votes)
    weight = np.maximum(confidence[voter], np.finfo(np.float32).tiny)[:, None]
    first = np.searchsorted(voter_of, np.arange(len(kept)))
    return np.divide(np.add.reduceat(weight * xyxy[voter], first), np.add.reduceat(weight, first), dtype=np.float32)


def _greedy(overlaps: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which of N boxes the greedy algorithm keeps, given overlaps[i, j] of box i with each worse box j.

    Each round applies the rule "kept if no kept better box overlaps" to all at once. After round n the first n are
    final, so it ends; in practice after as many rounds as the longest chain of suppressions, three or four.
    """
    kept: npt.NDArray[np.bool_] = np.ones(len(overlaps), np.bool_)
    while True:
        revised = np.logical_not(overlaps[kept].any(axis=0))
        if np.array_equal(revised, kept):
            return kept
        kept = revised
