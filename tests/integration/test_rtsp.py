"""Recovery of a real RTSP stream: H.264 over TCP from GStreamer's server, on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import cv2
import pytest

from edge_detector.frame import Frame
from edge_detector.sources import Source, open_source
from edge_detector.sources.camera import CaptureOptions, Recovery

SOON = Recovery(retry_s=0.1, retry_max_s=0.5)
OPTIONS = CaptureOptions(timeout_s=1.0)


def opened(port: int, **settings: bool) -> Source:
    uri = f"rtsp://user:secret@127.0.0.1:{port}/camera"
    return open_source(uri, options=OPTIONS, recovery=SOON, **settings)


def next_frame(source: Source, limit_s: float = 20) -> Frame:
    start_s = time.monotonic()
    while time.monotonic() - start_s < limit_s:
        frame = source.read(0.2)
        if frame is not None:
            return frame
    raise AssertionError(f"no frame within {limit_s} s: {source.health}")


def wait_for_outage(source: Source, limit_s: float = 20) -> None:
    start_s = time.monotonic()
    while source.health.state != "reconnecting":
        assert time.monotonic() - start_s < limit_s, source.health
        source.read(0.1)


def test_frames_come_in_colour_at_the_senders_rate(rtsp_server: Any) -> None:
    with closing(opened(rtsp_server.port)) as source:
        time.sleep(3)  # first comes what has gathered while the stream was examined
        start = next_frame(source)
        end = [next_frame(source) for _ in range(20)][-1]
    assert start.size_wh == (640, 480)
    assert source.fps == pytest.approx(10)
    assert (end.frame_id - start.frame_id) / (end.captured_at - start.captured_at) == pytest.approx(10, rel=0.3)
    assert source.name == f"rtsp://***@127.0.0.1:{rtsp_server.port}/camera"


def test_server_that_was_restarted_is_found_again(rtsp_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    with closing(opened(rtsp_server.port)) as source:
        before = next_frame(source)
        rtsp_server.stop()
        wait_for_outage(source)
        rtsp_server.start()
        after = next_frame(source)
    assert after.frame_id > before.frame_id
    assert source.health.state == "live"
    assert "secret" not in caplog.text


def test_server_that_comes_late_is_waited_for(rtsp_server: Any) -> None:
    rtsp_server.stop()
    with closing(opened(rtsp_server.port, required=False)) as source:
        wait_for_outage(source)
        rtsp_server.start()
        next_frame(source)


def test_stream_whose_packets_are_lost_is_opened_again(rtsp_server: Any, relay_to: Callable[[int], Any]) -> None:
    relay = relay_to(rtsp_server.port)
    with closing(opened(relay.port)) as source:
        next_frame(source)
        relay.dropping = True
        start_s = time.monotonic()
        wait_for_outage(source)
        assert time.monotonic() - start_s < 3
        relay.dropping = False
        next_frame(source, limit_s=30)
        assert source.health.abandoned == 0


def test_server_that_stands_still_is_survived(rtsp_server: Any) -> None:
    with closing(opened(rtsp_server.port)) as source:
        next_frame(source)
        rtsp_server.pause()
        wait_for_outage(source)
        rtsp_server.resume()
        next_frame(source, limit_s=30)


@pytest.mark.skipif(int(cv2.__version__[0]) < 5, reason="OpenCV 4.11 gives torn pictures when the size changes")
def test_stream_goes_on_when_its_resolution_changes(rtsp_server: Any) -> None:
    def ball_share(frame: Frame) -> float:
        return float((frame.image > 128).mean())

    with closing(opened(rtsp_server.port)) as source:
        time.sleep(2)
        before = next_frame(source)
        rtsp_server.resize(320, 240)
        end_s = time.monotonic() + 4
        while time.monotonic() < end_s:
            after = next_frame(source, limit_s=2)
    assert after.size_wh == before.size_wh  # OpenCV scales to the size that the stream began with
    assert after.frame_id - before.frame_id > 20
    # The ball has so many pixels whatever the size is, so it covers four times as much.
    assert ball_share(after) == pytest.approx(4 * ball_share(before), rel=0.2)
    assert ball_share(before) > 0.001
