"""What the service measures about itself: rates, counters, latencies, and the status that is made of them."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_WINDOW = 30  # events
_RECENT = 1000  # latencies that the percentiles are of


class RateMeter:
    """Events per second over the last 30 events; sinks towards 0 when no more come. One thread ticks, any may read."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=_WINDOW)

    def tick(self) -> None:
        """Count one event, now."""
        self._times_s.append(time.monotonic())

    @property
    def per_second(self) -> float:
        """The rate; 0 before the second event."""
        times_s = list(self._times_s)
        count = len(times_s)
        if count < 2:
            return 0.0
        between_first_and_last = times_s[-1] - times_s[0]
        # The pause since the last event counts as soon as it is longer than the mean interval.
        with_pause = (time.monotonic() - times_s[0]) * (count - 1) / count
        return (count - 1) / max(between_first_and_last, with_pause, 1e-9)


class LatencyMeter:
    """Histogram of all latencies, and percentiles of the last 1000. One thread adds, any may read."""

    BOUNDS_S = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)

    def __init__(self) -> None:
        self._counts = [0] * (len(self.BOUNDS_S) + 1)
        self._sum_s = 0.0
        self._recent_s: deque[float] = deque(maxlen=_RECENT)

    def add(self, latency_s: float) -> None:
        """Count one."""
        self._counts[bisect_left(self.BOUNDS_S, latency_s)] += 1
        self._sum_s += latency_s
        self._recent_s.append(latency_s)

    @property
    def histogram(self) -> Histogram:
        """All so far."""
        return Histogram(self.BOUNDS_S, tuple(self._counts), self._sum_s)

    def percentile(self, percent: float) -> float | None:
        """Return that percentile of the last 1000 in seconds, or None before the first."""
        recent_s = sorted(self._recent_s)
        return recent_s[min(len(recent_s) - 1, int(len(recent_s) * percent / 100))] if recent_s else None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts per interval: up to and with each bound in seconds, and beyond the last."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float


@dataclass(slots=True)
class PipelineStats:
    """Counters of one run; each is written by one thread only.

    Attributes:
        captured: frames read from the source.
        dropped: frames that no inference saw because a newer one came first, or that were too old (live sources only).
        skipped: frames that were not worth an inference because nothing moved.
        inferred: frames that detections were computed on.
        published: results handed to the publishers.
        unreadable: pictures that could not be decoded and were skipped.
        publish_errors: results that a publisher failed to take.
    """

    captured: int = 0
    dropped: int = 0
    skipped: int = 0
    inferred: int = 0
    published: int = 0
    unreadable: int = 0
    publish_errors: int = 0

    def __add__(self, other: PipelineStats) -> PipelineStats:
        mine, others = asdict(self), asdict(other)
        return PipelineStats(**{name: count + others[name] for name, count in mine.items()})


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How a camera and its detections are.

    Attributes:
        source: URI without credentials.
        state: "opening", "live", "frozen", "reconnecting" or "failed"; see `SourceHealth`.
        state_s: seconds that it has been so.
        error: what is wrong with it, or None.
        detecting: false while detection is paused.
        silent_s: seconds since the newest picture; None before the first.
        fps: "capture" and "inference" per second.
        stats: counters since the start.
        recovery: "reopened", "recreated", "freezes" and "abandoned" since the start.
        latency: seconds from taking a picture to publishing what was found in it.
        latency_p50_s: median of the last 1000 of these, and
        latency_p95_s: their 95th percentile; None before the first.
    """

    source: str
    state: str
    state_s: float
    error: str | None
    detecting: bool
    silent_s: float | None
    fps: Mapping[str, float]
    stats: PipelineStats
    recovery: Mapping[str, int]
    latency: Histogram
    latency_p50_s: float | None
    latency_p95_s: float | None


@dataclass(frozen=True, slots=True)
class DetectorStatus:
    """How inference is.

    Attributes:
        model: name of the model.
        backend: what runs it now.
        wanted: device that was asked for.
        device: device that runs it now.
        state: "ok", or "fallback" while the CPU stands in for the device that was asked for.
        state_s: seconds that it has been so.
        failures: times that the device failed.
        error: why it failed last, or None.
    """

    model: str
    backend: str
    wanted: str = "cpu"
    device: str = "cpu"
    state: str = "ok"
    state_s: float = 0.0
    failures: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What the process uses.

    Attributes:
        uptime_s: seconds since its pipeline was made.
        threads: of this process.
        open_fds: open file descriptors.
        rss_bytes: memory in use.
        abandoned: threads that hang in a call and were left behind.
        temperature_c: of the processor; None where it is not known.
    """

    uptime_s: float
    threads: int
    open_fds: int
    rss_bytes: int
    abandoned: int
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """All of it; cameras by their names."""

    detector: DetectorStatus
    process: ProcessStatus
    cameras: Mapping[str, CameraStatus] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, numbers rounded."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value
