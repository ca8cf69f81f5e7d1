"""The service's status as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from edge_detector.runtime.metrics import CameraStatus, ServiceStatus

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


def to_prometheus(status: ServiceStatus, viewers: int) -> bytes:
    """Return the text format that `PROMETHEUS_TYPE` names."""
    registry = CollectorRegistry()
    registry.register(_Snapshot([*_service(status, viewers), *_cameras(status.cameras.items())]))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _service(status: ServiceStatus, viewers: int) -> Iterator[Metric]:
    detector, process = status.detector, status.process
    info = {"model": detector.model, "backend": detector.backend, "wanted": detector.wanted, "device": detector.device}
    yield InfoMetricFamily(f"{_PREFIX}detector", "What runs inference.", info)
    on_wanted = float(detector.state == "ok")
    yield GaugeMetricFamily(
        f"{_PREFIX}device_ok", "1 while inference runs on the device that was asked for.", on_wanted
    )
    yield CounterMetricFamily(f"{_PREFIX}device_failures", "Times that the device failed.", detector.failures)
    yield GaugeMetricFamily(f"{_PREFIX}uptime_seconds", "Since the pipeline was made.", process.uptime_s)
    yield GaugeMetricFamily(f"{_PREFIX}threads", "Threads of the process.", process.threads)
    yield GaugeMetricFamily(f"{_PREFIX}open_fds", "Open file descriptors.", process.open_fds)
    yield GaugeMetricFamily(f"{_PREFIX}resident_memory_bytes", "Memory in use.", process.rss_bytes)
    yield GaugeMetricFamily(f"{_PREFIX}abandoned_threads", "Threads that hang in a call.", process.abandoned)
    yield GaugeMetricFamily(f"{_PREFIX}viewers", "Open live streams.", viewers)


def _cameras(cameras: Iterable[tuple[str, CameraStatus]]) -> Iterator[Metric]:
    cameras = list(cameras)
    for name, help_text in _COUNTERS.items():
        counter = CounterMetricFamily(f"{_PREFIX}{name}", help_text, labels=["camera"])
        for camera, status in cameras:
            counter.add_metric([camera], getattr(status.stats, name))
        yield counter
    for name, help_text in _RECOVERY.items():
        counter = CounterMetricFamily(f"{_PREFIX}camera_{name}", help_text, labels=["camera"])
        for camera, status in cameras:
            counter.add_metric([camera], status.recovery[name])
        yield counter
    for name, help_text, key in (
        ("camera_fps", "Frames per second from the camera.", "capture"),
        ("detection_fps", "Inferences per second.", "inference"),
    ):
        gauge = GaugeMetricFamily(_PREFIX + name, help_text, labels=["camera"])
        for camera, status in cameras:
            gauge.add_metric([camera], status.fps[key])
        yield gauge
    live = GaugeMetricFamily(f"{_PREFIX}camera_up", "1 while pictures come.", labels=["camera", "state", "source"])
    detecting = GaugeMetricFamily(f"{_PREFIX}detection_enabled", "0 while detection is paused.", labels=["camera"])
    latency = HistogramMetricFamily(
        f"{_PREFIX}latency_seconds", "From taking a picture to publishing what was found.", labels=["camera"]
    )
    for camera, status in cameras:
        live.add_metric([camera, status.state, status.source], float(status.state == "live"))
        detecting.add_metric([camera], float(status.detecting))
        bounds = [*map(str, status.latency.bounds_s), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(status.latency.counts)), strict=True))
        latency.add_metric([camera], buckets, status.latency.sum_s)
    yield from (live, detecting, latency)
