from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.publishers import worker
from edge_detector.publishers.jsonl import open_jsonl

MakeResult = Callable[..., FrameResult]
LimitFiles = Callable[[int], AbstractContextManager[None]]
WaitUntil = Callable[..., None]
LABELS = ("person",)


def frame_ids(path: Path) -> list[int]:
    return [json.loads(line)["frame_id"] for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, make_result: MakeResult, ids: range, **settings: bool) -> None:
    publisher = open_jsonl(path, LABELS, "tiny", lossless=True, **settings)
    for frame_id in ids:
        publisher.publish(make_result(frame_id=frame_id))
    publisher.close()


def test_one_line_per_result_in_order(tmp_path: Path, make_result: MakeResult) -> None:
    write(tmp_path / "out.jsonl", make_result, range(40))
    assert frame_ids(tmp_path / "out.jsonl") == list(range(40))


def test_file_is_replaced_unless_appended_to(tmp_path: Path, make_result: MakeResult) -> None:
    path = tmp_path / "out.jsonl"
    write(path, make_result, range(2))
    write(path, make_result, range(2, 4))
    assert frame_ids(path) == [2, 3]
    write(path, make_result, range(4, 6), append=True)
    assert frame_ids(path) == [2, 3, 4, 5]


def test_file_is_kept_until_the_first_result(tmp_path: Path, make_result: MakeResult) -> None:
    path = tmp_path / "out.jsonl"
    write(path, make_result, range(2))
    write(path, make_result, range(0))
    assert frame_ids(path) == [0, 1]


def test_every_inference_is_one_line(tmp_path: Path, make_result: MakeResult) -> None:
    path = tmp_path / "out.jsonl"
    publisher = open_jsonl(path, LABELS, "tiny", lossless=True)
    first, second = make_result(frame_id=0), make_result(frame_id=3)
    publisher.publish(replace(first, detected_at=None))  # before the first inference
    for result in (first, second):
        publisher.publish(result)
        publisher.publish(replace(make_result(frame_id=9), detected_at=result.detected_at))
    publisher.close()
    assert frame_ids(path) == [0, 3]


def test_line_is_in_the_file_before_close(tmp_path: Path, make_result: MakeResult) -> None:
    path = tmp_path / "out.jsonl"
    publisher = open_jsonl(path, LABELS, "tiny")
    publisher.publish(make_result(frame_id=3))
    deadline = time.monotonic() + 10
    while not path.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.005)
    assert frame_ids(path) == [3]
    publisher.close()


@pytest.mark.parametrize("target", ["missing/out.jsonl", "."])
def test_unwritable_file_is_a_publish_error_at_once(tmp_path: Path, target: str) -> None:
    with pytest.raises(PublishError, match=r"cannot write .*; choose another file"):
        open_jsonl(tmp_path / target, LABELS, "tiny")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_a_publish_error_of_files(make_result: MakeResult) -> None:
    publisher = open_jsonl("/dev/full", LABELS, "tiny", lossless=True)
    publisher.publish(make_result())
    with pytest.raises(PublishError, match="cannot write /dev/full: No space left"):
        publisher.close()


def test_full_disk_is_outlived_by_a_camera_and_said_once(
    tmp_path: Path,
    make_result: MakeResult,
    limit_files: LimitFiles,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(worker, "SURE_S", 0.0)
    path = tmp_path / "out.jsonl"
    publisher = open_jsonl(path, LABELS, "tiny")
    publisher.publish(make_result(frame_id=0))
    wait_until(lambda: path.stat().st_size > 0)
    with limit_files(path.stat().st_size + 20):
        for frame_id in range(1, 4):
            result = make_result(frame_id=frame_id)
            publisher.publish(result)
            publisher.publish(replace(make_result(frame_id=9), detected_at=result.detected_at))  # no line: no success
            wait_until(lambda number=frame_id: publisher.failed == number)
        assert frame_ids(path) == [0]  # the half line is gone again
    publisher.publish(make_result(frame_id=4))
    publisher.close()
    assert frame_ids(path) == [0, 4]
    assert caplog.text.count("No space left") == 1
    assert caplog.text.count("works again after") == 1
    assert "3 results could not be written in all" in caplog.text


# Writes for ever, to a file or to standard output; told its target as the argument.
WRITER = """
import sys, time
import numpy as np
from edge_detector.detections import Detections
from edge_detector.frame import Frame, FrameResult
from edge_detector.publishers.jsonl import open_jsonl

publisher = open_jsonl(sys.argv[1], ("person",), "tiny", lossless=True)
boxes = Detections(np.ones((100, 4), np.float32), np.ones(100, np.float32), np.zeros(100, np.int64))
image = np.zeros((8, 8, 3), np.uint8)
timings_s = {"inference": 0.1}
for frame_id in range(10**9):
    publisher.publish(FrameResult(Frame(image, frame_id, 0.0, 0.0, "clip"), boxes, frame_id, timings_s))
"""


def start_writer(target: str, repository: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, target],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )


def test_kill_leaves_only_whole_lines(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "out.jsonl"
    with start_writer(str(path), repository) as writer:
        deadline = time.monotonic() + 30
        while (not path.exists() or path.stat().st_size < 1_000_000) and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    written = path.read_bytes()
    assert len(written) >= 1_000_000
    assert written.endswith(b"}\n")
    assert frame_ids(path) == list(range(written.count(b"\n")))


def test_reader_of_standard_output_that_leaves_is_a_publish_error(repository: Path) -> None:
    with start_writer("-", repository) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert json.loads(writer.stdout.readline())["frame_id"] == 0
        writer.stdout.close()
        message = writer.stderr.read().decode()
    assert "PublishError: standard output was closed by the program that read it" in message
