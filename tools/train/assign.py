"""ATSS: which anchors learn which object (Zhang et al. 2020, "Bridging the Gap", algorithm 1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_detector.postprocess.boxes import pairwise_iou

BACKGROUND, IGNORED = -1, -2


class AtssAssigner:
    """Assigns objects to the anchors of one canvas size."""

    def __init__(self, anchors_xyxy: npt.NDArray[np.float32], level_counts: tuple[int, ...], candidates: int) -> None:
        """Take anchors (A, 4) in canvas pixels, their number per level, and how many per level may learn an object."""
        self.anchors = anchors_xyxy
        self.centres = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2
        self.starts = np.cumsum([0, *level_counts])
        self.candidates = candidates

    def __call__(
        self, boxes: npt.NDArray[np.float32], classes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return per anchor the class (or BACKGROUND, IGNORED) and the box to learn, canvas pixels x1, y1, x2, y2."""
        labels = np.full(len(self.anchors), BACKGROUND, np.int64)
        targets = np.zeros_like(self.anchors)
        for area in boxes[classes == -1]:
            labels[((self.centres > area[:2]) & (self.centres < area[2:])).all(1)] = IGNORED
        real, names = boxes[classes >= 0], classes[classes >= 0]
        if not len(real):
            return labels, targets
        chosen = np.concatenate([self._nearest(real, level) for level in range(len(self.starts) - 1)], 1)
        best = np.zeros(len(self.anchors), np.float32)
        for box, name, anchors in zip(real, names, chosen, strict=True):
            iou = pairwise_iou(self.anchors[anchors], box[None])[:, 0]
            inside = ((self.centres[anchors] > box[:2]) & (self.centres[anchors] < box[2:])).all(1)
            learns = inside & (iou >= iou.mean() + iou.std()) & (iou > best[anchors])
            if not learns.any():  # an object smaller than any cell still gets its nearest shape
                learns = (iou == iou.max()) & (iou > best[anchors])
            best[anchors[learns]] = iou[learns]
            labels[anchors[learns]] = name
            targets[anchors[learns]] = box
        return labels, targets

    def _nearest(self, boxes: npt.NDArray[np.float32], level: int) -> npt.NDArray[np.int64]:
        start, stop = self.starts[level], self.starts[level + 1]
        centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
        distance = ((self.centres[None, start:stop] - centres) ** 2).sum(2)
        count = min(self.candidates, stop - start)
        nearest: npt.NDArray[np.int64] = np.argpartition(distance, count - 1, 1)[:, :count] + start
        return nearest
