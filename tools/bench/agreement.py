"""Whether two ways find the same: only then do their times compare.

What is asked of a contender, and why:

- It has at least 90 of 100 of our confident detections (0.5 or more): a box of the same class with an IoU of 0.5 or
  more, each of its boxes used once. The partner may have any score that it reports at the common threshold of 0.4:
  resizing another way moves scores by a few hundredths, and a pair at 0.51 and 0.49 is the same find.
- Of its own confident detections (0.5 or more) at most 10 per 100 have no partner of ours at 0.2 or more, each of ours
  used once: duplicates that its NMS should have taken away count against it, a score that we rate lower does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from edge_detector.postprocess.boxes import pairwise_iou

CONFIDENT, REPORTED, WEAK, SAME_IOU = 0.5, 0.4, 0.2, 0.5
SHARE_AT_LEAST, EXTRA_AT_MOST = 0.9, 10.0


@dataclass(frozen=True)
class Agreement:
    """How much of the reference a contender has, and what it has beyond.

    Attributes:
        share: of the reference's confident detections, 0..1.
        extra: of 100 confident detections of its own, those that the reference does not have.
    """

    share: float
    extra: float

    @property
    def reason(self) -> str:
        """Why times do not compare; empty if they do."""
        if self.share < SHARE_AT_LEAST:
            return f"finds {self.share:.0%} of the reference's detections, {SHARE_AT_LEAST:.0%} are needed"
        if self.extra > EXTRA_AT_MOST:
            return f"{self.extra:.0f} of 100 of its detections are not the reference's, {EXTRA_AT_MOST:.0f} are allowed"
        return ""


def compare_detections(reference: Sequence[Detections], found: Sequence[Detections]) -> Agreement:
    """Compare per picture; `reference` reaches down to `WEAK`, `found` to `REPORTED`."""
    had = wanted = beyond = own = 0
    for ours, theirs in zip(reference, found, strict=True):
        confident = ours[ours.confidence >= CONFIDENT]
        had += int(partnered(confident, theirs).sum())
        wanted += len(confident)
        claimed = theirs[theirs.confidence >= CONFIDENT]
        beyond += int((~partnered(claimed, ours)).sum())
        own += len(claimed)
    return Agreement(had / wanted if wanted else 1.0, 100 * beyond / own if own else 0.0)


def partnered(first: Detections, second: Detections) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each of `first` has a partner in `second`: best pairs first, each box used once."""
    iou = pairwise_iou(first.xyxy, second.xyxy)
    iou = np.where(first.class_id[:, None] == second.class_id, iou, 0)
    has = np.zeros(len(first), np.bool_)
    while iou.size and iou.max() >= SAME_IOU:
        mine, other = np.unravel_index(iou.argmax(), iou.shape)
        has[mine] = True
        iou[mine] = iou[:, other] = 0
    return has
