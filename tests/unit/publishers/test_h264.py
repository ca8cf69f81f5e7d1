from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.errors import ConfigError, PublishError
from edge_detector.publishers.h264 import CLOCK_HZ, H264Encoder, VideoPacket

av = pytest.importorskip("av", reason="needs PyAV: pip install av")

Image = npt.NDArray[np.uint8]


def picture(step: int = 0, size_wh: tuple[int, int] = (320, 240)) -> Image:
    """A smooth coloured pattern that moves."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return np.roll(cv2.resize(small, size_wh, interpolation=cv2.INTER_CUBIC), 4 * step, axis=1)


def decoded(packets: list[VideoPacket]) -> list[Image]:
    context: Any = av.CodecContext.create("h264", "r")
    context.flags |= 1 << 19  # low delay
    return [frame.to_ndarray(format="rgb24") for one in packets for frame in context.decode(av.Packet(one.data))]


@pytest.mark.parametrize("size_wh", [(320, 240), (161, 121), (2, 2)])
def test_each_picture_comes_out_at_once_and_looks_the_same(size_wh: tuple[int, int]) -> None:
    encoder = H264Encoder(size_wh, 15, 4000, "libx264")
    pictures = [picture(step, size_wh) for step in range(8)]
    packets = [encoder.encode(one, step / 15, keyframe=step == 0) for step, one in enumerate(pictures)]
    assert [len(one) for one in packets] == [1] * 8
    shown = decoded([one for (one,) in packets])
    assert len(shown) == 8
    for before, after in zip(pictures, shown, strict=True):
        height, width = after.shape[:2]
        assert (width, height) == (size_wh[0] & ~1, size_wh[1] & ~1)
        if width > 2:
            assert cv2.PSNR(np.ascontiguousarray(before[:height, :width]), after) > 30


def test_plain_colours_come_back() -> None:
    for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)):
        (packet,) = H264Encoder((64, 64), 15, 1000).encode(np.full((64, 64, 3), color, np.uint8), 0.0)
        assert np.abs(decoded([packet])[0][32, 32].astype(int) - color).max() <= 4


def test_keyframes_come_first_and_when_asked_for_with_parameter_sets() -> None:
    encoder = H264Encoder((320, 240), 15, 1000, "libx264")
    packets = [encoder.encode(picture(step), step / 15, keyframe=step in (0, 5))[0] for step in range(40)]
    assert [step for step, packet in enumerate(packets) if packet.keyframe] == [0, 5]
    assert packets[5].data[4] & 0x1F == 7  # a sequence parameter set
    assert len(decoded(packets[5:])) == 35


def test_times_are_kept_and_always_rise() -> None:
    encoder = H264Encoder((64, 64), 15, 1000, "libx264")
    times_s = [10.0, 10.05, 10.05, 9.0, 10.1]
    pts = [encoder.encode(picture(0, (64, 64)), time_s)[0].pts for time_s in times_s]
    assert pts == [10 * CLOCK_HZ, 904_500, 904_501, 904_502, 909_000]


def test_bitrate_is_kept() -> None:
    rng = np.random.default_rng(1)
    encoder = H264Encoder((320, 240), 15, 500, "libx264")
    sizes = [
        len(encoder.encode(rng.integers(0, 256, (240, 320, 3), np.uint8), step / 15, step % 30 == 0)[0].data)
        for step in range(60)
    ]
    assert sum(sizes[15:]) * 8 / 3 / 1000 == pytest.approx(500, rel=0.5)


def test_auto_finds_an_encoder_that_works() -> None:
    assert H264Encoder((64, 64), 15, 1000).encode(picture(0, (64, 64)), 0.0)


def test_encoder_that_was_chosen_and_does_not_work_is_an_error_that_names_it() -> None:
    if H264Encoder((64, 64), 15, 1000).name == "h264_v4l2m2m":
        pytest.skip("h264_v4l2m2m works on this machine")
    with pytest.raises(PublishError, match=r"h264_v4l2m2m does not open: .*; set stream.encoder: auto"):
        H264Encoder((64, 64), 15, 1000, "h264_v4l2m2m")


def test_encoder_that_does_not_exist_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no encoder h264_of_mine"):
        H264Encoder((64, 64), 15, 1000, "h264_of_mine")


def test_picture_without_two_pixels_is_refused() -> None:
    with pytest.raises(PublishError, match="too small"):
        H264Encoder((1, 50), 15, 1000)


def test_missing_package_is_a_config_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'edge-detector\[stream\]'"):
        H264Encoder((64, 64), 15, 1000)
