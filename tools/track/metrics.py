"""How well tracks follow true objects.

- Pairs of a frame, switches, fragments: CLEAR MOT, K. Bernardin and R. Stiefelhagen, "Evaluating Multiple Object
  Tracking Performance", EURASIP JIVP 2008; a pair lasts while its IoU is 0.5 or more.
- IDF1 = 2 IDTP / (2 IDTP + IDFP + IDFN): E. Ristani et al., "Performance Measures and a Data Set for Multi-Target,
  Multi-Camera Tracking", ECCV workshops 2016; every true object gets one track for the whole scene, the best choice.
- Objects that are not scored (hidden) are neither asked for nor held against a track, as the crowd of MOTChallenge.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from tools.track.assignment import assign, match
from tools.track.simulate import Truth

MIN_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Shown:
    """What was there and what was shown for it: (N, 4) float64 boxes in pixels and (N,) int64 track ids."""

    truth: Truth
    xyxy: npt.NDArray[np.float64]
    ids: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """Counts, to be added over scenes.

    Attributes:
        objects: true objects, summed over frames.
        boxes: boxes shown that count, summed over frames.
        matched: those of them with a true object, IoU >= 0.5.
        switches: times an object was matched to another track than before.
        fragments: times an object that was there was lost, between two frames in which it was tracked.
        false_tracks: tracks that never were on an object.
        idtp: objects that their own track of the whole scene covers, summed over frames.
        iou_sum: IoU of every counted box with the object it is nearest to, 0 for none.
    """

    objects: int = 0
    boxes: int = 0
    matched: int = 0
    switches: int = 0
    fragments: int = 0
    false_tracks: int = 0
    idtp: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: Score) -> Score:
        return Score(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Score)))

    @property
    def coverage(self) -> float:
        """Share of the objects' time with a matching box."""
        return self.matched / self.objects if self.objects else float("nan")

    @property
    def precision(self) -> float:
        """Share of the boxes shown that are on an object."""
        return self.matched / self.boxes if self.boxes else float("nan")

    @property
    def idf1(self) -> float:
        """The F1 score of identities."""
        total = self.objects + self.boxes  # = 2 IDTP + IDFP + IDFN
        return 2 * self.idtp / total if total else float("nan")

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the boxes shown."""
        return self.iou_sum / self.boxes if self.boxes else float("nan")


def iou_matrix(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the (N, M) IoU of boxes (N, 4) and (M, 4), xyxy; 0 where one has no area."""
    wh = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.prod(np.maximum(wh, 0), axis=2)
    area_a, area_b = (np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    iou: npt.NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def score(frames: Iterable[Shown]) -> Score:
    """Return the score of one scene, whose frames are in order of time."""
    last: dict[int, int] = {}
    tracked: dict[int, list[bool]] = defaultdict(list)
    together: Counter[tuple[int, int]] = Counter()
    seen: set[int] = set()
    on_object: set[int] = set()
    objects = boxes = matched = switches = 0
    iou_sum = 0.0
    for frame in frames:
        truth = frame.truth
        iou = iou_matrix(truth.xyxy, frame.xyxy)
        wanted = np.flatnonzero(truth.scored)
        pairs = _pairs(iou[wanted], truth.ids[wanted], frame.ids, last)
        taken = np.zeros(len(frame.ids), np.bool_)
        taken[list(pairs.values())] = True
        counts = taken | ~(iou[~truth.scored] >= MIN_IOU).any(axis=0)
        for number, column in pairs.items():
            object_id, track_id = int(truth.ids[wanted[number]]), int(frame.ids[column])
            switches += int(last.get(object_id, track_id) != track_id)
            last[object_id] = track_id
        for number, row in enumerate(wanted):
            tracked[int(truth.ids[row])].append(number in pairs)
            for track in frame.ids[counts & (iou[row] >= MIN_IOU)]:
                together[int(truth.ids[row]), int(track)] += 1
        seen.update(frame.ids[counts].tolist())
        on_object.update(frame.ids[taken].tolist())
        objects, boxes, matched = objects + len(wanted), boxes + int(counts.sum()), matched + len(pairs)
        if len(wanted):
            iou_sum += float(iou[wanted][:, counts].max(axis=0).sum())
    fragments = sum(_fragments(flags) for flags in tracked.values())
    false_tracks = len(seen - on_object)
    return Score(objects, boxes, matched, switches, fragments, false_tracks, _idtp(together), iou_sum)


def _pairs(
    iou: npt.NDArray[np.float64], objects: npt.NDArray[np.int64], tracks: npt.NDArray[np.int64], last: dict[int, int]
) -> dict[int, int]:
    """Return column by row: first the pairs that go on, then the best of the rest."""
    column_of = {int(track): column for column, track in enumerate(tracks)}
    pairs: dict[int, int] = {}
    for row, number in enumerate(objects):
        column = column_of.get(last.get(int(number), -1), -1)
        if column >= 0 and iou[row, column] >= MIN_IOU and column not in pairs.values():
            pairs[row] = column
    rows = np.setdiff1d(np.arange(len(objects)), list(pairs))
    columns = np.setdiff1d(np.arange(len(tracks)), list(pairs.values()))
    at, to = match(iou[np.ix_(rows, columns)], MIN_IOU)
    return pairs | dict(zip(rows[at].tolist(), columns[to].tolist(), strict=True))


def _fragments(tracked: list[bool]) -> int:
    """Return how often a tracked object is lost and found again."""
    found = np.flatnonzero(tracked)
    return int((np.diff(found) > 1).sum())


def _idtp(together: Counter[tuple[int, int]]) -> int:
    """Return the frames in which objects and tracks fit, under the best one-to-one choice."""
    if not together:
        return 0
    objects, tracks = (sorted({pair[side] for pair in together}) for side in (0, 1))
    frames = np.zeros((len(objects), len(tracks)))
    for (number, track), count in together.items():
        frames[objects.index(number), tracks.index(track)] = count
    return int(frames[assign(-frames)].sum())
