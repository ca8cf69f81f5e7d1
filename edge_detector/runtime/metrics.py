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
HANGS_S = 10.0  # a sink that takes longer for one thing


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


class HistogramMeter:
    """Histogram of all durations; `bounds_s` are its bounds in seconds. One thread adds, any may read."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds_s, duration_s)] += 1
        self._sum_s += duration_s

    @property
    def histogram(self) -> Histogram:
        """All so far."""
        return Histogram(self._bounds_s, tuple(self._counts), self._sum_s)


class StageMeters:
    """How long each stage takes, by its name; of each stage one thread adds, any may read."""

    BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    def __init__(self) -> None:
        self._meters: dict[str, HistogramMeter] = {}

    def add(self, stage: str, duration_s: float) -> None:
        """Count one."""
        meter = self._meters.get(stage)
        if meter is None:
            meter = self._meters[stage] = HistogramMeter(self.BOUNDS_S)
        meter.add(duration_s)

    @property
    def histograms(self) -> dict[str, Histogram]:
        """All so far."""
        return {stage: meter.histogram for stage, meter in dict(self._meters).items()}


class SearchMeter:
    """Whether searches come to their ends. The thread that reads wants them, that of inference begins and ends them."""

    def __init__(self) -> None:
        self._wanted_s: float | None = None  # since when one has been wanted, and none ended
        self._begun_s: float | None = None  # when the one under way began
        self._ended_s: float | None = None  # when the newest ended

    def want(self) -> None:
        """One is wanted."""
        if self._wanted_s is None:
            self._wanted_s = time.monotonic()

    def forget(self) -> None:
        """None is wanted any more."""
        self._wanted_s = None

    def begin(self) -> float:
        """One begins; return the time."""
        self._begun_s = begun_s = time.monotonic()
        return begun_s

    def end(self) -> None:
        """It has ended."""
        self._begun_s = self._wanted_s = None
        self._ended_s = time.monotonic()

    @property
    def age_s(self) -> float | None:
        """Seconds since the newest ended; None before the first."""
        return None if self._ended_s is None else time.monotonic() - self._ended_s

    def pending_s(self, due_s: float) -> float:
        """Return for how long one has been under way, or else wanted and due."""
        now_s, begun_s, wanted_s = time.monotonic(), self._begun_s, self._wanted_s
        if begun_s is not None:
            return now_s - begun_s
        return 0.0 if wanted_s is None else max(0.0, now_s - max(wanted_s, due_s))


class LatencyMeter:
    """Histogram of all latencies, and percentiles of the last 1000. One thread adds, any may read."""

    BOUNDS_S = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)

    def __init__(self) -> None:
        self._all = HistogramMeter(self.BOUNDS_S)
        self._recent_s: deque[float] = deque(maxlen=_RECENT)

    def add(self, latency_s: float) -> None:
        """Count one."""
        self._all.add(latency_s)
        self._recent_s.append(latency_s)

    @property
    def histogram(self) -> Histogram:
        """All so far."""
        return self._all.histogram

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

    @property
    def mean_s(self) -> float:
        """The mean; 0 where there are none."""
        return self.sum_s / max(1, sum(self.counts))


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
        fps: "capture", "inference", "process" (handed to the publishers) and "skipped" (nothing moved) per second.
        stats: counters since the start.
        recovery: "reopened", "recreated", "freezes" and "abandoned" since the start.
        latency: seconds from taking a picture to publishing what was found in it.
        latency_p50_s: median of the last 1000 of these, and
        latency_p95_s: their 95th percentile; None before the first.
        restarts: times that it had to be started again, by cause: "error", "hang", "freeze".
        searched_s: seconds since the newest search ended; None before the first.
        pending_s: seconds that a search has been due or under way; 0 while none is.
        stages: seconds that each stage takes.
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
    restarts: Mapping[str, int] = field(default_factory=dict)
    searched_s: float | None = None
    pending_s: float = 0.0
    stages: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DetectorStatus:
    """How inference is.

    Attributes:
        model: name of the model.
        backend: what runs it now.
        wanted: device that was asked for.
        device: device that runs it now.
        state: "ok", or "fallback" while the CPU stands in for the device that was asked for, "retrying" while that is
            tried.
        state_s: seconds that it has been so.
        failures: times that the device failed.
        error: why it failed last, or None.
        causes: the failures by what they were: "crash", "hang" or "error".
    """

    model: str
    backend: str
    wanted: str = "cpu"
    device: str = "cpu"
    state: str = "ok"
    state_s: float = 0.0
    failures: int = 0
    error: str | None = None
    causes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What the process uses.

    Attributes:
        uptime_s: seconds since its pipeline was made.
        threads: of this process.
        open_fds: open file descriptors; None if the system has no room to count them.
        rss_bytes: memory in use; None if the system has no room to look.
        abandoned: threads that hang in a call and were left behind.
        temperature_c: of the processor; None where it is not known.
        cpu_s: seconds of processor time, of all threads.
        throttled: what the Raspberry Pi's firmware says of power and heat now, by name; empty where it says nothing.
    """

    uptime_s: float
    threads: int
    open_fds: int | None
    rss_bytes: int | None
    abandoned: int
    temperature_c: float | None = None
    cpu_s: float = 0.0
    throttled: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """How something is that results go to.

    Attributes:
        state: "ok"; "failing": it does not take what it is given; "hanging": it has not answered for 10 s; "ended": it
            failed for good.
        trouble_s: seconds that it has been so; 0 while it is ok.
        error: what is wrong with it, or None.
        queued: results and events that wait for it.
        dropped: those that were left out because it was too slow, or away.
        failed: times that it failed to take something.
        written: results and events that it took.
    """

    state: str
    trouble_s: float
    error: str | None
    queued: int
    dropped: int
    failed: int
    written: int


def sink_status(
    *,
    failing: tuple[float, object] | None,
    busy_since: float | None,
    queued: int,
    dropped: int,
    failed: int,
    written: int,
    ended: bool = False,
) -> SinkStatus:
    """Return how a sink is that has been `failing` since a monotonic time with an error, and works since another."""
    now_s = time.monotonic()
    state, since_s, error = "ok", now_s, None
    if failing is not None:
        state, since_s, error = "ended" if ended else "failing", failing[0], str(failing[1])
    elif busy_since is not None and now_s - busy_since > HANGS_S:
        state, since_s, error = "hanging", busy_since, "it does not answer"
    return SinkStatus(state, now_s - since_s, error, queued, dropped, failed, written)


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """All of it; cameras and sinks by their names, reloads of the settings by how they went."""

    detector: DetectorStatus
    process: ProcessStatus
    cameras: Mapping[str, CameraStatus] = field(default_factory=dict)
    sinks: Mapping[str, SinkStatus] = field(default_factory=dict)
    reloads: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, numbers rounded; of the stages only the means, in milliseconds."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        for name, camera in self.cameras.items():
            means = {stage: round(1000 * one.mean_s, 3) for stage, one in camera.stages.items()}
            rounded["cameras"][name]["stages"] = means
        return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value
