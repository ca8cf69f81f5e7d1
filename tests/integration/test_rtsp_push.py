"""Live video sent to a real RTSP server that decodes it: GStreamer's, on loopback."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_detector.abandoned import count_abandoned
from edge_detector.detections import Detections
from edge_detector.frame import Frame, FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import rtsp_push
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.rtsp_push import RtspPush
from edge_detector.stream_config import StreamConfig

pytest.importorskip("av", reason="needs PyAV: pip install av")

PYTHON = "/usr/bin/python3"
PROBE = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    "Gst.init(None); assert all(map(Gst.ElementFactory.find, ('openh264dec', 'h264parse', 'rtph264depay')))"
)


class Recorder:
    """The server in a process of its own; `pictures` are those that it has decoded: size, left and right colour."""

    def __init__(self) -> None:
        self.port = 0
        self.pictures: list[Any] = []
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, str(Path(__file__).with_name("rtsp_recorder.py")), str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # half a line, when it is killed
            for line in self._process.stdout or ():
                self.pictures.append(json.loads(line))

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="session")
def recorder_available() -> None:
    try:
        probe = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, timeout=60)
    except OSError as error:
        pytest.skip(f"needs {PYTHON}: {error}")
    if probe.returncode:
        pytest.skip("needs GStreamer's RTSP server and decoder: apt install gir1.2-gst-rtsp-server-1.0 ...-plugins-bad")


@pytest.fixture
def recorder(recorder_available: None) -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(rtsp_push, "RETRY_S", 0.2)
    monkeypatch.setattr(rtsp_push, "SURE_S", 0.5)
    monkeypatch.setattr(rtsp_push, "RETRY_MAX_S", 0.4)


class Camera:
    """Publishes pictures whose left half goes from red to blue and back, once in 20 pictures; the right is green."""

    def __init__(self, video: LiveVideo) -> None:
        self.size_wh = (320, 240)
        self.noise = False
        self.slowest_s = 0.0
        self.over = False
        self._video = video
        self._rng = np.random.default_rng(0)

    def run(self) -> None:
        step = 0
        while not self.over:
            step += 1
            width, height = self.size_wh
            image = np.full((height, width, 3), (0, 200, 0), np.uint8)
            image[:, : width // 2] = (250, 0, 0) if step // 10 % 2 else (0, 0, 250)
            if self.noise:
                image[: height // 4] = self._rng.integers(0, 256, (height // 4, width, 3), np.uint8)
            frame = Frame(image, step, time.monotonic(), time.time(), "camera")
            before_s = time.monotonic()
            self._video.publish(FrameResult(frame, Detections.empty(), None))
            self.slowest_s = max(self.slowest_s, time.monotonic() - before_s)
            time.sleep(0.04)


@contextmanager
def filmed(**settings: Any) -> Iterator[tuple[LiveVideo, Camera]]:
    with closing(LiveVideo("front", OverlayRenderer(()), StreamConfig(encoder="libx264", **settings))) as video:
        camera = Camera(video)
        thread = threading.Thread(target=camera.run)
        thread.start()
        try:
            yield video, camera
        finally:
            camera.over = True
            thread.join()


def address(port: int, path: str = "front", password: str = "s3cret") -> str:
    return f"rtsp://me:{password}@127.0.0.1:{port}/{path}"


def wait_until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


def both_colors(pictures: list[Any]) -> bool:
    lefts = {"red" if left[0] > 200 > 60 > left[2] else "blue" if left[2] > 200 else "?" for _, left, _ in pictures}
    return {"red", "blue"} <= lefts


def test_moving_pictures_in_colour_arrive_and_nothing_is_encoded_twice(recorder: Recorder) -> None:
    with filmed() as (video, _), closing(RtspPush(video, address(recorder.port))) as push:
        wait_until(lambda: both_colors(recorder.pictures))
        assert push.sent <= video.encoded <= push.sent + 2
        assert push.name == f"rtsp push to rtsp://127.0.0.1:{recorder.port}/front"
    size_wh, _, right = recorder.pictures[-1]
    assert size_wh == [320, 240]
    assert np.abs(np.subtract(right, (0, 200, 0))).max() < 25  # openh264dec does not tell which matrix it is


def test_size_may_change(recorder: Recorder) -> None:
    with filmed() as (video, camera), closing(RtspPush(video, address(recorder.port))):
        wait_until(lambda: recorder.pictures)
        camera.size_wh = (160, 120)
        wait_until(lambda: recorder.pictures[-1][0] == [160, 120])
        recorder.pictures.clear()
        wait_until(lambda: both_colors(recorder.pictures))


def test_server_that_was_restarted_gets_pictures_again(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    with filmed() as (video, camera), closing(RtspPush(video, address(recorder.port))):
        wait_until(lambda: recorder.pictures)
        recorder.stop()
        wait_until(lambda: "tried again" in caplog.text)
        time.sleep(1)
        recorder.pictures.clear()
        recorder.start()
        wait_until(lambda: both_colors(recorder.pictures))
        wait_until(lambda: "the server is there again" in caplog.text)
    assert caplog.text.count("tried again") == 1
    assert "s3cret" not in caplog.text
    assert camera.slowest_s < 0.5


@pytest.mark.parametrize(
    ("path", "password", "message"), [("nowhere", "s3cret", "404"), ("front", "wr0ng", "401 Unauthorized")]
)
def test_refusal_is_told_once_without_the_password(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, path: str, password: str, message: str
) -> None:
    with filmed() as (video, _), closing(RtspPush(video, address(recorder.port, path, password))):
        wait_until(lambda: message in caplog.text)
        time.sleep(1)
        assert video.encoded < 10
    assert caplog.text.count("tried again") == 1
    assert password not in caplog.text


def test_absent_server_costs_next_to_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with filmed() as (video, _), closing(RtspPush(video, address(port))):
        time.sleep(1.5)
        assert video.encoded < 10
    assert "Connection refused" in caplog.text


def test_server_that_stops_reading_is_left_and_found_again(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtsp_push, "IO_S", 0.5)
    # So much that the kernel's buffers are full soon.
    with (
        filmed(bitrate_kbps=50_000, fps=30) as (video, camera),
        closing(RtspPush(video, address(recorder.port))),
    ):
        camera.size_wh, camera.noise = (960, 540), True
        wait_until(lambda: recorder.pictures)
        recorder.pause()
        wait_until(lambda: "tried again" in caplog.text, timeout_s=30)
        recorder.resume()
        wait_until(lambda: "the server is there again" in caplog.text)
        recorder.pictures.clear()
        wait_until(lambda: recorder.pictures)
    assert camera.slowest_s < 0.5


def test_closing_takes_less_than_a_second_while_the_server_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, filmed() as (video, camera):
        push = RtspPush(video, address(silent.getsockname()[1]))
        connection, _ = silent.accept()
        start_s = time.monotonic()
        push.close()
        assert time.monotonic() - start_s < 1
        connection.close()
        push.close()
    assert count_abandoned() == 0
    assert camera.slowest_s < 0.5
