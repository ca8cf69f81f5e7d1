"""The service's status as Prometheus reads it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from edge_detector import __version__
from edge_detector.runtime.metrics import CameraStatus, Histogram, ServiceStatus, SinkStatus

PROMETHEUS_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "edge_detector_"
_COUNTERS = {
    "captured": "Frames read from the camera.",
    "dropped": "Frames that no inference saw.",
    "skipped": "Frames that were not searched because nothing moved.",
    "inferred": "Frames that were searched.",
    "published": "Frames handed to the publishers.",
    "publish_errors": "Results that a publisher failed to take.",
}
_RECOVERY = {
    "reopened": "Times that the camera was restarted in place.",
    "recreated": "Times that the camera was opened anew.",
    "freezes": "Times that the picture froze.",
    "abandoned": "Calls to the camera that hung and were left behind.",
}
_RATES = {
    "camera_fps": ("Frames per second from the camera.", "capture"),
    "detection_fps": ("Inferences per second.", "inference"),
    "process_fps": ("Frames per second handed to the publishers.", "process"),
    "skipped_fps": ("Frames per second that were not searched because nothing moved.", "skipped"),
}
_AGES: Mapping[str, tuple[str, Callable[[CameraStatus], float | None]]] = {
    "picture_age_seconds": ("Since the newest picture.", lambda camera: camera.silent_s),
    "inference_age_seconds": ("Since the newest inference.", lambda camera: camera.searched_s),
    "inference_pending_seconds": ("That a search has been due or under way.", lambda camera: camera.pending_s),
    "camera_state_seconds": ("That the camera has been as it is.", lambda camera: camera.state_s),
}
_SINK_STATES = ("ok", "failing", "hanging", "ended")
_DEVICE_STATES = ("ok", "fallback", "retrying")
_CAUSES = ("crash", "hang", "error")


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What only the web server knows.

    Attributes:
        ready: what `/readyz` says.
        viewers: open live streams.
        sockets: open WebSockets.
        dropped: pictures, results and packets that viewers were too slow for, by kind of viewer.
        encoded: JPEGs, by camera.
        stages: seconds that drawing and encoding take, by camera and stage.
    """

    ready: bool = True
    viewers: int = 0
    sockets: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    encoded: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, Histogram]] = field(default_factory=dict)


def to_prometheus(status: ServiceStatus, server: ServerStatus) -> bytes:
    """Return the text format that `PROMETHEUS_TYPE` names."""
    registry = CollectorRegistry()
    parts = (_service(status, server), _cameras(status.cameras), _stages(status, server), _sinks(status.sinks, server))
    registry.register(_Snapshot([metric for part in parts for metric in part]))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _service(status: ServiceStatus, server: ServerStatus) -> Iterator[Metric]:
    detector, process = status.detector, status.process
    build = {
        "version": __version__,
        "python": platform.python_version(),
        "runtime": detector.backend.partition(",")[0],
    }
    yield InfoMetricFamily(f"{_PREFIX}build", "What runs.", build)
    info = {"model": detector.model, "backend": detector.backend, "wanted": detector.wanted, "device": detector.device}
    yield InfoMetricFamily(f"{_PREFIX}detector", "What runs inference.", info)
    yield _gauge("ready", "1 while pictures come from all cameras and are searched, as /readyz says.", server.ready)
    yield _gauge("device_ok", "1 while inference runs on the device that was asked for.", float(detector.state == "ok"))
    yield _labelled(
        GaugeMetricFamily(f"{_PREFIX}device_state", "1 for the state that the device is in.", labels=["state"]),
        {(state,): float(state == detector.state) for state in _DEVICE_STATES},
    )
    yield _labelled(
        CounterMetricFamily(f"{_PREFIX}device_failures", "Times that the device failed.", labels=["cause"]),
        {(cause,): detector.causes.get(cause, 0) for cause in _CAUSES},
    )
    yield _labelled(
        CounterMetricFamily(f"{_PREFIX}reloads", "Times that the settings were read again.", labels=["result"]),
        {(result,): count for result, count in status.reloads.items()},
    )
    yield _gauge("uptime_seconds", "Since the pipeline was made.", process.uptime_s)
    yield CounterMetricFamily(f"{_PREFIX}cpu_seconds", "Processor time of all threads.", process.cpu_s)
    yield _gauge("threads", "Threads of the process.", process.threads)
    if process.open_fds is not None:
        yield _gauge("open_fds", "Open file descriptors.", process.open_fds)
    if process.rss_bytes is not None:
        yield _gauge("resident_memory_bytes", "Memory in use.", process.rss_bytes)
    yield _gauge("abandoned_threads", "Threads that hang in a call.", process.abandoned)
    yield _gauge("viewers", "Open live streams.", server.viewers)
    yield _gauge("websockets", "Open WebSockets.", server.sockets)
    if process.temperature_c is not None:
        yield _gauge("temperature_celsius", "Of the processor.", process.temperature_c)
    if process.throttled:
        yield _labelled(
            GaugeMetricFamily(
                f"{_PREFIX}throttled", "1 while the firmware says so of power or heat.", labels=["reason"]
            ),
            {(reason,): float(on) for reason, on in process.throttled.items()},
        )


def _cameras(cameras: Mapping[str, CameraStatus]) -> Iterator[Metric]:
    for name, help_text in _COUNTERS.items():
        counts = {(camera,): getattr(status.stats, name) for camera, status in cameras.items()}
        yield _labelled(CounterMetricFamily(_PREFIX + name, help_text, labels=["camera"]), counts)
    for name, help_text in _RECOVERY.items():
        counts = {(camera,): status.recovery[name] for camera, status in cameras.items()}
        yield _labelled(CounterMetricFamily(f"{_PREFIX}camera_{name}", help_text, labels=["camera"]), counts)
    yield _labelled(
        CounterMetricFamily(
            f"{_PREFIX}camera_restarts", "Times that the camera had to be started again.", labels=["camera", "cause"]
        ),
        {(camera, cause): n for camera, status in cameras.items() for cause, n in status.restarts.items()},
    )
    for name, (help_text, key) in _RATES.items():
        rates = {(camera,): status.fps.get(key, 0.0) for camera, status in cameras.items()}
        yield _labelled(GaugeMetricFamily(_PREFIX + name, help_text, labels=["camera"]), rates)
    for name, (help_text, age_s) in _AGES.items():
        ages = {(camera,): age for camera, status in cameras.items() if (age := age_s(status)) is not None}
        yield _labelled(GaugeMetricFamily(_PREFIX + name, help_text, labels=["camera"]), ages)
    yield _labelled(
        GaugeMetricFamily(f"{_PREFIX}camera_up", "1 while pictures come.", labels=["camera", "state", "source"]),
        {(name, one.state, one.source): float(one.state == "live") for name, one in cameras.items()},
    )
    yield _labelled(
        GaugeMetricFamily(f"{_PREFIX}detection_enabled", "0 while detection is paused.", labels=["camera"]),
        {(camera,): float(status.detecting) for camera, status in cameras.items()},
    )
    latency = HistogramMetricFamily(
        f"{_PREFIX}latency_seconds", "From taking a picture to publishing what was found in it.", labels=["camera"]
    )
    for camera, status in cameras.items():
        latency.add_metric([camera], _buckets(status.latency), status.latency.sum_s)
    yield latency


def _stages(status: ServiceStatus, server: ServerStatus) -> Iterator[Metric]:
    stages = HistogramMetricFamily(f"{_PREFIX}stage_seconds", "Time that a stage takes.", labels=["camera", "stage"])
    for camera, one in status.cameras.items():
        for stage, histogram in {**one.stages, **server.stages.get(camera, {})}.items():
            stages.add_metric([camera, stage], _buckets(histogram), histogram.sum_s)
    yield stages
    yield _labelled(
        CounterMetricFamily(f"{_PREFIX}pictures_encoded", "JPEGs made for viewers.", labels=["camera"]),
        {(camera,): count for camera, count in server.encoded.items()},
    )


def _sinks(sinks: Mapping[str, SinkStatus], server: ServerStatus) -> Iterator[Metric]:
    dropped = {(name,): one.dropped for name, one in sinks.items()}
    dropped |= {(name,): count for name, count in server.dropped.items()}
    yield _labelled(
        CounterMetricFamily(f"{_PREFIX}queue_dropped", "What a queue had no room for.", labels=["queue"]), dropped
    )
    yield _labelled(
        GaugeMetricFamily(f"{_PREFIX}queue_depth", "What waits in a queue.", labels=["queue"]),
        {(name,): one.queued for name, one in sinks.items()},
    )
    yield _labelled(
        CounterMetricFamily(f"{_PREFIX}sink_written", "Results and events that a sink took.", labels=["sink"]),
        {(name,): one.written for name, one in sinks.items()},
    )
    yield _labelled(
        CounterMetricFamily(f"{_PREFIX}sink_failures", "Times that a sink failed.", labels=["sink"]),
        {(name,): one.failed for name, one in sinks.items()},
    )
    yield _labelled(
        GaugeMetricFamily(f"{_PREFIX}sink_state", "1 for the state that a sink is in.", labels=["sink", "state"]),
        {(name, state): float(state == one.state) for name, one in sinks.items() for state in _SINK_STATES},
    )
    yield _labelled(
        GaugeMetricFamily(
            f"{_PREFIX}sink_trouble_seconds", "That a sink has failed or hung; 0 while it is ok.", labels=["sink"]
        ),
        {(name,): one.trouble_s for name, one in sinks.items()},
    )


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, help_text, value)


def _labelled(
    family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[Any, float]
) -> CounterMetricFamily | GaugeMetricFamily:
    """Return the family with a value for each tuple of label values."""
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, histogram.bounds_s), "+Inf"]
    return list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
