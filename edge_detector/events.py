"""Events: what happens to objects over time, in the form in which it leaves the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Direction = Literal["in", "out"]
EventKind = Literal["new", "update", "end"]
EndReason = Literal["gone", "camera", "inference", "paused", "settings", "shutdown", "interrupted"]


@dataclass(frozen=True, slots=True)
class Crossing:
    """An object went over a line: `direction` is "in" or "out", `at_s` seconds since the object was first seen."""

    line: str
    direction: Direction
    at_s: float


@dataclass(frozen=True, slots=True)
class ObjectState:
    """An object from its first picture to now.

    Attributes:
        id: unique over all cameras and starts of the program; the same for all events of the object.
        camera: name of the camera that sees it.
        track_id: its number in pictures and detections, unique in one run of one camera.
        label: what it is.
        score: median of its newest scores, 0..1, and
        top_score: the best of all.
        box: x1, y1, x2, y2 in pixels of the picture, when it was last seen.
        box_norm: the same in fractions of the picture's width and height.
        start_ts: when it was first seen, seconds since the epoch; of a file, since its beginning.
        seen_ts: when it was last found by the model.
        end_ts: `seen_ts` once it has ended, else None.
        duration_s: seconds between the first and the last time that it was seen, by the monotonic clock.
        path: (seconds since it was first seen, x, y) of the middle of its lower edge, in fractions of the picture.
        zones: those that it is in now.
        entered_zones: those that it has been in, in the order of entering.
        dwell_s: seconds that it has been in each of these, summed.
        stay_s: seconds that it has been in each of `zones` since it entered last.
        crossings: the lines that it went over, the newest 100.
        crossing_count: how often it went over one, in all.
        stationary_s: seconds that it has been standing still now; 0 while it moves.
        end_reason: "gone"; or why nobody looks any more: "camera" gives no pictures, "inference" no results, detection
            "paused", other "settings", "shutdown", and "interrupted" when the program had ended without a word; None
            before the end.
    """

    id: str
    camera: str
    track_id: int
    label: str
    score: float
    top_score: float
    box: tuple[float, float, float, float]
    box_norm: tuple[float, float, float, float]
    start_ts: float
    seen_ts: float
    end_ts: float | None = None
    duration_s: float = 0.0
    path: Sequence[tuple[float, float, float]] = ()
    zones: tuple[str, ...] = ()
    entered_zones: tuple[str, ...] = ()
    dwell_s: Mapping[str, float] = field(default_factory=dict)
    stay_s: Mapping[str, float] = field(default_factory=dict)
    crossings: tuple[Crossing, ...] = ()
    crossing_count: int = 0
    stationary_s: float = 0.0
    end_reason: EndReason | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, numbers rounded."""
        return {
            "id": self.id,
            "camera": self.camera,
            "track_id": self.track_id,
            "label": self.label,
            "score": round(self.score, 4),
            "top_score": round(self.top_score, 4),
            "box": [round(value, 2) for value in self.box],
            "box_norm": [round(value, 5) for value in self.box_norm],
            "start_ts": round(self.start_ts, 3),
            "seen_ts": round(self.seen_ts, 3),
            "end_ts": None if self.end_ts is None else round(self.end_ts, 3),
            "duration_s": round(self.duration_s, 3),
            "path": [[round(at_s, 2), round(x, 4), round(y, 4)] for at_s, x, y in self.path],
            "zones": list(self.zones),
            "entered_zones": list(self.entered_zones),
            "dwell_s": {zone: round(seconds, 2) for zone, seconds in self.dwell_s.items()},
            "stay_s": {zone: round(seconds, 2) for zone, seconds in self.stay_s.items()},
            "crossings": [
                {"line": crossing.line, "direction": crossing.direction, "at_s": round(crossing.at_s, 2)}
                for crossing in self.crossings
            ],
            "crossing_count": self.crossing_count,
            "stationary_s": round(self.stationary_s, 2),
            "end_reason": self.end_reason,
        }

    @staticmethod
    def from_json(shape: Mapping[str, Any]) -> ObjectState:
        """Return the object that `to_json` wrote."""
        lists = {key: tuple(shape[key]) for key in ("box", "box_norm", "zones", "entered_zones")}
        path = tuple(tuple(point) for point in shape["path"])
        crossings = tuple(Crossing(**crossing) for crossing in shape["crossings"])
        return ObjectState(**{**shape, **lists, "path": path, "crossings": crossings})


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something happened to an object: it came, changed, or went. Of each object there is one "new" and one "end".

    Attributes:
        kind: what happened.
        object: the object as it is now.
        snapshot: (H, W, 3) uint8 RGB, the object with its surroundings where it scored best, if that is better than
            what earlier events of it held; else None.
    """

    kind: EventKind
    object: ObjectState
    snapshot: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Alert:
    """A rule of the settings came true.

    Attributes:
        rule: its name.
        ts: when, seconds since the epoch; of a file, since its beginning.
        object: the object that made it true.
        count: objects that met the rule then.
    """

    rule: str
    ts: float
    object: ObjectState
    count: int = 1
