"""EventBook: tracks -> events, exactly one "new" and one "end" for each object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_detector.events import Alert, Direction, EndReason, Event, ObjectState
from edge_detector.frame import Frame
from edge_detector.resize import resize
from edge_detector.tracking.rules import Rules
from edge_detector.tracking.tracker import Track
from edge_detector.tracking.zones import Presence, Whereabouts

Floats = npt.NDArray[np.float64]

SNAPSHOT_SIDE = 320  # longer side of a snapshot, pixels, at most
_MARGIN = 0.4  # of the object's longer side, around it
_BETTER = 1.1  # a snapshot is replaced by one that is so much better
_PATH_POINTS = 200  # when there are more, every second one is dropped
_PATH_STEP = 0.01  # of the picture; nearer points are left out
_STANDS = 0.15  # of its size: who moves less stands still


@dataclass(slots=True, eq=False)
class _Entry:
    """An object that has been found at least once."""

    track: Track
    start_ts: float
    seen_ts: float
    box_norm: Floats
    size_wh: tuple[int, int]
    where: Whereabouts = field(default_factory=Whereabouts)
    path: list[tuple[float, float, float]] = field(default_factory=list)
    anchor_xy: Floats = field(default_factory=lambda: np.full(2, np.nan))
    anchored_s: float = 0.0
    told: ObjectState | None = None  # in its newest event
    told_s: float = 0.0
    counted: int = 0  # of its crossings
    snapshot: npt.NDArray[np.uint8] | None = None  # not told yet
    snapshot_worth: float = 0.0


class EventBook:
    """Keeps the story of each object of one camera, and tells what happens. Used by one thread only."""

    def __init__(
        self, camera: str, labels: Sequence[str], presence: Presence, rules: Rules, run_id: str, update_s: float
    ) -> None:
        """Begin.

        Args:
            camera: its name.
            labels: of the model, by class id.
            presence: follows the objects through zones and over lines.
            rules: what alerts are given for.
            run_id: makes ids unique over starts of the program.
            update_s: an object that stays is told anew this often.
        """
        self._camera = camera
        self._labels = labels
        self._presence = presence
        self._rules = rules
        self._run_id = run_id
        self._update_s = update_s
        self._entries: dict[int, _Entry] = {}
        self._events: list[Event | Alert] = []
        self._line_counts: dict[str, dict[Direction, int]] = {name: {"in": 0, "out": 0} for name in presence.line_names}

    @property
    def line_counts(self) -> dict[str, dict[Direction, int]]:
        """Objects that went over each line, "in" and "out"; those that never counted do not."""
        return {name: dict(counts) for name, counts in self._line_counts.items()}

    def see(self, tracks: Sequence[Track], boxes_norm: Floats, frame: Frame) -> None:
        """Take what an inference on `frame` led to: all tracks, and their boxes (N, 4) there in fractions."""
        at_s = frame.captured_at
        found = np.array([track.found_s == at_s for track in tracks], bool)
        feet_xy = np.stack([(boxes_norm[:, 0] + boxes_norm[:, 2]) / 2, boxes_norm[:, 3]], axis=1)
        names = [self._labels[track.class_id] for track in tracks]
        ids = [track.track_id for track in tracks]
        whereabouts = self._presence.update(ids, names, np.clip(feet_xy, 0, 1), at_s, found)
        for row in np.flatnonzero(found).tolist():
            self._note(tracks[row], boxes_norm[row], whereabouts[row], frame)
        for entry in self._entries.values():
            if entry.track.confirmed:
                self._tell(entry, at_s)
        states = [entry.told for entry in self._entries.values() if entry.told is not None]
        current = [self._state(self._entries[state.track_id]) for state in states]
        self._events += self._rules.check(current, frame.wall_time, at_s)

    def end(self, track_ids: Iterable[int], reason: EndReason) -> None:
        """Close the story of these objects; of those that never counted nothing is told."""
        for track_id in track_ids:
            entry = self._entries.pop(track_id, None)
            self._presence.forget(track_id)
            if entry is not None and entry.told is not None:
                self._events.append(Event("end", self._state(entry, reason), entry.snapshot))

    def end_all(self, reason: EndReason) -> None:
        """Close all stories."""
        self.end(list(self._entries), reason)

    def take(self) -> list[Event | Alert]:
        """Return what happened since the last call, in its order."""
        taken, self._events = self._events, []
        return taken

    def zones_of(self, track_id: int) -> tuple[str, ...]:
        """Return the zones that an object is in."""
        entry = self._entries.get(track_id)
        return () if entry is None else entry.where.zones

    def _note(self, track: Track, box_norm: Floats, where: Whereabouts, frame: Frame) -> None:
        at_s = frame.captured_at
        entry = self._entries.get(track.track_id)
        if entry is None:
            entry = _Entry(track, frame.wall_time, frame.wall_time, box_norm, frame.size_wh)
            self._entries[track.track_id] = entry
        entry.seen_ts, entry.box_norm, entry.size_wh, entry.where = frame.wall_time, box_norm, frame.size_wh, where
        centre_xy = (box_norm[:2] + box_norm[2:]) / 2
        size = float(np.sqrt(np.prod(np.maximum(box_norm[2:] - box_norm[:2], 1e-6))))
        if not np.hypot(*(centre_xy - entry.anchor_xy)) <= _STANDS * size:
            entry.anchor_xy, entry.anchored_s = centre_xy, at_s
        x, y = float(centre_xy[0]), float(box_norm[3])
        if not entry.path or max(abs(x - entry.path[-1][1]), abs(y - entry.path[-1][2])) >= _PATH_STEP:
            entry.path.append((at_s - track.first_s, x, y))
            if len(entry.path) > _PATH_POINTS:
                del entry.path[1:-1:2]
        self._photograph(entry, frame)

    def _photograph(self, entry: _Entry, frame: Frame) -> None:
        """Keep the picture of the object if it is the best so far: sure of what it is, large, and not cut."""
        box = entry.box_norm * np.tile(frame.size_wh, 2)
        sides = np.maximum(box[2:] - box[:2], 1.0)
        cut = bool((box[:2] <= 2).any() or (box[2:] >= np.array(frame.size_wh) - 2).any())
        worth = entry.track.scores[-1] * float(np.prod(sides)) ** 0.25 * (0.7 if cut else 1.0)
        if worth <= entry.snapshot_worth * _BETTER:
            return
        margin = _MARGIN * sides.max()
        x1, y1 = np.clip(box[:2] - margin, 0, None).astype(int).tolist()
        x2, y2 = np.minimum(np.ceil(box[2:] + margin), frame.size_wh).astype(int).tolist()
        if x2 - x1 < 2 or y2 - y1 < 2:
            return
        part = frame.image[y1:y2, x1:x2]
        scale = min(1.0, SNAPSHOT_SIDE / max(x2 - x1, y2 - y1))
        size_wh = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
        entry.snapshot_worth = worth
        entry.snapshot = resize(part, size_wh)

    def _tell(self, entry: _Entry, at_s: float) -> None:
        told = entry.told
        self._count_crossings(entry)
        if told is not None:
            changed = told.zones != entry.where.zones or told.crossing_count != entry.where.crossing_count
            if not changed and at_s - entry.told_s < self._update_s:
                return
        state = self._state(entry)
        self._events.append(Event("new" if told is None else "update", state, entry.snapshot))
        entry.told, entry.told_s, entry.snapshot = state, at_s, None

    def _count_crossings(self, entry: _Entry) -> None:
        fresh, entry.counted = entry.where.crossing_count - entry.counted, entry.where.crossing_count
        for crossing in entry.where.crossings[-fresh:] if fresh else ():
            self._line_counts[crossing.line][crossing.direction] += 1

    def _state(self, entry: _Entry, end_reason: EndReason | None = None) -> ObjectState:
        track, where = entry.track, entry.where
        x1, y1, x2, y2 = np.clip(entry.box_norm, 0, 1).tolist()
        width, height = entry.size_wh
        return ObjectState(
            id=f"{entry.start_ts:.3f}-{self._camera}-{self._run_id}{track.track_id}",
            camera=self._camera,
            track_id=track.track_id,
            label=self._labels[track.class_id],
            score=track.score,
            top_score=track.top_score,
            box=(x1 * width, y1 * height, x2 * width, y2 * height),
            box_norm=(x1, y1, x2, y2),
            start_ts=entry.start_ts,
            seen_ts=entry.seen_ts,
            end_ts=None if end_reason is None else entry.seen_ts,
            duration_s=track.found_s - track.first_s,
            path=tuple(entry.path),
            zones=where.zones,
            entered_zones=where.entered_zones,
            dwell_s=where.dwell_s,
            stay_s=where.stay_s,
            crossings=where.crossings,
            crossing_count=where.crossing_count,
            stationary_s=track.found_s - entry.anchored_s,
            end_reason=end_reason,
        )
