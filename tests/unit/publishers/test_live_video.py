from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import live_video
from edge_detector.publishers.h264 import CLOCK_HZ, VideoPacket
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.packets import PacketBuffer
from edge_detector.stream_config import StreamConfig

av = pytest.importorskip("av", reason="needs PyAV: pip install av")

MakeResult = Callable[..., FrameResult]
MakeVideo = Callable[..., LiveVideo]


@pytest.fixture
def make_video() -> Iterator[MakeVideo]:
    made: list[LiveVideo] = []

    def make(**settings: Any) -> LiveVideo:
        made.append(
            LiveVideo("front", OverlayRenderer(("person",)), StreamConfig(**{"encoder": "libx264", **settings}))
        )
        return made[-1]

    yield make
    for video in made:
        video.close()


class Collector:
    """Keeps packets, and decodes them."""

    def __init__(self) -> None:
        self.packets: list[VideoPacket] = []

    def __call__(self, packet: VideoPacket) -> None:
        self.packets.append(packet)

    def pictures(self) -> list[Any]:
        context: Any = av.CodecContext.create("h264", "r")
        return [
            frame.to_ndarray(format="rgb24") for one in self.packets for frame in context.decode(av.Packet(one.data))
        ]


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


def publish(video: LiveVideo, make_result: MakeResult, until: Callable[[], object], **settings: Any) -> None:
    """Publish pictures that move until `until`."""
    step = 0

    def published() -> bool:
        nonlocal step
        step += 1
        video.publish(make_result([(step % 50, 10, 60 + step % 50, 90)], frame_id=step, **settings))
        time.sleep(0.02)
        return bool(until())

    wait_until(published)


def test_without_taker_nothing_is_drawn_or_encoded(make_video: MakeVideo, make_result: MakeResult) -> None:
    video = make_video()
    for _ in range(10):
        video.publish(make_result())
        time.sleep(0.01)
    assert video.encoded == 0
    taken = Collector()
    leave = video.subscribe(taken)
    publish(video, make_result, lambda: len(taken.packets) > 2)
    leave()
    leave()
    wait_until(lambda: video._encoder is None)
    before = video.encoded
    for _ in range(10):
        video.publish(make_result())
        time.sleep(0.02)
    assert video.encoded == before


def test_newcomer_sees_the_newest_picture_at_once_also_while_no_new_one_comes(
    make_video: MakeVideo, make_result: MakeResult
) -> None:
    video = make_video()
    video.publish(make_result([], color=(200, 40, 40), live=False))
    for number in (1, 2):
        taken = Collector()
        video.subscribe(taken)
        wait_until(lambda taken=taken: taken.packets)  # type: ignore[misc]
        assert taken.packets[0].keyframe
        assert np.abs(taken.pictures()[0][60, 80].astype(int) - (200, 40, 40)).max() < 8
        assert video.encoded == number


def test_takers_share_the_encoder_and_each_begins_with_a_keyframe(
    make_video: MakeVideo, make_result: MakeResult
) -> None:
    video = make_video(fps=60)
    first, second = Collector(), Collector()
    video.subscribe(first)
    publish(video, make_result, lambda: len(first.packets) > 5)
    video.subscribe(second)
    publish(video, make_result, lambda: len(second.packets) > 5)
    assert first.packets[0].keyframe
    assert second.packets[0].keyframe
    video.close()
    assert second.packets == first.packets[-len(second.packets) :]
    assert video.encoded == len(first.packets)
    assert [packet.keyframe for packet in first.packets].count(True) <= 3


def test_keyframes_are_repeated(
    make_video: MakeVideo, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_video, "KEYFRAME_S", 0.3)
    video, taken = make_video(fps=60), Collector()
    video.subscribe(taken)
    publish(video, make_result, lambda: sum(packet.keyframe for packet in taken.packets) >= 3)
    times_s = [packet.pts / CLOCK_HZ for packet in taken.packets if packet.keyframe]
    assert min(np.diff(times_s)) >= 0.29


def test_many_wishes_give_few_keyframes(make_video: MakeVideo, make_result: MakeResult) -> None:
    video, taken = make_video(fps=60), Collector()
    video.subscribe(taken)
    start_s = time.monotonic()

    def wished() -> bool:
        video.request_keyframe()
        return time.monotonic() - start_s > 1.0

    publish(video, make_result, wished)
    assert 2 <= sum(packet.keyframe for packet in taken.packets) <= 1 + (time.monotonic() - start_s) / 0.4


def test_rate_is_limited_and_is_kept_by_a_camera_of_that_rate(make_video: MakeVideo, make_result: MakeResult) -> None:
    for wanted, given, least in ((10, 40, 5), (20, 19, 14)):
        video, taken = make_video(fps=wanted), Collector()
        video.subscribe(taken)
        start_s = time.monotonic()
        for step in range(given):  # one second of pictures
            early = 0.1 * (step % 2)  # every other one
            time.sleep(max(0.0, start_s + (step - early) / given - time.monotonic()))
            video.publish(make_result(frame_id=step))
        # Whatever the encoder had no time for.
        assert least <= len(taken.packets) + video.status().dropped + video.status().queued
        assert len(taken.packets) <= wanted + 2


def test_size_may_change_at_any_time(make_video: MakeVideo, make_result: MakeResult) -> None:
    video, taken = make_video(), Collector()
    video.subscribe(taken)
    for size_wh in ((160, 120), (321, 241), (64, 48)):
        before = len(taken.packets)
        publish(video, make_result, lambda before=before: len(taken.packets) > before + 2, size_wh=size_wh)  # type: ignore[misc]
    sizes = [picture.shape[1::-1] for picture in taken.pictures()]
    assert list(dict.fromkeys(sizes)) == [(160, 120), (320, 240), (64, 48)]
    assert all(np.diff([packet.pts for packet in taken.packets]) > 0)


def test_wide_pictures_are_scaled_down_with_their_boxes(make_video: MakeVideo, make_result: MakeResult) -> None:
    video, taken = make_video(max_width=320, bitrate_kbps=4000), Collector()
    video.subscribe(taken)
    video.publish(make_result([(200, 100, 600, 400)], size_wh=(640, 480), color=20, live=False))
    wait_until(lambda: taken.packets)
    (picture,) = taken.pictures()
    assert picture.shape == (240, 320, 3)
    assert picture[150, 98:103].max() > 150  # the left side of the box
    assert picture[150, 120:280].max() < 60


def test_publishing_never_waits_for_a_slow_taker(make_video: MakeVideo, make_result: MakeResult) -> None:
    video, release = make_video(), threading.Event()
    video.subscribe(lambda _: bool(release.wait(5)))
    longest_s = 0.0
    for step in range(30):
        before_s = time.monotonic()
        video.publish(make_result(frame_id=step))
        longest_s = max(longest_s, time.monotonic() - before_s)
        time.sleep(0.01)
    release.set()
    assert longest_s < 0.5
    assert video.encoded < 10


def test_failing_encoder_is_told_once_and_tried_again(
    make_video: MakeVideo, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(live_video.H264Encoder):
        tries = 0

        def encode(self, *arguments: Any) -> list[VideoPacket]:
            Failing.tries += 1
            if Failing.tries <= 2:
                raise RuntimeError("no more buffers")
            return super().encode(*arguments)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(live_video, "H264Encoder", Failing)
    monkeypatch.setattr(live_video, "RETRY_S", 0.2)
    video, taken = make_video(), Collector()
    video.subscribe(taken)
    start_s = time.monotonic()
    publish(video, make_result, lambda: Failing.tries == 1)
    publish(video, make_result, lambda: video.status().state == "failing")
    assert video.status().error == "no more buffers"
    publish(video, make_result, lambda: len(taken.packets) > 2)
    assert (video.status().state, video.status().failed) == ("ok", 2)
    assert time.monotonic() - start_s >= 0.4
    assert taken.packets[0].keyframe
    assert caplog.text.count("no more buffers") == 1
    assert "works again" in caplog.text


def test_auto_leaves_hardware_that_failed_for_libx264(
    make_video: MakeVideo, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Hardware(live_video.H264Encoder):
        def __init__(self, size_wh: tuple[int, int], fps: float, bitrate_kbps: int, encoder: str) -> None:
            super().__init__(size_wh, fps, bitrate_kbps, "libx264")
            opened.append(encoder)

        def encode(self, *arguments: Any) -> list[VideoPacket]:
            if opened[-1] == "auto":
                raise PublishError("the driver is stuck")
            return super().encode(*arguments)

    monkeypatch.setattr(live_video, "H264Encoder", Hardware)
    monkeypatch.setattr(live_video, "RETRY_S", 0.1)
    video, taken = make_video(encoder="auto"), Collector()
    video.subscribe(taken)
    publish(video, make_result, lambda: taken.packets)
    assert opened == ["auto", "libx264"]


def test_failing_taker_does_not_take_the_picture_from_others(
    make_video: MakeVideo, make_result: MakeResult, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: VideoPacket) -> None:
        raise RuntimeError("gone")

    video, taken = make_video(), Collector()
    video.subscribe(fail)
    video.subscribe(taken)
    publish(video, make_result, lambda: len(taken.packets) > 3)
    assert video.takers == 1
    assert caplog.text.count("a taker failed") == 1


def test_closing_is_quick_and_final(make_video: MakeVideo, make_result: MakeResult) -> None:
    video = make_video()
    leave = video.subscribe(Collector())
    video.publish(make_result())
    start_s = time.monotonic()
    video.close()
    assert time.monotonic() - start_s < 1
    leave()
    assert not [thread for thread in threading.enumerate() if thread.name == video.name]
    with pytest.raises(PublishError, match="closed"):
        video.publish(make_result())


def packet(number: int, keyframe: bool = False) -> VideoPacket:
    return VideoPacket(b"x", keyframe, number)


def test_slow_taker_goes_on_with_the_next_keyframe() -> None:
    asked, told = [], []
    buffer = PacketBuffer(lambda: asked.append(1), lambda: told.append(1), capacity=3)
    for number in range(6):
        buffer.put(packet(number, keyframe=number == 1))
    assert (buffer.take(), asked, buffer.dropped) == (None, [1], 6)
    for number in range(6, 10):
        buffer.put(packet(number, keyframe=number == 8))
    assert [one.pts for one in iter(buffer.take, None)] == [8, 9]
    assert len(told) == 10


def test_keyframe_takes_the_place_of_what_was_not_taken() -> None:
    asked: list[int] = []
    buffer = PacketBuffer(lambda: asked.append(1), lambda: None, capacity=2)
    for number in range(4):
        buffer.put(replace(packet(number), keyframe=number in (0, 2)))
    assert [one.pts for one in iter(buffer.take, None)] == [2, 3]
    assert asked == []
