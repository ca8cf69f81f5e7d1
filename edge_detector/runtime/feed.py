"""A camera's way through the pipeline: its newest frame, its newest detections, its publishers and counters."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import UnreadablePicture
from edge_detector.events import Alert, EndReason
from edge_detector.frame import Frame, FrameResult
from edge_detector.publishers import EventPublisher, Publisher
from edge_detector.runtime.metrics import CameraStatus, LatencyMeter, PipelineStats, RateMeter, SearchMeter, StageMeters
from edge_detector.sources import Source
from edge_detector.tracking.follower import Follower
from edge_detector.tracking.regions import Region

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """A frame that is to be searched, or a part of it."""

    frame: Frame
    region: Region | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """What a search found, in pixels of its frame."""

    detections: Detections
    search: Search
    timings_s: Mapping[str, float]
    device: str

    @property
    def detected_at(self) -> float:
        """When the frame was taken."""
        return self.search.frame.captured_at


class Feed:
    """A source, what is known of it, and where its results go.

    The thread that reads the source looks at every frame, offers it for inference, applies what inferences found, and
    publishes; the thread that runs inference takes frames and gives results back. `follower` carries objects from
    inference to inference and tells what happens to them; without one, boxes stay as they were found.

    `detect_fps` limits inferences per second; frames and detections that are older than `max_age_s` seconds are not
    used any more. A source that says it is live and gives no picture for `patience_s` does not work.

    Attributes:
        stats: the counters, up to date while it runs.
        latency: from taking a picture to publishing what was found in it.
        size_wh: of the newest frame; None before the first.
        beat_s: monotonic time of its thread's last completed work, or of having none.
        stages: "wait" from taking a picture to its search, those of the detector, "track" and "publish" per picture.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        publishers: Iterable[Publisher] = (),
        *,
        detect_fps: float | None = None,
        max_age_s: float = math.inf,
        patience_s: float = math.inf,
        detecting: bool = True,
        follower: Follower | None = None,
        event_publishers: Iterable[EventPublisher] = (),
    ) -> None:
        self.name = name
        self.source = source
        self.stats = PipelineStats()
        self.latency = LatencyMeter()
        self.stages = StageMeters()
        self._publishers = list(publishers)
        self._event_publishers = list(event_publishers)
        self._follower = follower
        self._next_follower: Follower | None = None
        self._publishing = threading.Lock()
        self.set_pace(detect_fps, max_age_s, patience_s)
        self._detecting = detecting
        self._capture_rate = RateMeter()
        self._inference_rate = RateMeter()
        self._process_rate = RateMeter()
        self._skip_rate = RateMeter()
        self._searches = SearchMeter()
        self._failing: set[str] = set()
        self._waiting: Search | None = None  # for inference; guarded by the pipeline's lock, as what follows
        self._due_s = -math.inf
        self.served_s = -math.inf
        self._offered: Search | None = None
        self._results: deque[Inference] = deque()  # from the inference thread, not applied yet
        self._newest: Inference | None = None
        self._published: Inference | None = None
        self._captured_s: float | None = None
        self.size_wh: tuple[int, int] | None = None
        self._ended_s = -math.inf  # when the newest picture was taken as all objects were ended
        self._started_s = self.beat_s = time.monotonic()

    def add(self, publisher: Publisher) -> None:
        """Send results there too; from any thread."""
        with self._publishing:
            self._publishers.append(publisher)

    def add_events(self, publisher: EventPublisher) -> None:
        """Send events and alerts there too; from any thread."""
        with self._publishing:
            self._event_publishers.append(publisher)

    def remove(self, publisher: Any) -> None:
        """Send nothing there any more; from any thread."""
        with self._publishing:
            for publishers in (self._publishers, self._event_publishers):
                if publisher in publishers:
                    publishers.remove(publisher)
            self._failing.discard(publisher.name)

    def set_pace(self, detect_fps: float | None, max_age_s: float, patience_s: float) -> None:
        """Set what the class states under these names; from any thread."""
        self._period_s = 1 / detect_fps if detect_fps else 0.0
        self._max_age_s = max_age_s
        self._patience_s = patience_s

    def follow_with(self, follower: Follower) -> None:
        """Follow with this one from the next frame on; what is there ends, and is found anew. From any thread."""
        self._next_follower = follower

    @property
    def detecting(self) -> bool:
        """Whether its frames are searched; may be set at any time, from any thread."""
        return self._detecting

    @detecting.setter
    def detecting(self, on: bool) -> None:
        if on != self._detecting:
            told = "on again" if on else "paused"
            logger.info("%s: detection is %s", self.name, told, extra={"camera": self.name})
        self._detecting = on

    def read(self, timeout_s: float) -> Frame | None:
        """Return the source's next frame, counted; None for a picture that cannot be read."""
        try:
            frame = self.source.read(timeout_s)
        except UnreadablePicture as error:
            self.stats.unreadable += 1
            logger.warning("skipped %s", error)
            return None
        if frame is not None:
            self.stats.captured += 1
            self._capture_rate.tick()
            self._captured_s = frame.captured_at
            self.size_wh = frame.size_wh
        return frame

    # On the thread that reads.

    def look(self, frame: Frame) -> bool:
        """Take the newest frame, and what was found since the last; return whether the frame may be searched."""
        started_s = time.perf_counter()
        try:
            return self._look(frame)
        finally:
            self.stages.add("track", time.perf_counter() - started_s)

    def _look(self, frame: Frame) -> bool:
        if self._next_follower is not None:
            self.end("settings")
            self._follower, self._next_follower = self._next_follower, None
        if not self._detecting:
            self._searches.forget()
            self.end("paused")
            return False
        in_order = self._follower is None or self._follower.look(frame)
        while self._results:
            inference = self._results.popleft()
            age_s = frame.captured_at - inference.detected_at
            if age_s <= self._max_age_s and inference.detected_at > self._ended_s:
                self.apply(inference)
        newest = self._newest
        if newest is not None and frame.captured_at - newest.detected_at > 2 * max(self._max_age_s, self._period_s):
            self.end("inference")
        return in_order

    def wait(self) -> None:
        """Notice that no frame has come."""
        if self._captured_s is not None and time.monotonic() - self._captured_s > self._max_age_s:
            self._searches.forget()
            self.end("camera")

    def beat(self) -> None:
        """Note that work was completed: a picture published, or none expected."""
        now_s = time.monotonic()
        newest_s = self._started_s if self._captured_s is None else self._captured_s
        if now_s - newest_s < self._patience_s or self.source.health.state != "live":
            self.beat_s = now_s

    def search(self, frame: Frame) -> Search | None:
        """Return what of the frame that was looked at last is worth an inference, None for nothing."""
        if self._waiting is None and self._offered is not None:  # that was taken
            self.searching(self._offered)
            self._offered = None
        if self._follower is None:
            return Search(frame)
        if not self._follower.wants_search():
            self.stats.skipped += 1
            self._skip_rate.tick()
            return None
        return Search(frame, self._follower.propose_region(frame.size_wh))

    def apply(self, inference: Inference) -> None:
        """Take over what was found."""
        self._newest = inference
        if self._follower is not None:
            self._follower.found(inference.detections, inference.search.frame, inference.search.region)
            self._publish_events()

    def searching(self, search: Search) -> None:
        """Note that a search is under way, so that the next one is for another part of the picture."""
        if self._follower is not None:
            self._follower.searching(search.frame, search.region)

    def end(self, reason: EndReason) -> None:
        """End all objects: nobody looks any more."""
        self._newest = None
        self._results.clear()
        if self._captured_s is not None:
            self._ended_s = self._captured_s
        if self._follower is not None:
            self._follower.end(reason)
            self._publish_events()

    def _publish_events(self) -> None:
        events = [] if self._follower is None else self._follower.take_events()
        for event in events:
            if isinstance(event, Alert):
                logger.info("%s: rule %s: %s #%d", self.name, event.rule, event.object.label, event.object.track_id)
            with self._publishing:
                for publisher in self._event_publishers:
                    self._try(publisher.name, lambda: publisher.publish_event(event))  # noqa: B023 - called at once

    # Waiting for inference.

    def offer(self, search: Search) -> None:
        """Let `search` wait for inference in place of an older one."""
        self.stats.dropped += self._waiting is not None
        self._waiting = self._offered = search
        self._searches.want()

    def ready_in_s(self, now_s: float) -> float:
        """Return seconds until a frame may be taken: 0 or less for now, infinity without one."""
        waiting = self._waiting
        if waiting is not None and (not self._detecting or now_s - waiting.frame.captured_at > self._max_age_s):
            self.stats.dropped += 1
            self._waiting = self._offered = waiting = None
        return math.inf if waiting is None else self._due_s - now_s

    def is_due(self, now_s: float) -> bool:
        """Return whether the rate allows a search now."""
        return now_s >= self._due_s - 1e-6  # times of a file are rounded

    def take(self, now_s: float) -> Search:
        """Take the search that waits."""
        search, self._waiting = self._waiting, None
        assert search is not None  # noqa: S101 - `ready_in_s` said so
        self.plan_next(now_s)
        return search

    def plan_next(self, now_s: float) -> None:
        """Note that a search begins now; the next one is due after the period that the rate allows."""
        # From when it was due, so that the rate is met on average; a late one is not caught up by a burst.
        late_s = now_s - self._due_s
        self._due_s = (self._due_s if late_s < self._period_s else now_s) + self._period_s
        self.served_s = now_s

    def detect(self, detector: Detector, search: Search) -> Inference:
        """Search; on the thread that runs inference."""
        begun_s = self._searches.begin()
        if self.source.live:
            self.stages.add("wait", begun_s - search.frame.captured_at)
        detections, timings_s = detector.detect_timed(search.frame, search.region)
        for stage, duration_s in timings_s.items():
            self.stages.add(stage, duration_s)
        self._searches.end()
        self.stats.inferred += 1
        self._inference_rate.tick()
        return Inference(detections, search, timings_s, detector.device)

    def hand_over(self, inference: Inference) -> None:
        """Leave a result for the thread that reads; from the thread that runs inference."""
        self._results.append(inference)

    # Results.

    def publish_newest(self, frame: Frame) -> None:
        """Hand the frame to all publishers with what is known of its objects, if that is not too old."""
        inference = self._newest
        if inference is not None and frame.captured_at - inference.detected_at > self._max_age_s:
            inference = None
        self.publish(frame, inference)

    def publish(self, frame: Frame, inference: Inference | None) -> None:
        """Hand the frame to all publishers; without an inference, with no detections and no timings."""
        result = self._result(frame, inference)
        started_s = time.perf_counter()
        with self._publishing:
            for publisher in self._publishers:
                self._try(publisher.name, lambda: publisher.publish(result))  # noqa: B023 - called at once
        self.stages.add("publish", time.perf_counter() - started_s)
        self.stats.published += 1
        self._process_rate.tick()
        if inference is not None and inference is not self._published:
            self._published = inference
            if self.source.live:
                self.latency.add(time.monotonic() - inference.detected_at)

    def _result(self, frame: Frame, inference: Inference | None) -> FrameResult:
        fps = {"capture": self._capture_rate.per_second, "inference": self._inference_rate.per_second}
        result = FrameResult(frame, Detections.empty(), None, {}, fps, self.name)
        if inference is None:
            return result
        timings_s = inference.timings_s if self.source.live else {}
        result = replace(result, detected_at=inference.detected_at, timings_s=timings_s, device=inference.device)
        follower = self._follower
        if follower is None:
            return replace(result, detections=_in_pixels_of(frame, inference))
        detections, ages_s, zones = follower.objects(frame.size_wh)
        return replace(
            result,
            detections=detections,
            ages_s=ages_s,
            zones=zones,
            line_counts=follower.line_counts,
            still=follower.still,
        )

    def _try(self, name: str, publish: Callable[[], None]) -> None:
        try:
            publish()
        except Exception as error:  # noqa: BLE001 - one failing publisher must not stop the others
            self.stats.publish_errors += 1
            if name not in self._failing:
                self._failing.add(name)
                logger.error("%s: %s (further errors of it are only counted)", name, error, extra={"sink": name})

    def status(self) -> CameraStatus:
        """Return how it is."""
        now_s, health, captured_s = time.monotonic(), self.source.health, self._captured_s
        return CameraStatus(
            source=self.source.name,
            state=health.state,
            state_s=now_s - max(health.since, self._started_s),
            error=health.error,
            detecting=self._detecting,
            silent_s=None if captured_s is None else now_s - captured_s,
            fps={
                "capture": self._capture_rate.per_second,
                "inference": self._inference_rate.per_second,
                "process": self._process_rate.per_second,
                "skipped": self._skip_rate.per_second,
            },
            stats=replace(self.stats),
            recovery={
                "reopened": health.reopened,
                "recreated": health.recreated,
                "freezes": health.freezes,
                "abandoned": health.abandoned,
            },
            latency=self.latency.histogram,
            latency_p50_s=self.latency.percentile(50),
            latency_p95_s=self.latency.percentile(95),
            restarts={"error": health.errors, "hang": health.hangs, "freeze": health.freezes},
            searched_s=self._searches.age_s,
            pending_s=self._searches.pending_s(self._due_s),
            stages=self.stages.histograms,
        )


def _in_pixels_of(frame: Frame, inference: Inference) -> Detections:
    """Return the detections in pixels of `frame`, also if the source has changed its resolution since."""
    searched = inference.search.frame
    if searched.size_wh == frame.size_wh:
        return inference.detections
    scale_xy = np.divide(frame.size_wh, searched.size_wh, dtype=np.float32)
    return replace(inference.detections, xyxy=inference.detections.xyxy * np.tile(scale_xy, 2))
