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
from edge_detector.sources import Source, open_source, opencv

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


def read_on(source: Source, limit_s: float) -> None:
    start_s = time.monotonic()
    while time.monotonic() - start_s < limit_s:
        source.read(0.1)


def test_stream_that_ends_is_a_source_error(serve: Callable[[bytes, bool], str]) -> None:
    source = open_source(serve(HEADER + 40 * PART, True))
    with closing(source), pytest.raises(SourceError, match="gives no more pictures"):
        read_on(source, limit_s=20)


def test_stream_that_falls_silent_is_a_source_error_soon_after_the_time_limit(
    serve: Callable[[bytes, bool], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencv, "_STALL_TIMEOUT_S", 0.5)
    start_s = time.monotonic()
    source = open_source(serve(HEADER + 40 * PART, False))
    with closing(source), pytest.raises(SourceError, match="no picture for"):
        read_on(source, limit_s=20)
    assert time.monotonic() - start_s < 5


def test_reader_that_hangs_is_left_behind(
    serve: Callable[[bytes, bool], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(opencv, "_JOIN_TIMEOUT_S", 0.1)
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
    with pytest.raises(SourceError, match=r"no picture within 1 s|cannot be opened"):
        open_source(serve(b"", False))
