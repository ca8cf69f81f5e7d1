"""`/readyz` of a real server, in every state that the service can tell it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edge_detector.frame import FrameResult
from edge_detector.publishers.web import WebPublisher, readiness
from edge_detector.runtime.metrics import (
    CameraStatus,
    DetectorStatus,
    LatencyMeter,
    PipelineStats,
    ProcessStatus,
    ServiceStatus,
    SinkStatus,
)

OpenWeb = Callable[..., WebPublisher]
Ask = Callable[..., Any]
MakeResult = Callable[..., FrameResult]
GOOD = CameraStatus(
    source="rtsp://secret-host/x",
    state="live",
    state_s=100.0,
    error=None,
    detecting=True,
    silent_s=0.1,
    fps={"capture": 10.0, "inference": 5.0, "process": 10.0, "skipped": 0.0},
    stats=PipelineStats(captured=1000, inferred=500),
    recovery={"reopened": 0, "recreated": 0, "freezes": 0, "abandoned": 0},
    latency=LatencyMeter().histogram,
    latency_p50_s=None,
    latency_p95_s=None,
    searched_s=0.2,
)
HUNG = replace(GOOD, searched_s=30.0, pending_s=25.0)
NOT_YET = replace(GOOD, stats=PipelineStats(captured=10), searched_s=None, pending_s=2.0)


def status(*cameras: CameraStatus, device: str = "ok", **changes: Any) -> ServiceStatus:
    detector, process = DetectorStatus("tiny", "LiteRT", state=device), ProcessStatus(1.0, 1, 1, 1, 0)
    return ServiceStatus(detector, process, dict(zip("ab", cameras, strict=False)), **changes)


@pytest.mark.parametrize(
    "told",
    [
        status(GOOD),
        status(replace(HUNG, detecting=False)),
        status(replace(NOT_YET, detecting=False)),
        status(replace(GOOD, searched_s=300.0)),  # nothing moves, nothing is wanted
        status(replace(GOOD, searched_s=30.0, pending_s=25.0), GOOD),  # the other camera had its turn
        status(GOOD, device="fallback"),
        status(GOOD, sinks={"mqtt": SinkStatus("hanging", 100.0, "it does not answer", 9, 9, 9, 0)}),
    ],
    ids=["well", "paused", "paused from the start", "still", "waits for its turn", "on the CPU", "a sink hangs"],
)
def test_service_that_does_what_it_is_told_is_ready(
    open_web: OpenWeb, ask: Ask, make_result: MakeResult, told: ServiceStatus
) -> None:
    web = open_web(cameras=("a",), status=lambda: told)
    web.publish(replace(make_result(), camera="a"))
    assert ask(web, "/readyz")[::2] == (200, b"ok\n")
    assert b"edge_detector_ready 1.0" in ask(web, "/metrics")[2]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (status(HUNG), b"inference has stopped: nothing was searched for 30 s\n"),
        (status(NOT_YET), b"inference has not run yet\n"),
        (status(replace(GOOD, state="frozen", error="rtsp://secret-host/x")), b"a: the picture is frozen\n"),
    ],
    ids=["inference hangs", "no inference yet", "frozen"],
)
def test_service_that_does_not_is_not_ready_and_says_why(
    open_web: OpenWeb, ask: Ask, make_result: MakeResult, told: ServiceStatus, reason: bytes
) -> None:
    web = open_web(cameras=("a",), status=lambda: told)
    web.publish(replace(make_result(), camera="a"))
    assert ask(web, "/readyz")[::2] == (503, reason)
    assert b"edge_detector_ready 0.0" in ask(web, "/metrics")[2]
    assert ask(web, "/healthz")[0] == 200


def test_each_camera_without_pictures_is_named_and_its_address_is_not(
    open_web: OpenWeb, ask: Ask, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks needs no password."""
    away = replace(GOOD, state="reconnecting", error="rtsp://secret-host/x: away", silent_s=None)
    web = open_web(cameras=("a", "b"), status=lambda: status(GOOD, away))
    web.publish(replace(make_result(), camera="a"))
    assert ask(web, "/readyz")[::2] == (503, b"b: no picture yet (reconnecting)\n")
    monkeypatch.setattr(readiness, "SILENT_S", 0.0)
    body = ask(web, "/readyz")[2]
    assert body == b"a: no picture for 0 s (live)\nb: no picture yet (reconnecting)\n"
