"""`edge-detector run` in every state that a camera can be in: what it says, and that it ends when told to."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.services import MODEL, REPOSITORY, Service, Told, synthetic

EX_UNAVAILABLE, EX_TEMPFAIL = 69, 75


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


Start = Callable[..., Service]


def test_ends_while_all_is_well(start: Start) -> None:
    service = start(synthetic())
    status = service.wait_for_status(lambda status: status["cameras"]["camera"]["stats"]["inferred"] > 5)
    for part in (status["cameras"]["camera"], status["detector"]):
        assert 0 <= part["state_s"] <= status["process"]["uptime_s"] + 5
    assert service.end() == 0
    assert "stopped:" in service.lines[-1]


def test_ends_while_a_viewer_watches(start: Start) -> None:
    service = start(synthetic())
    with urllib.request.urlopen(service.url + "/stream.mjpg", timeout=5) as stream:
        assert len(stream.read(2000)) == 2000
        assert service.end() == 0


def test_ends_while_the_mqtt_broker_never_answers(start: Start, silent_port: int) -> None:
    broker = {"host": "127.0.0.1", "port": silent_port, "user": "eyes", "password": "secret"}
    service = start(synthetic() | {"mqtt": broker})
    service.wait_for_status(lambda status: status["cameras"]["camera"]["stats"]["inferred"] > 5)
    assert service.end() == 0
    assert f"mqtt://127.0.0.1:{silent_port}" in service.wait_for_line(" -> ")
    assert "secret" not in "".join(service.lines)


def test_webhooks_are_named_and_ends_while_they_are_away(start: Start, silent_port: int) -> None:
    hooks = {"away": {"url": "http://127.0.0.1:9/"}, "silent": {"url": f"http://127.0.0.1:{silent_port}/?token=secret"}}
    service = start(synthetic() | {"webhooks": hooks})
    service.wait_for_status(lambda status: status["cameras"]["camera"]["stats"]["inferred"] > 5)
    assert f"webhook http://127.0.0.1:9, webhook http://127.0.0.1:{silent_port}" in service.wait_for_line(" -> ")
    assert service.end() == 0
    assert not [line for line in service.lines if "in a file" in line or "secret" in line]


def test_live_video_is_offered_and_ends_while_the_server_that_it_is_pushed_to_is_silent(
    start: Start, silent_port: int
) -> None:
    pytest.importorskip("aiortc", reason="needs aiortc: pip install aiortc")
    push = f"rtsp://me:s3cret@127.0.0.1:{silent_port}/{{camera}}"
    service = start(synthetic() | {"stream": {"webrtc": True, "rtsp_push": push}})
    ready = service.wait_for_line(" -> ")
    assert f"rtsp push to rtsp://127.0.0.1:{silent_port}/camera" in ready
    service.wait_for_state("live")
    with pytest.raises(urllib.error.HTTPError, match="415"):
        service.post("/whep", {})
    service.wait_for_line("it is tried again")
    assert "s3cret" not in "".join(service.lines)
    assert service.end() == 0


def test_runs_and_ends_while_the_mqtt_broker_is_away(start: Start) -> None:
    service = start(synthetic() | {"mqtt": {"host": "127.0.0.1", "port": 9}})
    service.wait_for_line("mqtt://127.0.0.1:9: it cannot be reached: [Errno 111] Connection refused; trying again")
    service.wait_for_status(lambda status: status["cameras"]["camera"]["stats"]["inferred"] > 5)
    assert service.end() == 0


def test_ends_while_a_camera_of_the_command_line_is_being_opened(start: Start, silent_port: int) -> None:
    service = start({}, "--source", f"rtsp://user:secret@127.0.0.1:{silent_port}/x")
    time.sleep(3)
    assert service.process.poll() is None
    assert service.end() == 0
    assert "secret" not in "".join(service.lines)


def test_ends_while_a_camera_of_the_config_is_being_opened(start: Start, silent_port: int) -> None:
    service = start({"source": f"rtsp://127.0.0.1:{silent_port}/x"})
    service.wait_for_state("opening")
    assert service.end() == 0


def test_ends_while_a_camera_is_away_and_says_so(start: Start) -> None:
    service = start({"source": "rtsp://user:secret@127.0.0.1:9/x"})
    status = service.wait_for_state("reconnecting")
    assert "cannot be opened" in status["cameras"]["camera"]["error"]
    assert 'camera_up{camera="camera",source="rtsp://***@127.0.0.1:9/x",state="reconnecting"} 0.0' in service.get(
        "/metrics"
    )
    assert service.end() == 0
    assert "secret" not in "".join(service.lines)


def test_ends_while_a_camera_stalls(start: Start) -> None:
    service = start(synthetic("stall@20", stall_s=30.0))
    service.wait_for_status(lambda status: (status["cameras"]["camera"]["silent_s"] or 0) > 1)
    assert service.end() == 0


def test_ends_while_a_camera_hangs_in_a_call(start: Start) -> None:
    service = start(synthetic("hang@20", stall_s=30.0))
    service.wait_for_status(lambda status: (status["cameras"]["camera"]["silent_s"] or 0) > 1)
    assert service.end() == 0
    assert "hangs" in "".join(service.lines)


def test_ends_while_a_disk_hangs(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.jsonl")
    end = os.open(tmp_path / "out.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    try:
        service = start(synthetic() | {"output": {"jsonl": str(tmp_path / "out.jsonl")}})
        service.wait_for_line("is slower than the source", limit_s=60)
        assert service.end() == 0
        assert "out.jsonl hung" in "".join(service.lines)
    finally:
        os.close(end)


def test_ends_after_a_hanging_call_was_left_behind(start: Start) -> None:
    service = start(synthetic("hang@20"))
    status = service.wait_for_status(lambda status: status["process"]["abandoned"] == 1)
    assert status["cameras"]["camera"]["recovery"]["abandoned"] == 1
    service.wait_for_state("live")
    assert service.end() == 0


def test_ends_while_a_camera_is_unplugged(start: Start) -> None:
    service = start(synthetic("unplug@20"))
    service.wait_for_state("reconnecting")
    assert service.end() == 0


def test_ends_while_the_picture_is_frozen(start: Start) -> None:
    service = start(synthetic("freeze@20", frozen_s=0.3))
    service.wait_for_line("has not changed")
    assert service.end() == 0


def test_ends_while_detection_is_paused_and_resumes_when_told(start: Start) -> None:
    service = start(synthetic())
    service.wait_for_status(lambda status: status["cameras"]["camera"]["stats"]["inferred"] > 5)
    assert service.post("/api/control", {"detect": False}) == {"camera": "camera", "detect": False}
    time.sleep(0.3)
    paused = service.get("/api/status")["service"]["cameras"]["camera"]
    time.sleep(0.5)
    later = service.get("/api/status")["service"]["cameras"]["camera"]
    assert not later["detecting"]
    assert later["stats"]["inferred"] == paused["stats"]["inferred"]
    assert later["stats"]["captured"] > paused["stats"]["captured"]
    assert service.get("/api/detections")["detections"] == []
    service.post("/api/control", {"detect": True})
    service.wait_for_status(
        lambda status: status["cameras"]["camera"]["stats"]["inferred"] > later["stats"]["inferred"] + 5
    )
    service.post("/api/control", {"detect": False})
    assert service.end() == 0


def test_camera_that_stays_away_ends_the_program_with_a_code_of_its_own(start: Start) -> None:
    service = start(synthetic("unplug@20", give_up_s=1.0))
    assert service.process.wait(30) == EX_TEMPFAIL
    service._reader.join()
    assert "edge-detector: error: no camera gives pictures any more" in service.lines[-1]


def test_cameras_are_served_in_turn_and_one_that_is_away_does_not_stop_the_other(start: Start) -> None:
    cameras = {
        "fast": {"source": "synthetic://?width=64&height=48&fps=60"},
        "slow": {"source": "synthetic://?width=96&height=48&fps=60", "detect_fps": 5},
        "gone": {"source": "rtsp://127.0.0.1:9/x", "give_up_s": 0.5},
    }
    service = start({"cameras": cameras})
    status = service.wait_for_status(lambda status: status["cameras"]["slow"]["stats"]["inferred"] > 15)
    assert status["cameras"]["slow"]["fps"]["inference"] < 6
    assert status["cameras"]["fast"]["stats"]["inferred"] > 2 * status["cameras"]["slow"]["stats"]["inferred"]
    assert status["cameras"]["gone"]["state"] == "reconnecting"
    assert service.get("/api/detections?camera=fast")["width"] == 64
    assert service.get("/api/detections?camera=slow")["width"] == 96
    assert service.get("/api/status?camera=slow")["camera"] == "slow"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        service.get("/api/detections?camera=none")
    metrics = service.get("/metrics")
    for name in cameras:
        assert f'edge_detector_captured_total{{camera="{name}"}}' in metrics
    assert 'edge_detector_latency_seconds_bucket{camera="fast",le="+Inf"}' in metrics
    assert service.end() == 0


def test_lines_of_json_name_the_camera(start: Start, tmp_path: Path) -> None:
    cameras = {name: {"source": "synthetic://?width=64&height=48&fps=30"} for name in ("a", "b")}
    service = start({"cameras": cameras, "output": {"jsonl": str(tmp_path / "lines")}})
    service.wait_for_status(lambda status: status["cameras"]["b"]["stats"]["inferred"] > 20)
    assert service.end() == 0
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    for name in cameras:
        ids = [line["frame_id"] for line in lines if line["camera"] == name]
        assert len(ids) > 10
        assert {line["device"] for line in lines} == {"cpu"}


# With an accelerator: a real delegate in C, which fails on command; see tests/fixtures/fault_delegate.c.


@pytest.fixture
def accelerated(start: Start, tmp_path: Path) -> Callable[..., Service]:
    """Return a function that starts the service with a device on which `command` goes wrong."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to build the delegate that fails on command")
    library, twin = tmp_path / "delegate.so", tmp_path / "twin_edgetpu.tflite"
    source = REPOSITORY / "tests" / "fixtures" / "fault_delegate.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    twin.write_bytes(MODEL.read_bytes() + b"edgetpu-custom-op")  # as if compiled; the delegate takes its RESHAPEs

    def run(command: str, model: dict[str, Any] | None = None, **environment: str) -> Service:
        (tmp_path / "command").write_text(command)
        paths = {"path": str(MODEL), "edgetpu_path": str(twin), "delegate_library": str(library)}
        settings = synthetic() | {"model": {**paths, "device": "edgetpu:usb:0", **(model or {})}}
        files = {f"FAULT_DELEGATE_{name.upper()}": str(tmp_path / name) for name in ("command", "record")}
        return start(settings, **files, **environment)

    return run


Accelerated = Callable[..., Service]


def on(device: str) -> Callable[[dict[str, Any]], bool]:
    return lambda status: (
        status["detector"]["device"] == device and status["cameras"]["camera"]["stats"]["inferred"] > 5
    )


def test_device_that_vanishes_is_stood_in_for_by_the_cpu_and_used_again(
    accelerated: Accelerated, tmp_path: Path
) -> None:
    service = accelerated("invoke segfault 10")
    status = service.wait_for_status(on("cpu"))
    assert status["detector"]["wanted"] == "edgetpu:usb:0"
    assert status["detector"]["state"] != "ok"
    assert "SIGSEGV" in status["detector"]["error"]
    service._wait(lambda: service.get("/api/detections")["device"] == "cpu" or None, 10, "detections by the CPU")
    assert "edge_detector_device_ok 0.0" in service.get("/metrics")
    (tmp_path / "command").write_text("")
    service.wait_for_status(on("edgetpu:usb:0"))
    time.sleep(0.5)
    assert service.get("/api/detections")["device"] == "edgetpu:usb:0"
    assert service.end() == 0
    assert sum("SIGSEGV" in line for line in service.lines) == 1  # one warning


def test_device_that_is_absent_at_the_start_is_stood_in_for(accelerated: Accelerated) -> None:
    service = accelerated("create fail")
    service.wait_for_status(on("cpu"))
    assert service.end() == 0


def test_device_without_fallback_ends_the_program(accelerated: Accelerated) -> None:
    service = accelerated("invoke fail 5", {"fallback": False})
    assert service.process.wait(30) == EX_UNAVAILABLE
    service._reader.join()
    assert service.lines[-1].startswith("edge-detector: error: ")


def test_ends_while_the_device_hangs_in_an_inference(accelerated: Accelerated) -> None:
    service = accelerated("invoke hang 10", {"invoke_timeout_s": 60.0})
    service.wait_for_status(lambda status: status["cameras"]["camera"]["stats"]["inferred"] > 5)
    time.sleep(1)
    assert service.end() == 0


def test_ends_while_the_device_hangs_as_it_is_opened(accelerated: Accelerated, tmp_path: Path) -> None:
    service = accelerated("create hang")
    start_s = time.monotonic()
    while not (tmp_path / "record").exists():
        assert time.monotonic() - start_s < 20
        time.sleep(0.1)
    assert service.end() == 0


# Under systemd: what it is told, over a socket of the kind that it gives.


def test_systemd_is_told_when_it_works_that_it_works_and_when_it_ends(start: Start, told: Told) -> None:
    service = start(synthetic(), **told.environment)
    assert "STATUS=1 of 1 cameras live" in told.wait_for("READY=1")
    assert service.get("/api/status")["service"]["cameras"]["camera"]["stats"]["inferred"] > 0
    for _ in range(3):
        told.wait_for("WATCHDOG=1")
    assert service.end() == 0
    told.wait_for("STOPPING=1")


def test_service_is_ready_without_its_camera_once_the_model_has_run(start: Start, told: Told) -> None:
    service = start({"cameras": {"door": {"source": "v4l2:///dev/video99"}}}, **told.environment)
    assert "STATUS=0 of 1 cameras live (door " in told.wait_for("READY=1")
    told.wait_for("WATCHDOG=1")
    assert service.end() == 0


def test_inference_that_hangs_lets_the_watchdog_bite(accelerated: Accelerated, told: Told) -> None:
    service = accelerated("invoke hang 10", {"invoke_timeout_s": 600.0}, **told.environment)
    told.wait_for("READY=1")
    service.wait_for_line("inference has completed nothing for 1 s; it hangs")
    assert told.silent_for("WATCHDOG=1", 3)
    assert service.end() == 0
