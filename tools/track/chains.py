"""Boxes of neighbouring frames that are one object, linked off-line: with all frames known, forward and backward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from tools.track.assignment import match
from tools.track.metrics import iou_matrix
from tools.track.simulate import Step

Floats = npt.NDArray[np.float64]

LINK_IOU = 0.3  # of boxes that may be one object in neighbouring frames
_PACE = 5  # boxes at an end of a chain that its pace is taken of
_HIDDEN = 15  # longest gap in frames over which the reference takes two chains for one object
_LONG = 10  # frames that an object of the reference lasts
_CERTAIN = 0.5  # share of these in which it reaches the threshold: signs and stones do now and then
_SIGMA = 2.0  # frames, of the smoothing


@dataclass(frozen=True, eq=False)
class Chain:
    """The boxes of one object.

    Attributes:
        frames: (T,) int64, ascending.
        rows: (T,) int64, which of the frame's boxes each is.
        xyxy: (T, 4) float64, pixels.
        confidence: (T,) float64.
    """

    frames: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    xyxy: Floats
    confidence: Floats

    def __add__(self, later: Chain) -> Chain:
        return Chain(
            np.concatenate([self.frames, later.frames]),
            np.concatenate([self.rows, later.rows]),
            np.concatenate([self.xyxy, later.xyxy]),
            np.concatenate([self.confidence, later.confidence]),
        )

    def at(self, frame: float, first: bool) -> Floats:
        """Return where the box (4,) would be in another frame, at the pace of its first or last boxes."""
        part = slice(None, _PACE) if first else slice(-_PACE, None)
        frames, xyxy = self.frames[part], self.xyxy[part]
        end = 0 if first else -1
        pace = (xyxy[-1] - xyxy[0]) / max(1, frames[-1] - frames[0])
        return np.asarray(xyxy[end] + pace * (frame - frames[end]), np.float64)


@dataclass(frozen=True, eq=False)
class Reference:
    """An object that is known better than what is judged by it.

    Attributes:
        begin: its first frame; the others follow without a gap.
        xyxy: (T, 4) float64, pixels.
        asked: (T,) bool; False where nobody can be asked to see it.
    """

    begin: int
    xyxy: Floats
    asked: npt.NDArray[np.bool_]


def link(found: Sequence[Detections], longest_gap: int) -> list[Chain]:
    """Return the chains of all boxes, with gaps of at most so many frames.

    Neighbouring frames are matched by IoU; then ends and beginnings, nearest in time first, by the IoU that they would
    have in the middle of the gap.
    """
    chains = _neighbours(found)
    for gap in range(1, longest_gap + 1):
        chains = _bridged(chains, gap)
    return chains


def reference(found: Sequence[Detections], threshold: float) -> list[Reference]:
    """Return the objects of a video by what was found in every frame, also below the threshold, smoothed over time."""
    chains = link(found, _HIDDEN)
    lasting = [(chain, chain.frames[-1] - chain.frames[0] + 1) for chain in chains]
    return [
        _smooth(chain)
        for chain, frames in lasting
        if frames >= _LONG and (chain.confidence >= threshold).sum() >= _CERTAIN * frames
    ]


def scene_reference(steps: Sequence[Step]) -> list[Reference]:
    """Return the true objects of a simulated scene, at its inferences; one that comes again is another one."""
    seen: dict[int, list[tuple[int, Floats, bool]]] = {}
    for number, step in enumerate(steps):
        truth = step.truth
        for object_id, xyxy, scored in zip(truth.ids.tolist(), truth.xyxy, truth.scored.tolist(), strict=True):
            seen.setdefault(object_id, []).append((number, xyxy, scored))
    references = []
    for boxes in seen.values():
        frames, xyxy, scored = (np.array(part) for part in zip(*boxes, strict=True))
        for part in np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) > 1) + 1):
            visible = part[scored[part]]
            if len(visible):  # from the first to the last frame in which it can be asked for
                whole = slice(visible[0], visible[-1] + 1)
                references.append(Reference(int(frames[visible[0]]), xyxy[whole], scored[whole]))
    return references


def _neighbours(found: Sequence[Detections]) -> list[Chain]:
    chains: list[list[tuple[int, int]]] = []
    chain_of: list[int] = []  # of each box of the frame before
    for frame, now in enumerate(found):
        before = found[frame - 1] if frame else now[:0]
        alike = iou_matrix(before.xyxy.astype(np.float64), now.xyxy.astype(np.float64))
        alike *= before.class_id[:, None] == now.class_id[None]
        previous = {int(to): chain_of[at] for at, to in zip(*match(alike, LINK_IOU), strict=True)}
        chain_of = []
        for row in range(len(now)):
            if row not in previous:
                chains.append([])
            chain_of.append(previous.get(row, len(chains) - 1))
            chains[chain_of[-1]].append((frame, row))
    return [
        Chain(
            np.array([frame for frame, _ in boxes]),
            np.array([row for _, row in boxes]),
            np.array([found[frame].xyxy[row] for frame, row in boxes], np.float64),
            np.array([found[frame].confidence[row] for frame, row in boxes], np.float64),
        )
        for boxes in chains
    ]


def _bridged(chains: Sequence[Chain], gap: int) -> list[Chain]:
    """Return the chains with those joined that are `gap` frames apart, classes aside."""
    beginning, ending = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    for number, chain in enumerate(chains):
        beginning[int(chain.frames[0])].append(number)
        ending[int(chain.frames[-1])].append(number)
    joined = dict(enumerate(chains))
    whole = list(range(len(chains)))  # the number that a chain's boxes are under by now
    for end, before in sorted(ending.items()):
        after = beginning[end + gap + 1]
        middle = end + (gap + 1) / 2
        forward = np.array([chains[number].at(middle, first=False) for number in before]).reshape(-1, 4)
        backward = np.array([chains[number].at(middle, first=True) for number in after]).reshape(-1, 4)
        for row, column in zip(*match(iou_matrix(forward, backward), LINK_IOU), strict=True):
            into, later = whole[before[row]], after[column]
            joined[into] += joined.pop(later)
            whole[later] = into
    return list(joined.values())


def _smooth(chain: Chain) -> Reference:
    """Fill gaps by straight lines, and smooth by a Gaussian that is cut short at both ends alike."""
    begin, end = int(chain.frames[0]), int(chain.frames[-1])
    every = np.arange(begin, end + 1)
    filled = np.stack([np.interp(every, chain.frames, side) for side in chain.xyxy.T], axis=1)
    # Mirrored at a point, so that one who walks in or out is not drawn back.
    reach = min(int(3 * _SIGMA), len(every) - 1)
    head, tail = 2 * filled[0] - filled[reach:0:-1], 2 * filled[-1] - filled[-2 : -reach - 2 : -1]
    padded = np.concatenate([head, filled, tail])
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / _SIGMA))
    smooth = np.stack([np.convolve(side, weights / weights.sum(), mode="valid") for side in padded.T], axis=1)
    return Reference(begin, smooth, np.isin(every, chain.frames))
