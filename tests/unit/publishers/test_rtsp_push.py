from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import numpy as np
import pytest

from edge_detector.detections import Detections
from edge_detector.frame import Frame, FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import rtsp_push
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.rtsp_push import RtspPush
from edge_detector.stream_config import StreamConfig

pytest.importorskip("av", reason="needs PyAV: pip install av")


class FickleServer:
    """Takes whoever wants to RECORD, and closes the connection `stays_s` later."""

    def __init__(self) -> None:
        self.stays_s = 0.0
        self.recorded = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/front"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                with connection, connection.makefile("rb") as lines, suppress(OSError):
                    self._answer(connection, lines)

    def _answer(self, connection: socket.socket, lines: Iterator[bytes]) -> None:
        head: list[bytes] = []
        for line in lines:
            head.append(line.lower().strip())
            if head[-1]:
                continue
            named = dict(one.split(b":", 1) for one in head[1:-1])
            lines.read(int(named.get(b"content-length", 0)))  # type: ignore[attr-defined]
            connection.sendall(b"RTSP/1.0 200 OK\r\nSession: 1\r\nCSeq:" + named[b"cseq"] + b"\r\n\r\n")
            if head[0].startswith(b"record"):
                self.recorded += 1
                time.sleep(self.stays_s)
                return
            head.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[FickleServer]:
    with closing(FickleServer()) as started:
        yield started


@pytest.fixture
def video() -> Iterator[LiveVideo]:
    """Live video of a camera that gives pictures."""
    over = threading.Event()
    with closing(LiveVideo("front", OverlayRenderer(()), StreamConfig(encoder="libx264"))) as filmed:

        def film() -> None:
            while not over.wait(0.04):
                frame = Frame(np.zeros((48, 64, 3), np.uint8), 0, time.monotonic(), time.time(), "camera")
                filmed.publish(FrameResult(frame, Detections.empty(), None))

        thread = threading.Thread(target=film)
        thread.start()
        yield filmed
        over.set()
        thread.join()


def test_server_that_takes_and_closes_is_told_once_and_tried_ever_less(
    server: FickleServer, video: LiveVideo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(rtsp_push, "RETRY_S", 0.05)
    monkeypatch.setattr(rtsp_push, "RETRY_MAX_S", 0.8)
    with closing(RtspPush(video, server.address)) as push:
        time.sleep(3)
        status = push.status()
    assert (status.state, status.failed) == ("failing", pytest.approx(server.recorded, abs=1))
    assert status.trouble_s > 1  # since the first time
    assert 2 <= server.recorded <= 6
    assert caplog.text.count("is tried again") == 1
    assert "there again" not in caplog.text


def test_server_that_stays_is_told_of(
    server: FickleServer,
    video: LiveVideo,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wait_until: Callable[..., None],
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(rtsp_push, "RETRY_S", 0.05)
    monkeypatch.setattr(rtsp_push, "SURE_S", 0.3)
    with closing(RtspPush(video, server.address)) as push:
        wait_until(lambda: "is tried again" in caplog.text)
        server.stays_s = 3.0
        wait_until(lambda: "there again" in caplog.text, 20)
        wait_until(lambda: push.status().state == "ok")
        assert push.status().written == push.sent > 0
