"""Zones and lines of one camera: which objects are in, for how long, and what goes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_detector.events import Crossing
from edge_detector.object_config import LineConfig, ZoneConfig
from edge_detector.tracking.polygons import contains, to_fractions

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Of the picture's diagonal: what is nearer to a line is on neither side, so that who trembles on it crosses once.
LINE_MARGIN = 0.01
CROSSINGS = 100  # of one object that are remembered


class Zones:
    """Zones in a picture of known size; Z of them, in the order of `names`."""

    def __init__(self, zones: Mapping[str, ZoneConfig], size_wh: tuple[int, int]) -> None:
        """Resolve the coordinates.

        Raises:
            ConfigError: a zone lies outside a picture of `size_wh` pixels.
        """
        self.names = tuple(zones)
        self.settings = tuple(zones.values())
        self._polygons = [
            to_fractions(zone.coordinates, size_wh, f"zones.{name}.coordinates") for name, zone in zones.items()
        ]

    def contains(self, points_xy: Floats) -> Bools:
        """Return (N, Z) whether points (N, 2), in fractions of the picture, are in each zone."""
        columns = [contains(polygon, points_xy) for polygon in self._polygons]
        return np.stack(columns, axis=1) if columns else np.zeros((len(points_xy), 0), bool)

    def concerns(self, labels: Sequence[str]) -> Bools:
        """Return (N, Z) whether each zone is for objects of these N labels."""
        return _concerns(self.settings, labels)


class Lines:
    """Lines in a picture of known size; L of them, in the order of `names`.

    Distances are in diagonals of the picture, so that they are the same in all directions.
    """

    def __init__(self, lines: Mapping[str, LineConfig], size_wh: tuple[int, int]) -> None:
        """Resolve the coordinates.

        Raises:
            ConfigError: a line lies outside a picture of `size_wh` pixels.
        """
        self.names = tuple(lines)
        self.settings = tuple(lines.values())
        ends = [to_fractions(line.coordinates, size_wh, f"lines.{name}.coordinates") for name, line in lines.items()]
        self._unit = np.array(size_wh) / np.hypot(*size_wh)
        self._starts, stops = np.moveaxis(np.array(ends).reshape(-1, 2, 2) * self._unit, 1, 0)
        self._lengths = np.linalg.norm(stops - self._starts, axis=1)
        self._along = (stops - self._starts) / self._lengths[:, None]
        self._right = self._along[:, ::-1] * (-1, 1)  # y points down

    def concerns(self, labels: Sequence[str]) -> Bools:
        """Return (N, L) whether each line is for objects of these N labels."""
        return _concerns(self.settings, labels)

    def distances(self, point_xy: Floats) -> Floats:
        """Return (L,) how far the point (2,) lies to the right of each line, both ends extended for ever."""
        return np.asarray(((point_xy * self._unit - self._starts) * self._right).sum(axis=1), np.float64)

    def passed(self, before_xy: Floats, after_xy: Floats) -> Bools:
        """Return (L,) whether the straight way from one point (2,) to the other goes over each line."""
        before, after = self.distances(before_xy), self.distances(after_xy)
        over = (before >= 0) != (after >= 0)
        share = before / np.where(over, before - after, 1)
        met = (before_xy + share[:, None] * (after_xy - before_xy)) * self._unit
        along = ((met - self._starts) * self._along).sum(axis=1)
        return np.asarray(over & (along >= 0) & (along <= self._lengths), bool)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an object is, and has been since its first picture; the fields are those of `ObjectState`.

    Attributes:
        zones: those that it is in now.
        entered_zones: those that it has been in, in the order of entering.
        dwell_s: seconds in each of these, summed.
        stay_s: seconds in each of `zones` since it entered last.
        crossings: the lines that it went over, the newest 100.
        crossing_count: how often it went over one, in all.
    """

    zones: tuple[str, ...] = ()
    entered_zones: tuple[str, ...] = ()
    dwell_s: Mapping[str, float] = field(default_factory=dict)
    stay_s: Mapping[str, float] = field(default_factory=dict)
    crossings: tuple[Crossing, ...] = ()
    crossing_count: int = 0


@dataclass(slots=True)
class _Stay:
    """What one object has done about one zone; `streak` counts pictures in a row inside (above 0) or outside."""

    streak: int = 0
    counted: bool = False
    stay_s: float = 0.0
    past_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Time inside, summed over all that counted."""
        return self.past_s + (self.stay_s if self.counted else 0.0)

    def see(self, inside: bool, since_s: float, zone: ZoneConfig) -> None:
        """Take one more picture, `since_s` seconds after the one before."""
        if inside:
            self.stay_s += since_s if self.streak > 0 else 0.0
            self.streak = max(self.streak, 0) + 1
            self.counted |= self.streak >= zone.inertia and self.stay_s >= zone.loitering_time
            return
        self.streak = min(self.streak, 0) - 1
        if self.streak <= -zone.inertia:
            self.past_s += self.stay_s if self.counted else 0.0
            self.stay_s, self.counted = 0.0, False


@dataclass(slots=True, eq=False)
class _Trace:
    """One object so far; of each line (L,) the side that it was clearly on last, and whether it went over since."""

    first_s: float
    seen_s: float
    point_xy: Floats
    sides: npt.NDArray[np.int8]
    over: Bools
    stays: list[_Stay]
    now: Whereabouts = Whereabouts()


class Presence:
    """Follows objects through the zones and over the lines of one camera, by their track ids.

    Only pictures in which the model found an object count for it: what it does between two of them is a straight way,
    and time between two that show it inside a zone is time inside.
    """

    def __init__(self, zones: Zones, lines: Lines) -> None:
        self.line_names = lines.names
        self._zones = zones
        self._lines = lines
        self._traces: dict[int, _Trace] = {}

    def update(
        self, track_ids: Sequence[int], labels: Sequence[str], points_xy: Floats, at_s: float, found: Bools
    ) -> list[Whereabouts]:
        """Take a picture; return where each object is. Call it from an object's first picture on.

        Args:
            track_ids: of the N objects.
            labels: of the N objects.
            points_xy: (N, 2) middles of their lower edges, in fractions of the picture.
            at_s: monotonic seconds of the picture.
            found: (N,) whether the model found each in this picture; those it did not stay as they were.
        """
        inside = self._zones.contains(points_xy) & self._zones.concerns(labels)
        crosses = self._lines.concerns(labels)
        for row in np.flatnonzero(found).tolist():
            trace = self._traces.get(track_ids[row]) or self._begin(track_ids[row], points_xy[row], at_s)
            crossings = self._cross(trace, points_xy[row], at_s, crosses[row])
            for stay, within, zone in zip(trace.stays, inside[row].tolist(), self._zones.settings, strict=True):
                stay.see(within, at_s - trace.seen_s, zone)
            trace.seen_s = at_s
            trace.now = self._whereabouts(trace, crossings)
        return [self._traces[id_].now if id_ in self._traces else Whereabouts() for id_ in track_ids]

    def forget(self, track_id: int) -> None:
        """Drop what is known of an object that is gone."""
        self._traces.pop(track_id, None)

    def _begin(self, track_id: int, point_xy: Floats, at_s: float) -> _Trace:
        count = len(self._lines.names)
        stays = [_Stay() for _ in self._zones.names]
        trace = _Trace(at_s, at_s, point_xy, np.zeros(count, np.int8), np.zeros(count, bool), stays)
        self._traces[track_id] = trace
        return trace

    def _cross(self, trace: _Trace, point_xy: Floats, at_s: float, concerned: Bools) -> tuple[Crossing, ...]:
        """Move the object on to a point (2,); return its new crossings."""
        # There and back again is not over, and round the end of a line neither.
        trace.over ^= self._lines.passed(trace.point_xy, point_xy)
        distances = self._lines.distances(point_xy)
        clear = np.abs(distances) > LINE_MARGIN
        sides = np.sign(distances).astype(np.int8)
        crossed = concerned & clear & trace.over & (sides == -trace.sides)
        trace.sides = np.where(clear, sides, trace.sides)
        trace.over &= ~clear
        trace.point_xy = point_xy
        crossings = []
        for line in np.flatnonzero(crossed).tolist():
            direction: Literal["in", "out"] = "in" if sides[line] > 0 else "out"
            crossings.append(Crossing(self._lines.names[line], direction, at_s - trace.first_s))
        return tuple(crossings)

    def _whereabouts(self, trace: _Trace, crossings: tuple[Crossing, ...]) -> Whereabouts:
        before = trace.now
        named = dict(zip(self._zones.names, trace.stays, strict=True))
        zones = tuple(name for name, stay in named.items() if stay.counted)
        entered_zones = tuple(dict.fromkeys(before.entered_zones + zones))
        return Whereabouts(
            zones=zones,
            entered_zones=entered_zones,
            dwell_s={name: named[name].seconds for name in entered_zones},
            stay_s={name: named[name].stay_s for name in zones},
            crossings=(before.crossings + crossings)[-CROSSINGS:],
            crossing_count=before.crossing_count + len(crossings),
        )


def _concerns(settings: Sequence[ZoneConfig | LineConfig], labels: Sequence[str]) -> Bools:
    rows = [[not part.objects or label in part.objects for part in settings] for label in labels]
    return np.array(rows, bool).reshape(len(labels), len(settings))
