"""Streams that fail, by real servers on this machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import cv2
import numpy as np
import pytest

from edge_detector.errors import SourceError
from edge_detector.sources import open_source, opencv
from edge_detector.sources.camera import CaptureOptions
from edge_detector.sources.opencv import StreamCamera

HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
JPEG = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(JPEG), JPEG)


@pytest.fixture
def serve() -> Iterator[Callable[[bytes, bool], str]]:
    """Return a function that starts a server which sends bytes, then hangs up or keeps silent; it returns its URI."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def start(content: bytes, hangs_up: bool) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.1)

        def run() -> None:
            connections = []
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                connection.sendall(content)
                if hangs_up:
                    connection.close()
                connections.append(connection)
            for connection in (*connections, listener):
                connection.close()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/stream.mjpg"

    yield start
    over.set()
    for thread in threads:
        thread.join()


def grab_until_it_fails(camera: StreamCamera, limit_s: float = 20) -> str:
    start_s = time.monotonic()
    while time.monotonic() - start_s < limit_s:
        try:
            camera.grab()
        except SourceError as error:
            return str(error)
    raise AssertionError("it gives pictures all the time")


def test_stream_that_ends_is_a_source_error(serve: Callable[[bytes, bool], str]) -> None:
    with closing(StreamCamera(serve(HEADER + 40 * PART, True), CaptureOptions())) as camera:
        assert "ended or broken off" in grab_until_it_fails(camera)


def test_stream_that_falls_silent_is_a_source_error_at_the_time_limit(serve: Callable[[bytes, bool], str]) -> None:
    with closing(StreamCamera(serve(HEADER + 40 * PART, False), CaptureOptions(timeout_s=0.5))) as camera:
        start_s = time.monotonic()
        assert "no picture for 0.5 s" in grab_until_it_fails(camera)
    assert time.monotonic() - start_s < 5


def test_restart_connects_again(serve: Callable[[bytes, bool], str]) -> None:
    with closing(StreamCamera(serve(HEADER + 40 * PART, True), CaptureOptions())) as camera:
        grab_until_it_fails(camera)
        camera.restart()
        image, captured_at = camera.grab()
    assert image.shape == (48, 64, 3)
    assert 0 <= time.monotonic() - captured_at < 5


def test_picture_is_turned(serve: Callable[[bytes, bool], str]) -> None:
    with closing(StreamCamera(serve(HEADER + 40 * PART, False), CaptureOptions(rotation=90))) as camera:
        assert camera.grab()[0].shape == (64, 48, 3)


def test_reader_that_hangs_does_not_hold_up_the_end(
    serve: Callable[[bytes, bool], str], caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(serve(HEADER + 40 * PART, False))
    while source.read(0.5) is not None:  # now the reader waits inside cv2 for more
        pass
    start_s = time.monotonic()
    source.close()
    assert time.monotonic() - start_s < 2
    assert "left behind" in caplog.text


def test_server_that_never_answers_is_a_source_error(
    serve: Callable[[bytes, bool], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencv, "_OPEN_TIMEOUT_S", 0.5)
    with pytest.raises(SourceError, match="cannot be opened"):
        StreamCamera(serve(b"", False), CaptureOptions())
