"""SIGHUP: the running service takes new settings, and goes on."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.services import MODEL, Service, Told, synthetic

Start = Callable[..., Service]


def reload(service: Service, settings: dict[str, Any], says: str = "new settings: ") -> str:
    """Let the service have new settings; return the line that says what became of them."""
    service.wait_for_line(" -> ")  # before, a hangup ends it
    seen = len(service.lines)
    service.write(settings)
    service.process.send_signal(signal.SIGHUP)
    return service.wait_for_line(says, after=seen)


def inferred(service: Service) -> int:
    count = service.get("/api/status")["service"]["cameras"]["camera"]["stats"]["inferred"]
    assert isinstance(count, int)
    return count


def goes_on(service: Service) -> None:
    before = inferred(service)
    service.wait_for_status(lambda status: status["cameras"]["camera"]["stats"]["inferred"] > before + 5)


def grows(service: Service, path: Path) -> None:
    size = path.stat().st_size if path.exists() else 0
    service._wait(lambda: (path.exists() and path.stat().st_size > size) or None, 20, f"a line in {path.name}")


def found(service: Service, any_: bool) -> None:
    detections = lambda: bool(service.get("/api/detections")["detections"]) is any_ or None  # noqa: E731
    service._wait(detections, 20, "detections" if any_ else "no detections")


def test_thresholds_and_filters(start: Start) -> None:
    people = {"cameras": {"camera": {"source": "demo"}}, "model": {"path": "ssd_resnet50_fpn_person_320_int8"}}
    service = start(people)
    goes_on(service)
    found(service, any_=True)
    strict = {"model": people["model"] | {"score_threshold": 1.0}}
    assert reload(service, people | strict).endswith("new settings: model.score_threshold")
    found(service, any_=False)
    assert service.get("/api/config")["model"]["score_threshold"] == 1.0
    reload(service, people)
    found(service, any_=True)
    nothing = {"objects": {"mask": ["0,0,1,0,1,1,0,1"]}}
    assert "objects.mask" in reload(service, people | nothing)
    found(service, any_=False)
    reasons = {event["end_reason"] for event in service.get("/api/events")}
    assert "settings" in reasons
    assert service.end() == 0


def test_sinks_that_change_are_opened_anew_and_the_others_go_on(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        udp = {"udp": {"address": f"127.0.0.1:{receiver.getsockname()[1]}"}}
        first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
        service = start(synthetic() | udp | {"output": {"jsonl": str(first)}})
        goes_on(service)
        sender = receiver.recvfrom(65536)[1]
        reload(service, synthetic() | udp | {"output": {"jsonl": str(second)}})
        at_change = first.read_bytes()
        grows(service, second)
        assert first.read_bytes() == at_change
        ids = [json.loads(line)["frame_id"] for path in (first, second) for line in path.read_text().splitlines()]
        assert ids == sorted(set(ids))
        frame_id, senders = 0, {sender}
        while frame_id <= max(ids):
            datagram, address = receiver.recvfrom(65536)
            frame_id = json.loads(datagram)["frame_id"]
            senders.add(address)
        assert senders == {sender}, "the sink that did not change was opened anew"
        assert "udp" in reload(service, synthetic() | {"output": {"jsonl": str(second)}})
        assert service.end() == 0


def test_file_of_a_sink_and_a_video_go_on(start: Start, tmp_path: Path) -> None:
    lines, video = tmp_path / "own.jsonl", tmp_path / "video.mp4"
    own = {"kind": "jsonl", "options": {"target": str(lines)}}  # a new start begins it anew
    settings = synthetic() | {"output": {"video": str(video)}}
    service = start(settings | {"sinks": {"own": own}})
    goes_on(service)  # by now the camera's rate is known
    at_change = lines.read_bytes()
    reload(service, settings | {"sinks": {"own": own | {"min_score": 0.01}}})
    goes_on(service)
    assert lines.read_bytes().startswith(at_change), "the lines before the reload are gone"
    assert not video.exists(), "the video was ended, and the next one would take its place"
    assert service.end() == 0
    assert video.exists()


def test_sink_that_cannot_be_opened_is_said_and_left_out(start: Start, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    lines = {"kept": {"kind": "jsonl", "options": {"target": str(kept), "append": True}}}
    service = start(synthetic() | {"sinks": lines})
    bad = {"bad": {"kind": "jsonl", "options": {"target": "/proc/none/x", "append": True}}}
    reload(service, synthetic() | {"sinks": lines | bad})
    assert "it is left out" in service.wait_for_line("sinks.bad: ")
    grows(service, kept)
    good = {"bad": {"kind": "jsonl", "options": {"target": str(tmp_path / "new.jsonl"), "append": True}}}
    reload(service, synthetic() | {"sinks": lines | good})
    grows(service, tmp_path / "new.jsonl")
    assert service.end() == 0


def test_settings_with_an_error_change_nothing(start: Start, told: Told) -> None:
    service = start(synthetic(), **told.environment)
    told.wait_for("READY=1")
    line = reload(service, {"camras": {}}, "all stays as it was")
    assert "camras: unknown key" in line
    told.wait_for("RELOADING=1")
    told.wait_for("READY=1")
    zone = {"zones": {"door": {"coordinates": "0,0,5000,0,5000,5000"}}}
    assert "zones.door" in reload(service, synthetic() | zone, "all stays as it was")
    service.config.write_text("source: [")
    service.process.send_signal(signal.SIGHUP)
    service.wait_for_line("not valid YAML")
    label = {"objects": {"track": ["unicorn"]}}
    assert "'unicorn': no label of the model" in reload(service, synthetic() | label, "all stays as it was")
    goes_on(service)
    assert reload(service, synthetic()).endswith("no change")
    service.wait_for_status(lambda status: status["reloads"] == {"ok": 1, "failed": 4})
    assert service.end() == 0


def test_coordinates_that_nobody_can_check_yet_do_not_end_the_service_later(start: Start) -> None:
    away = synthetic("unplug@0")
    service = start(away)
    outside = {"zones": {"door": {"coordinates": "0,0,5000,0,5000,5000"}}}
    line = reload(service, away | outside, "new settings")
    assert "no picture yet" in line or "outside the picture" in line  # where the camera was quicker
    service.wait_for_state("live")
    goes_on(service)
    assert "outside the picture" in reload(service, away | outside, "all stays as it was")
    assert service.end() == 0


def test_what_needs_a_new_start_is_said_each_time_and_the_rest_is_taken(start: Start) -> None:
    service = start(synthetic())
    url = service.url
    new = {"http": "127.0.0.1:1", "cameras": {"camera": {"source": "synthetic://?width=32&height=32", "detect_fps": 3}}}
    for _ in range(2):
        seen = len(service.lines)
        reload(service, new)
        line = service.wait_for_line("these settings need a new start", after=seen)
        assert "cameras.camera.source, http" in line or "cameras.camera.source, cameras.camera.stall_s, http" in line
    config = service.get("/api/config")
    assert config["cameras"]["camera"]["detect_fps"] == 3.0
    assert "width=64" in config["cameras"]["camera"]["source"]
    assert service.url == url
    service.wait_for_status(lambda status: status["cameras"]["camera"]["fps"]["inference"] < 4)
    other = {"cameras": {"camera": synthetic()["cameras"]["camera"], "yard": {"source": "synthetic://"}}}
    seen = len(service.lines)
    reload(service, other)
    assert "cameras.yard" in service.wait_for_line("these settings need a new start", after=seen)
    assert service.end() == 0


def test_model_is_swapped_without_a_gap(start: Start, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    settings = synthetic() | {"output": {"jsonl": str(lines)}}
    service = start(settings)
    goes_on(service)
    other = tmp_path / "other.tflite"
    other.write_bytes(MODEL.read_bytes())
    sidecar = MODEL.with_suffix(".json")
    if sidecar.exists():
        (tmp_path / "other.json").write_bytes(sidecar.read_bytes())
    assert "model other" in reload(service, settings | {"model": {"path": str(other)}})
    goes_on(service)
    grows(service, lines)
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {line["model"] for line in written} == {"detection_op", "other"}
    assert service.get("/api/status")["service"]["detector"]["model"] == "other"
    assert service.get("/api/detections")["model"] == "other"
    # The same file, written anew.
    fresh = tmp_path / "fresh"
    fresh.write_bytes(MODEL.read_bytes())
    fresh.replace(other)
    assert "model other" in reload(service, settings | {"model": {"path": str(other)}})
    # Not a model at all, and one with other labels.
    fresh.write_bytes(b"no model")
    fresh.rename(tmp_path / "broken.tflite")
    reload(service, settings | {"model": {"path": str(tmp_path / "broken.tflite")}}, "all stays as it was")
    labels = tmp_path / "labels.txt"
    names = service.get("/api/labels")
    labels.write_text("".join(f"x{number}\n" for number in range(len(names))))
    relabeled = {"model": {"path": str(other), "labelmap_path": str(labels)}}
    assert "other labels; start the service anew" in reload(service, settings | relabeled, "all stays as it was")
    goes_on(service)
    assert service.end() == 0


def test_many_reloads_leave_nothing_behind(start: Start, tmp_path: Path) -> None:
    service = start(synthetic())

    def settings(number: int) -> dict[str, Any]:
        model = {"path": str(MODEL), "score_threshold": 0.3 + 0.01 * (number % 2), "num_threads": 1 + number % 2}
        return synthetic() | {"model": model, "output": {"jsonl": str(tmp_path / f"{number % 2}.jsonl")}}

    for number in range(4):
        reload(service, settings(number))
    before = service.get("/api/status")["service"]["process"]
    for number in range(12):
        reload(service, settings(number))
    for _ in range(20):
        service.process.send_signal(signal.SIGHUP)
    goes_on(service)
    # A reload may be under way, and a count of repeated log lines wait for its time.
    status = service.wait_for_status(lambda status: status["process"]["threads"] <= before["threads"] + 2)
    after = status["process"]
    assert after["open_fds"] <= before["open_fds"] + 4
    assert after["abandoned"] == 0
    assert service.end() == 0
