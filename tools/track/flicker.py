"""Flicker: how steadily what is shown is there, and what steadiness costs.

The parts - fragments, and errors of place and size that change from frame to frame - are those of H. Zhang, N. Wang,
"On The Stability of Video Detection and Tracking", arXiv:1611.06467. What is shown too late, too long or never is
counted beside them, because hiding and holding on are the cheap ways to be steady.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_detector.detections import Detections
from tools.track.assignment import match
from tools.track.chains import LINK_IOU, Chain, Reference, link, reference
from tools.track.metrics import iou_matrix

GAP = 3  # frames: a longer one is seen as going and coming, not as flicker
BRIEF = 2  # frames that a flash lasts


@dataclass(frozen=True)
class Flicker:
    """Sums over one or more scenes.

    Attributes:
        objects: of the reference, summed over the frames in which they can be asked for.
        gaps: times that a box is missing for 1 to 3 frames between two frames that show it.
        flashes: boxes that come, last 1 or 2 frames, and go.
        corners: of each box between two others, how far its sides are from the middle of those, in heights.
        scores: of each box after another, by how much its score differs.
        breaks: times that an object of the reference is lost and shown again, for however long.
        shown: objects, summed over frames, that a box is shown for.
        ious: of these boxes with the reference.
        extra: boxes, summed over frames, that are on nothing and no late ones.
        late: of each object, frames from its first confident detection until it is shown.
        never: objects that have such a detection and are not shown in any later frame.
        left: of each object that was shown and went, frames for which its box stays.
    """

    objects: int = 0
    gaps: int = 0
    flashes: int = 0
    corners: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    breaks: int = 0
    shown: int = 0
    ious: list[float] = field(default_factory=list)
    extra: int = 0
    late: list[int] = field(default_factory=list)
    never: int = 0
    left: list[int] = field(default_factory=list)

    def __add__(self, other: Flicker) -> Flicker:
        return Flicker(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def per_100(self, count: int) -> float:
        """Return a count per 100 frames of an object."""
        return 100 * count / self.objects if self.objects else float("nan")


def flicker(shown: Sequence[Detections], confident: Sequence[Detections], references: Sequence[Reference]) -> Flicker:
    """Judge what was shown in each frame; `confident` is what the detector found there with at least the threshold."""
    chains = link(shown, GAP)
    held = boxes_on(shown, references)
    seen = boxes_on(confident, references)
    objects = shown_for = breaks = never = 0
    ious: list[float] = []
    late: list[int] = []
    for number, one in enumerate(references):
        iou = np.array([held[one.begin + row].get(number, (-1, 0.0))[1] for row in range(len(one.xyxy))])
        there = iou > 0
        objects += int(one.asked.sum())
        shown_for += int((there & one.asked).sum())
        ious += iou[there & one.asked].tolist()
        breaks += int((np.diff(np.flatnonzero(there[one.asked])) > 1).sum())
        confident_rows = [row for row in range(len(one.xyxy)) if number in seen[one.begin + row]]
        if confident_rows:
            after = np.flatnonzero(there[confident_rows[0] :])
            late += after[:1].tolist()
            never += not len(after)
    left, extra = _overstaying(chains, held, references)
    return Flicker(
        objects,
        sum(int((np.diff(chain.frames) > 1).sum()) for chain in chains),
        sum(len(chain.frames) <= BRIEF and _is_inside(chain, len(shown)) for chain in chains),
        [value for chain in chains for value in _corner_jitter(chain)],
        [value for chain in chains for value in _score_jitter(chain)],
        breaks,
        shown_for,
        ious,
        extra,
        late,
        never,
        left,
    )


def lasting(found: Sequence[Detections], threshold: float) -> list[Detections]:
    """Return the confident detections of objects that last: a stone that looks like somebody at times is none."""
    confident = [one[one.confidence >= threshold] for one in found]
    on_objects = boxes_on(confident, reference(found, threshold))
    rows = [np.array(sorted(row for row, _ in one.values()), np.intp) for one in on_objects]
    return [one[kept] for one, kept in zip(confident, rows, strict=True)]


def boxes_on(shown: Sequence[Detections], references: Sequence[Reference]) -> list[dict[int, tuple[int, float]]]:
    """Return for each frame which box, and with what IoU, is on which object of the reference."""
    held: list[dict[int, tuple[int, float]]] = []
    for frame, one in enumerate(shown):
        there = [n for n, ref in enumerate(references) if ref.begin <= frame < ref.begin + len(ref.xyxy)]
        truth = np.array([references[n].xyxy[frame - references[n].begin] for n in there]).reshape(-1, 4)
        iou = iou_matrix(truth, one.xyxy.astype(np.float64))
        rows, columns = match(iou, LINK_IOU)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        held.append({there[row]: (column, float(iou[row, column])) for row, column in pairs})
    return held


def _overstaying(
    chains: Sequence[Chain],
    held: Sequence[dict[int, tuple[int, float]]],
    references: Sequence[Reference],
) -> tuple[list[int], int]:
    """Return for how many frames boxes stay, of each object that was shown and went, and how many are on nothing."""
    object_of = [{row: number for number, (row, _) in one.items()} for one in held]
    stays = {
        number: 0
        for number, one in enumerate(references)
        if one.begin + len(one.xyxy) < len(held) and any(number in frame for frame in held)
    }
    extra = 0
    for chain in chains:
        last = -1
        for frame, row in zip(chain.frames.tolist(), chain.rows.tolist(), strict=True):
            number = object_of[frame].get(row, -1)
            if number >= 0:
                last = number
            elif last in stays and frame >= references[last].begin + len(references[last].xyxy):
                stays[last] += 1
            else:
                extra += 1
    return list(stays.values()), extra


def _is_inside(chain: Chain, frames: int) -> bool:
    """Return whether both the coming and the going were seen."""
    return bool(chain.frames[0] > 0 and chain.frames[-1] < frames - 1)


def _corner_jitter(chain: Chain) -> list[float]:
    middle = np.flatnonzero((np.diff(chain.frames[:-1]) == 1) & (np.diff(chain.frames[1:]) == 1)) + 1
    beyond = np.abs(chain.xyxy[middle] - (chain.xyxy[middle - 1] + chain.xyxy[middle + 1]) / 2).mean(axis=1)
    height = np.maximum(chain.xyxy[middle, 3] - chain.xyxy[middle, 1], 1.0)
    return np.asarray(beyond / height).tolist()


def _score_jitter(chain: Chain) -> list[float]:
    neighbours = np.diff(chain.frames) == 1
    return np.abs(np.diff(chain.confidence))[neighbours].tolist()
