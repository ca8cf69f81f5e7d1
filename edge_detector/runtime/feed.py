"""A camera's way through the pipeline: its newest frame, its newest detections, its publishers and counters."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import UnreadablePicture
from edge_detector.frame import Frame, FrameResult
from edge_detector.publishers import Publisher
from edge_detector.runtime.metrics import CameraStatus, LatencyMeter, PipelineStats, RateMeter
from edge_detector.sources import Source

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """Detections and the frame that they were computed on, without its pixels."""

    detections: Detections
    detected_at: float
    size_wh: tuple[int, int]
    timings_s: Mapping[str, float]
    device: str


class Feed:
    """A source, what is known of it, and where its results go.

    `detect_fps` limits inferences per second; frames and detections that are older than `max_age_s` seconds are not
    used any more.

    Attributes:
        stats: the counters, up to date while it runs.
        latency: from taking a picture to publishing what was found in it.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        publishers: Iterable[Publisher] = (),
        *,
        detect_fps: float | None = None,
        max_age_s: float = math.inf,
        detecting: bool = True,
    ) -> None:
        self.name = name
        self.source = source
        self.stats = PipelineStats()
        self.latency = LatencyMeter()
        self._publishers = list(publishers)
        self._period_s = 1 / detect_fps if detect_fps else 0.0
        self._max_age_s = max_age_s
        self._detecting = detecting
        self._capture_rate = RateMeter()
        self._inference_rate = RateMeter()
        self._failing: set[str] = set()
        self._waiting: Frame | None = None  # for inference; guarded by the pipeline's lock, as what follows
        self._due_s = -math.inf
        self.served_s = -math.inf
        self._newest: Inference | None = None
        self._published: Inference | None = None
        self._captured_s: float | None = None
        self._started_s = time.monotonic()

    def add(self, publisher: Publisher) -> None:
        """Send results there too; before it runs."""
        self._publishers.append(publisher)

    @property
    def detecting(self) -> bool:
        """Whether its frames are searched; may be set at any time, from any thread."""
        return self._detecting

    @detecting.setter
    def detecting(self, on: bool) -> None:
        if on != self._detecting:
            logger.info("%s: detection is %s", self.name, "on again" if on else "paused")
        self._detecting = on
        if not on:
            self._newest = None

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
        return frame

    # Waiting for inference.

    def offer(self, frame: Frame) -> None:
        """Let `frame` wait for inference in place of an older one."""
        if self._detecting:
            self.stats.dropped += self._waiting is not None
            self._waiting = frame

    def ready_in_s(self, now_s: float) -> float:
        """Return seconds until a frame may be taken: 0 or less for now, infinity without one."""
        if self._waiting is not None and (not self._detecting or now_s - self._waiting.captured_at > self._max_age_s):
            self.stats.dropped += 1
            self._waiting = None
        return math.inf if self._waiting is None else self._due_s - now_s

    def take(self, now_s: float) -> Frame:
        """Take the frame that waits."""
        frame, self._waiting = self._waiting, None
        assert frame is not None  # noqa: S101 - `ready_in_s` said so
        # From when it was due, so that the rate is met on average; a late one is not caught up by a burst.
        self._due_s = max(self._due_s, now_s - self._period_s) + self._period_s
        self.served_s = now_s
        return frame

    def detect(self, detector: Detector, frame: Frame) -> Inference:
        """Search `frame` and remember what was found."""
        detections, timings_s = detector.detect_timed(frame)
        self.stats.inferred += 1
        self._inference_rate.tick()
        inference = Inference(detections, frame.captured_at, frame.size_wh, timings_s, detector.device)
        if self._detecting:
            self._newest = inference
        return inference

    # Results.

    def publish_newest(self, frame: Frame) -> None:
        """Hand the frame to all publishers with the newest detections, if they are not too old."""
        inference = self._newest
        if inference is not None and frame.captured_at - inference.detected_at > self._max_age_s:
            inference = None
        self.publish(frame, inference)

    def publish(self, frame: Frame, inference: Inference | None) -> None:
        """Hand the frame to all publishers; without an inference, with no detections and no timings."""
        fps = {"capture": self._capture_rate.per_second, "inference": self._inference_rate.per_second}
        if inference is None:
            result = FrameResult(frame, Detections.empty(), frame.captured_at, {}, fps, self.name)
        else:
            found = _in_pixels_of(frame, inference)
            result = FrameResult(
                frame, found, inference.detected_at, inference.timings_s, fps, self.name, inference.device
            )
        for publisher in self._publishers:
            try:
                publisher.publish(result)
            except Exception as error:  # noqa: BLE001 - one failing publisher must not stop the others
                self.stats.publish_errors += 1
                if publisher.name not in self._failing:
                    self._failing.add(publisher.name)
                    logger.error("%s: %s (further errors of it are only counted)", publisher.name, error)
        self.stats.published += 1
        if inference is not None and inference is not self._published:
            self._published = inference
            self.latency.add(time.monotonic() - inference.detected_at)

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
            fps={"capture": self._capture_rate.per_second, "inference": self._inference_rate.per_second},
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
        )


def _in_pixels_of(frame: Frame, inference: Inference) -> Detections:
    """Return the detections in pixels of `frame`, also if the source has changed its resolution since."""
    if inference.size_wh == frame.size_wh:
        return inference.detections
    scale_xy = np.divide(frame.size_wh, inference.size_wh, dtype=np.float32)
    return replace(inference.detections, xyxy=inference.detections.xyxy * np.tile(scale_xy, 2))
