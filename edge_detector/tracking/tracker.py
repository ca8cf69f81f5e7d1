"""Tracker: detections -> objects with ids that last, at any intervals, also when results come late."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from edge_detector.tracking.association import iou_matrix, match
from edge_detector.tracking.motion import Motion

_GATE = 12.0  # squared Mahalanobis distance of four coordinates, beyond which nothing is the same object
_NO_OVERLAP = 4.0  # what a pair without overlap costs more than one that coincides
_LEAST_S = 0.25  # what is seen for a shorter time is a flicker, however often it was found
_SCORES = 9  # newest scores that an object's own is the median of
_LASTING_SCORES = 30  # newest scores, about, that its mean is of,
_ENOUGH_SCORES = 15  # which says something from so many on
_HISTORY = 300  # pictures that a result may come late by
_SHOWN_MISSED = 0.5  # part of `lost_s` for which an object that is looked for in vain is still shown
_LEFT = 0.35  # share of its box beyond the picture's edges from which on it is not: detections end there

Floats = npt.NDArray[np.float64]
Carry = Callable[[Floats], Floats]
Looked = Callable[[Floats], npt.NDArray[np.bool_]]


@dataclass(slots=True, eq=False)
class Track:
    """An object that is followed.

    Attributes:
        track_id: counts from 1.
        class_id: index into the model's labels.
        first_s: monotonic time of its first detection, and
        found_s: of its last.
        hits: inferences that found it.
        missed_s: seconds of looking in vain since `found_s`.
        confirmed: whether it counts as an object.
        scores: the newest ones.
        mean_score: over a longer time.
        top_score: the best of all.
    """

    track_id: int
    class_id: int
    first_s: float
    found_s: float
    hits: int = 0
    missed_s: float = 0.0
    confirmed: bool = False
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=_SCORES))
    mean_score: float = 0.0
    top_score: float = 0.0

    @property
    def score(self) -> float:
        """The median of the newest scores."""
        return float(np.median(self.scores))


@dataclass(slots=True, eq=False)
class _Step:
    """A picture: when it was taken, how far objects moved since the one before, and where they are in it."""

    at_s: float
    shift_xy: Floats | None
    motion: Motion


class Tracker:
    """Follows the objects of one camera. Used by one thread only.

    `step` moves everything on to the next picture, `update` takes what was found in a picture, this one or an earlier.
    A detection below its class's threshold continues an object and begins none (hysteresis). Coordinates are pixels of
    any picture, but always of the same.
    """

    def __init__(
        self, min_hits: int = 2, lost_s: float = 2.0, threshold_of: Callable[[int], float] = lambda class_id: 0.4
    ) -> None:
        """Begin without objects.

        Args:
            min_hits: inferences that must have found an object before it counts.
            lost_s: an object that was looked for in vain for so many seconds is gone.
            threshold_of: gives for a class the score that begins an object, and that its median must reach to count.
        """
        self.tracks: list[Track] = []
        self._min_hits = min_hits
        self._lost_s = lost_s
        self._threshold_of = threshold_of
        self._next_id = 1
        self._searched_s: float | None = None
        self._steps: deque[_Step] = deque(maxlen=_HISTORY)

    @property
    def motion(self) -> Motion:
        """Where `tracks` are in the newest picture."""
        return self._steps[-1].motion if self._steps else Motion.none()

    @property
    def searched(self) -> Motion:
        """Where `tracks` were in the picture of the newest `update`, until then in the oldest one that is known."""
        return self._steps[0].motion if self._steps else Motion.none()

    def objects(self, size_wh: tuple[int, int]) -> Detections:
        """Return what counts as an object and is not missed for long, in the newest picture, with `tracker_id`.

        What is missed and seems to have left the picture, of `size_wh`, is not there. Boxes are cut at its edges.
        """
        whole = self.motion.xyxy
        xyxy = np.clip(whole, 0, np.tile(size_wh, 2))
        left = _areas(xyxy) < (1 - _LEFT) * _areas(whole)
        rows = [
            row
            for row, track in enumerate(self.tracks)
            if self.is_shown(track) and not (track.missed_s > 0 and left[row])
        ]
        shown = [self.tracks[row] for row in rows]
        return Detections(
            xyxy[rows].astype(np.float32),
            np.array([track.score for track in shown], np.float32),
            np.array([track.class_id for track in shown], np.int64),
            np.array([track.track_id for track in shown], np.int64),
        )

    def is_shown(self, track: Track) -> bool:
        """Return whether an object counts and is not missed for long."""
        return track.confirmed and track.missed_s <= _SHOWN_MISSED * self._lost_s

    def step(self, at_s: float, shift_xy: Floats | None = None) -> None:
        """Move all objects on to the picture of `at_s`; `shift_xy` (N, 2) see `Motion.after`."""
        dt_s = at_s - self._steps[-1].at_s if self._steps else 0.0
        self._steps.append(_Step(at_s, shift_xy, self.motion.after(dt_s, shift_xy)))

    def update(
        self, found: Detections, at_s: float, carry: Carry | None = None, looked: Looked | None = None
    ) -> list[Track]:
        """Take what was found in the picture of `at_s`; return the objects that are gone.

        Objects are compared where they were in that picture, and carried from there to the newest one by all that was
        seen of their way since. New ones are carried by `carry`, which gets boxes (N, 4) and returns how far they moved
        to the newest picture, (N, 2), NaN where that is not known.

        `looked`, boxes (N, 4) -> (N,) bool, says which were in the part of the picture that was searched.
        """
        if not self._steps or at_s > self._steps[-1].at_s:
            self.step(at_s)
        while len(self._steps) > 1 and self._steps[1].at_s <= at_s:
            self._steps.popleft()
        there = self._steps[0].motion
        rows, columns, born = self._associate(there, found)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            self._hit(self.tracks[row], float(found.confidence[column]), at_s)
        self._miss(np.setdiff1d(np.arange(len(there)), rows), there, at_s, looked)
        kept = np.array([not self._is_gone(track) for track in self.tracks], bool)
        gone = [track for track, stays in zip(self.tracks, kept, strict=True) if not stays]
        self.tracks = [track for track, stays in zip(self.tracks, kept, strict=True) if stays]
        for column in born.tolist():
            self.tracks.append(Track(self._next_id, int(found.class_id[column]), at_s, at_s))
            self._hit(self.tracks[-1], float(found.confidence[column]), at_s)
            self._next_id += 1
        there = there.corrected(rows, found.xyxy[columns])
        self._replay(there[kept], kept, found.xyxy[born], carry)
        return gone

    def rescale(self, scale_xy: Floats) -> None:
        """Go on in pixels of a picture that is larger by `scale_xy`."""
        for step in self._steps:
            step.motion = step.motion.scaled(scale_xy)
            step.shift_xy = None if step.shift_xy is None else step.shift_xy * scale_xy

    def drop_all(self) -> list[Track]:
        """Forget all objects and return them; ids go on."""
        dropped, self.tracks = self.tracks, []
        self._steps.clear()
        self._searched_s = None
        return dropped

    def _associate(
        self, there: Motion, found: Detections
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return rows of `there` and columns of `found` that belong together, and the columns that begin an object."""
        classes = np.array([track.class_id for track in self.tracks], np.int64)
        thresholds = np.array([self._threshold_of(class_id) for class_id in found.class_id.tolist()])
        strong = found.confidence >= thresholds
        cost = there.distance(found.xyxy) + _NO_OVERLAP * (1 - iou_matrix(there.xyxy, found.xyxy))
        cost[classes[:, np.newaxis] != found.class_id[np.newaxis]] = np.inf
        rows, columns = match(np.where(strong[np.newaxis], cost, np.inf), _GATE + _NO_OVERLAP)
        # Who is still missing is looked for among the weak detections, and nearer: ByteTrack (arXiv:2110.06864), 3.
        rest, weak = np.setdiff1d(np.arange(len(there)), rows), np.flatnonzero(~strong)
        again, among_weak = match(cost[np.ix_(rest, weak)], _GATE / 2 + _NO_OVERLAP)
        rows, columns = np.concatenate([rows, rest[again]]), np.concatenate([columns, weak[among_weak]])
        return rows, columns, np.setdiff1d(np.flatnonzero(strong), columns)

    def _hit(self, track: Track, score: float, at_s: float) -> None:
        track.found_s = at_s
        track.hits += 1
        track.missed_s = 0.0
        track.scores.append(score)
        track.top_score = max(track.top_score, score)
        track.mean_score += (score - track.mean_score) / min(track.hits, _LASTING_SCORES)
        threshold = self._threshold_of(track.class_id)
        lasting = track.hits >= self._min_hits and at_s - track.first_s >= _LEAST_S * (self._min_hits > 1)
        counts = track.confirmed or (lasting and track.score >= threshold)
        # Weak detections bridge weak moments; what is weak on the whole is a stone that looks like somebody at times.
        track.confirmed = counts and (track.hits < _ENOUGH_SCORES or track.mean_score >= threshold)

    def _miss(self, rows: npt.NDArray[np.intp], there: Motion, at_s: float, looked: Looked | None) -> None:
        """Count the time since the last inference for what was looked for in vain; a long pause counts half at most."""
        since_s = 0.0 if self._searched_s is None else min(max(0.0, at_s - self._searched_s), self._lost_s / 2)
        self._searched_s = at_s
        if looked is not None:
            rows = rows[looked(there.xyxy[rows])]
        for row in rows.tolist():
            self.tracks[row].missed_s += since_s

    def _is_gone(self, track: Track) -> bool:
        return track.missed_s >= (self._lost_s if track.confirmed else self._lost_s / 2)

    def _replay(
        self, motion: Motion, kept: npt.NDArray[np.bool_], born: npt.NDArray[np.float32], carry: Carry | None
    ) -> None:
        """Begin from `motion` at the oldest step, with the new boxes `born` behind it, and go the way again."""
        steps = list(self._steps)
        lasting_s = steps[-1].at_s - steps[0].at_s
        late = len(born) > 0 and lasting_s > 0
        way = carry(born.astype(np.float64)) if late and carry is not None else np.full((len(born), 2), np.nan)
        steps[0].motion = motion.joined(Motion.first(born))
        steps[0].shift_xy = None
        for before, step in pairwise(steps):
            dt_s = step.at_s - before.at_s
            shift_xy = np.full((len(kept), 2), np.nan) if step.shift_xy is None else step.shift_xy
            step.shift_xy = np.concatenate([shift_xy[kept], way * (dt_s / lasting_s if late else 0.0)])
            step.motion = before.motion.after(dt_s, step.shift_xy)


def _areas(xyxy: Floats) -> Floats:
    return np.asarray(np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1), np.float64)
