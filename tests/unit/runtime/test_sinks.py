"""The service with all sinks of a folder and the network: what is found arrives, and only what is wanted."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge_detector.abandoned import count_abandoned
from edge_detector.config import parse_config
from edge_detector.detector import Detector
from edge_detector.runtime import service
from edge_detector.runtime.shown_settings import without_secrets

MakeDetector = Callable[..., Detector]
Run = Callable[..., float]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, color_detector: MakeDetector) -> Run:
    """Return a function that runs the service on coloured boxes for some seconds, and tells how long its end took."""

    def run(seconds: float, source: str = "synthetic://?width=320&height=240&fps=25", **settings: Any) -> float:
        monkeypatch.setattr(service, "open_detector", lambda model, stop=None: color_detector((320, 240)))
        config = parse_config({"http": None, "source": source, **settings}, "it")
        stop, ended_s = threading.Event(), []
        timer = threading.Timer(seconds, lambda: (ended_s.append(time.monotonic()), stop.set()))
        timer.start()
        service.run_service(config, stop)
        timer.join()
        return time.monotonic() - ended_s[0]

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_sink_gets_what_it_wants_and_the_end_is_quick(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        took_s = run(
            3.0,
            udp={"address": f"127.0.0.1:{receiver.getsockname()[1]}", "labels": ["blue"]},
            snapshots={"path": str(tmp_path / "snapshots"), "labels": ["red"]},
            recordings={"path": str(tmp_path / "clips"), "labels": ["green"], "pre_roll_s": 1.0},
            output={"jsonl": str(tmp_path / "out.jsonl"), "jsonl_filter": {"labels": ["green"], "max_per_s": 4.0}},
            events={"jsonl": str(tmp_path / "events.jsonl"), "jsonl_filter": {"labels": ["red", "blue"]}},
            sinks={"all": {"kind": "jsonl", "options": {"target": str(tmp_path / "all.jsonl")}}},
        )
        datagrams = []
        while True:
            try:
                datagrams.append(json.loads(receiver.recv(65536)))
            except BlockingIOError:
                break
    assert took_s < 2.0
    everything = lines(tmp_path / "all.jsonl")
    seen = {found["label"] for line in everything for found in line["detections"]}
    assert seen == {"red", "green", "blue"}
    assert {found["label"] for line in datagrams for found in line["detections"]} == {"blue"}
    assert 0 < len(datagrams) <= len(everything)
    few = lines(tmp_path / "out.jsonl")
    assert {found["label"] for line in few for found in line["detections"]} == {"green"}
    assert 2 <= len(few) <= 4 * (3 + took_s) + 1
    assert {line["object"]["label"] for line in lines(tmp_path / "events.jsonl")} == {"red", "blue"}
    pictures = list((tmp_path / "snapshots").rglob("*.jpg"))
    assert pictures
    assert all("_red_" in path.name and cv2.imread(str(path)).shape == (240, 320, 3) for path in pictures)
    (clip,) = (tmp_path / "clips").rglob("*.mp4")
    shape = json.loads(clip.with_suffix(".json").read_bytes())
    assert shape["labels"] == ["green"]
    assert 1.0 < shape["end_ts"] - shape["start_ts"] < 4.0
    reader = cv2.VideoCapture(str(clip))
    assert reader.read()[0]
    reader.release()


def test_files_of_further_sinks_are_rotated_too(run: Run, tmp_path: Path) -> None:
    run(
        2.0,
        output={"jsonl_max_mb": 0.002, "jsonl_keep": 2},
        events={"update_s": 0.05},
        sinks={
            "results": {"kind": "jsonl", "options": {"target": str(tmp_path / "results")}},
            "events": {"kind": "lines", "options": {"path": str(tmp_path / "events")}},
        },
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{name}{number}" for name in ("results", "events") for number in ("", ".1", ".2")}


def full_pipe(path: Path) -> int:
    """Make a pipe that takes a few lines and no more, as nobody reads; return what would read it."""
    os.mkfifo(path)
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
    return end


def test_end_is_quick_and_no_failure_while_files_hang(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / name for name in ("out", "events", "one", "two")]
    ends = [full_pipe(path) for path in paths]
    out, events, *others = map(str, paths)
    try:
        took_s = run(
            2.0,
            output={"jsonl": out},
            events={"jsonl": events, "path": str(tmp_path / "events.db"), "update_s": 0.05},
            sinks={Path(path).name: {"kind": "jsonl", "options": {"target": path}} for path in others},
        )
        assert count_abandoned() == 4  # of which the program knows, as it ends
    finally:
        for end in ends:
            os.close(end)
    assert took_s < 2.0
    assert all(f"{path} hung" in caplog.text for path in paths), caplog.text
    deadline_s = time.monotonic() + 10
    while count_abandoned():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_what_is_live_takes_nothing_from_a_file(
    run: Run, tmp_path: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = next((repository / "edge_detector" / "assets").glob("*.mp4"))
    run(
        1.5,
        str(clip),
        udp={"address": "127.0.0.1:9"},
        snapshots={"path": str(tmp_path / "snapshots")},
        recordings={"path": str(tmp_path / "clips")},
        output={"jsonl": str(tmp_path / "out.jsonl"), "jsonl_filter": {"max_per_s": 0.001}},
    )
    assert "udp, snapshots, recordings: what is found in a file does not go there" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert len(lines(tmp_path / "out.jsonl")) > 1  # of a file all go


def test_options_of_a_sink_are_not_shown_since_they_may_be_secret() -> None:
    config = parse_config({"sinks": {"mine": {"kind": "x", "options": {"key": "HIDDEN WORD", "list": [1]}}}}, "it")
    shown = without_secrets(config)["sinks"]["mine"]
    assert shown["options"] == {"key": "***", "list": "***"}
    assert shown["kind"] == "x"
