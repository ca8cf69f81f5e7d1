"""SinkFilter: what of results and events a sink wants."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.events import Alert, Event, ObjectState
from edge_detector.frame import FrameResult
from edge_detector.sink_config import SinkFilterConfig

KINDS = ("new", "update", "end", "alert")
TOLD_MAX = 1000  # objects of a camera that are there at the same time


class Rate:
    """Lets through `per_s` per second on average, at most `burst` at once; what comes late is not caught up."""

    def __init__(self, per_s: float, burst: int = 1) -> None:
        self._period_s = 1 / per_s
        self._burst = burst
        self._due_s = -math.inf

    def take(self, now_s: float) -> bool:
        """Return whether one may go now."""
        late_s = now_s - self._due_s
        if late_s < -1e-6:  # times are rounded
            return False
        saved = self._burst * self._period_s
        self._due_s = (self._due_s if late_s < saved else now_s - saved + self._period_s) + self._period_s
        return True


class SinkFilter:
    """Tells what is wanted; for results of several cameras, each on one thread.

    `settings` say what, `labels` are the model's, by class id.
    """

    def __init__(
        self,
        settings: SinkFilterConfig,
        labels: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._class_ids = [number for number, label in enumerate(labels) if label in settings.labels]
        self._clock = clock
        self._rates: dict[tuple[str, str], Rate] = {}  # by what goes, and camera
        self._passed: dict[str, float | None] = {}  # `detected_at` of each camera's newest result that went

    def wants_camera(self, camera: str) -> bool:
        """Return whether anything of this camera is wanted."""
        return not self._settings.cameras or camera in self._settings.cameras

    def wants_object(self, seen: ObjectState, *, was_large: bool = False) -> bool:
        """Return whether an object is wanted, as it is now, or if it `was_large` enough, however large it is now."""
        settings = self._settings
        sides = seen.box if settings.min_area >= 1 else seen.box_norm
        return (
            self.wants_camera(seen.camera)
            and (not settings.labels or seen.label in settings.labels)
            and (not settings.zones or not set(settings.zones).isdisjoint(seen.entered_zones))
            and seen.top_score >= settings.min_score
            and (was_large or (sides[2] - sides[0]) * (sides[3] - sides[1]) >= settings.min_area)
        )

    def takes_event(self, event: Event | Alert, *, was_large: bool = False) -> bool:
        """Return whether an event or alert goes, as it happens; the rate is that of its kind. See `wants_object`."""
        return self.wants_object(event.object, was_large=was_large) and self.may_go(_kind(event), event.object.camera)

    def takes_result(self, result: FrameResult) -> bool:
        """Return whether a result goes, as it comes: of a camera that is wanted, and not more often than wanted."""
        seen = result.detected_at is not None and result.detected_at == self._passed.get(result.camera)
        if not self.wants_camera(result.camera) or (seen and self._settings.max_per_s is not None):
            return False
        if not self.may_go("result", result.camera):
            return False
        self._passed[result.camera] = result.detected_at
        return True

    def rest_of(self, result: FrameResult) -> FrameResult:
        """Return a result with the detections that are wanted alone."""
        kept = self._kept(result)
        if kept.all():
            return result
        return replace(
            result,
            detections=result.detections[kept],
            ages_s=None if result.ages_s is None else result.ages_s[kept],
            zones=[zones for zones, keep in zip(result.zones, kept.tolist(), strict=True) if keep]
            if result.zones
            else result.zones,
        )

    def _kept(self, result: FrameResult) -> npt.NDArray[np.bool_]:
        settings, found = self._settings, result.detections
        kept = found.confidence >= settings.min_score
        if settings.labels:
            kept &= np.isin(found.class_id, self._class_ids)
        if settings.min_area:
            width, height = result.frame.size_wh
            sides = found.xyxy[:, 2:] - found.xyxy[:, :2]
            kept &= np.prod(sides, axis=1) >= settings.min_area * (width * height if settings.min_area < 1 else 1)
        if settings.zones:
            inside = [not set(settings.zones).isdisjoint(zones) for zones in result.zones]
            kept &= np.array(inside, bool) if result.zones else False
        return kept

    def may_go(self, kind: str, camera: str) -> bool:
        """Return whether one more of a kind may go now."""
        per_s = self._settings.max_per_s
        if per_s is None:
            return True
        burst = 1 if kind == "result" else max(1, int(per_s))  # events come together, results evenly
        return self._rates.setdefault((kind, camera), Rate(per_s, burst)).take(self._clock())


class Filtered:
    """A `Publisher` and `EventPublisher` that hands on to `publisher`, which is either or both, what is wanted.

    Events are of `kinds`. To the publisher, too, an object has one "new" before all else, and then one "end": that it
    is wanted, or that the rate allows to tell of it, may turn out later.
    """

    def __init__(
        self, publisher: Any, settings: SinkFilterConfig, labels: Sequence[str], kinds: Collection[str] = KINDS
    ) -> None:
        self.name: str = publisher.name
        self._publisher = publisher
        self._filter = SinkFilter(settings, labels)
        self._kinds = kinds
        self._told: dict[str, dict[str, None]] = {}  # objects that were begun with and not ended, by camera and id

    def publish(self, result: FrameResult) -> None:
        """Hand on what is wanted of a result, if it is."""
        if self._filter.takes_result(result):
            self._publisher.publish(self._filter.rest_of(result))

    def publish_event(self, event: Event | Alert) -> None:
        """Hand on an event or alert, if it is wanted."""
        if isinstance(event, Alert):
            goes = "alert" in self._kinds and self._filter.takes_event(event)
        else:
            event, goes = self._in_order(event)
        if goes:
            self._publisher.publish_event(event)

    def close(self) -> None:
        """Close the publisher."""
        self._publisher.close()

    def _in_order(self, event: Event) -> tuple[Event, bool]:
        """Return what an event is to the publisher, and whether it goes there."""
        seen = event.object
        told = self._told.setdefault(seen.camera, {})
        wanted = event.kind in self._kinds
        if event.kind == "end":
            return event, told.pop(seen.id, "") is None and wanted
        if seen.id not in told:
            event = replace(event, kind="new")
            wanted = "new" in self._kinds
        if not self._filter.wants_object(seen) or (wanted and not self._filter.may_go(event.kind, seen.camera)):
            return event, False
        told[seen.id] = None
        if len(told) > TOLD_MAX:
            del told[next(iter(told))]
        return event, wanted


def filtered(publisher: Any, settings: SinkFilterConfig, labels: Sequence[str]) -> Any:
    """Return the publisher, or if not all is wanted, one that hands on what is; settings may name `kinds` of events."""
    wanted = SinkFilterConfig(**{key: getattr(settings, key) for key in SinkFilterConfig.model_fields})
    kinds = getattr(settings, "kinds", KINDS)
    if wanted == SinkFilterConfig() and set(kinds) == set(KINDS):
        return publisher
    return Filtered(publisher, wanted, labels, kinds)


def _kind(event: Event | Alert) -> str:
    return "alert" if isinstance(event, Alert) else event.kind
