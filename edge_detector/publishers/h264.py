"""H264Encoder: pictures to H.264 without delay, by PyAV."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.errors import ConfigError, PublishError

logger = logging.getLogger(__name__)

Image = npt.NDArray[np.uint8]

CLOCK_HZ = 90_000  # of `VideoPacket.pts`, as RTP counts
HARDWARE = "h264_v4l2m2m"
BUFFER_S = 0.5  # how much of the bitrate one picture may take at once
TRIALS = 8  # pictures in which a hardware encoder must have given something
IDR, SPS, PPS = 5, 7, 8  # types of NAL units: ITU-T H.264, table 7-1
_BT601 = 6  # matrix of what OpenCV converts to: ITU-T H.264, table E-5
_LIMITED = 1  # range of it, as FFmpeg counts


@dataclass(frozen=True, slots=True)
class VideoPacket:
    """One encoded picture.

    Attributes:
        data: Annex B; a keyframe begins with its parameter sets (SPS, PPS).
        keyframe: whether decoding can begin with it.
        pts: when to show it, in `CLOCK_HZ`; rises from packet to packet.
    """

    data: bytes
    keyframe: bool
    pts: int


def import_av() -> Any:
    """Return PyAV.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(f"H.264 needs PyAV ({error}): pip install 'edge-detector[stream]'") from error
    return av


def reason(error: Exception) -> str:
    """Return what FFmpeg says, without the name of the function or address, which may hold a password."""
    return str(getattr(error, "strerror", None) or type(error).__name__)


class H264Encoder:
    """Encodes pictures of one size: constrained baseline, no B frames, each packet out before the next picture.

    A keyframe comes only when asked for, and first. Odd sides lose one pixel. `encoder` is "libx264", "h264_v4l2m2m" or
    "auto": the hardware's where it works, else libx264; `name` says which it is. Not safe for several threads.

    Raises:
        ConfigError: PyAV is not installed, or has no such encoder.
        PublishError: the encoder does not work.
    """

    def __init__(self, size_wh: tuple[int, int], fps: float, bitrate_kbps: int, encoder: str = "auto") -> None:
        self._av = import_av()
        self._size_wh = size_wh[0] & ~1, size_wh[1] & ~1
        if min(self._size_wh) < 2:
            raise PublishError(f"a picture of {size_wh[0]}x{size_wh[1]} is too small for H.264")
        self._headers = b""
        self._pts = -1
        rates = fps, bitrate_kbps
        if encoder == "auto":
            encoder = HARDWARE if self._hardware_works(*rates) else "libx264"
        self.name = encoder
        self._context = self._open(encoder, *rates)

    def encode(self, image: Image, pts_s: float, keyframe: bool = False) -> list[VideoPacket]:
        """Encode a picture, (H, W, 3) uint8 RGB, to be shown at `pts_s` seconds; return what has come out, mostly one.

        Raises:
            PublishError: the encoder failed; make a new one.
        """
        self._pts = max(self._pts + 1, round(pts_s * CLOCK_HZ))
        try:
            packets = self._context.encode(self._frame(image, self._pts, keyframe))
        except (self._av.error.FFmpegError, OSError) as error:
            raise PublishError(f"{self.name} failed: {reason(error)}") from error
        return [self._packet(bytes(packet), packet.pts) for packet in packets]

    def _frame(self, image: Image, pts: int, keyframe: bool) -> Any:
        width, height = self._size_wh
        yuv = cv2.cvtColor(image[:height, :width], cv2.COLOR_RGB2YUV_I420)
        frame = self._av.VideoFrame.from_ndarray(yuv, format="yuv420p")
        kinds = self._av.video.frame.PictureType
        frame.pict_type = kinds.I if keyframe else kinds.NONE
        frame.pts, frame.time_base = pts, Fraction(1, CLOCK_HZ)
        frame.colorspace, frame.color_range = _BT601, _LIMITED
        return frame

    def _packet(self, data: bytes, pts: int) -> VideoPacket:
        """Return the packet; hardware may send parameter sets only once, so that they are kept for later keyframes."""
        units = list(nal_units(data))
        headers = b"".join(b"\0\0\0\1" + unit for unit in units if kind_of(unit) in (SPS, PPS))
        self._headers = headers or self._headers
        keyframe = any(kind_of(unit) == IDR for unit in units)
        return VideoPacket(self._headers + data if keyframe and not headers else data, keyframe, pts)

    def _open(self, encoder: str, fps: float, bitrate_kbps: int) -> Any:
        try:
            context = self._av.CodecContext.create(encoder, "w")
        except (self._av.error.FFmpegError, ValueError) as error:
            raise ConfigError(f"this build of PyAV has no encoder {encoder}; set stream.encoder: auto") from error
        context.width, context.height = self._size_wh
        context.pix_fmt = "yuv420p"
        context.time_base, context.framerate = Fraction(1, CLOCK_HZ), Fraction(fps).limit_denominator(1000)
        context.colorspace, context.color_range = _BT601, _LIMITED
        context.bit_rate = bitrate_kbps * 1000
        context.max_b_frames = 0
        context.gop_size = 10_000  # keyframes are asked for
        context.thread_count = 1  # more would take cores from the model
        context.options = {}
        if encoder == "libx264":
            limits = {"maxrate": f"{bitrate_kbps}k", "bufsize": f"{round(bitrate_kbps * BUFFER_S)}k"}
            fast = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "forced-idr": "1"}
            context.options = fast | limits
        else:
            context.profile = "Constrained Baseline"
        try:
            context.open()
        except (self._av.error.FFmpegError, OSError) as error:
            raise PublishError(
                f"the encoder {encoder} does not open: {reason(error)}; set stream.encoder: auto"
            ) from error
        return context

    def _hardware_works(self, fps: float, bitrate_kbps: int) -> bool:
        try:
            context = self._open(HARDWARE, fps, bitrate_kbps)
            grey = np.full((self._size_wh[1], self._size_wh[0], 3), 128, np.uint8)
            period = CLOCK_HZ / fps
            works = any(context.encode(self._frame(grey, round(i * period), i == 0)) for i in range(TRIALS))
        except Exception as error:  # noqa: BLE001 - whatever a driver does, there is libx264
            logger.debug("%s: %s", HARDWARE, error)
            return False
        return works


def nal_units(data: bytes) -> Iterator[bytes]:
    """Yield the NAL units of Annex B, without the codes between them."""
    start = data.find(b"\0\0\1") + 3
    while start >= 3:
        following = data.find(b"\0\0\1", start)
        end = len(data) if following < 0 else following - (data[following - 1] == 0)
        if end > start:
            yield data[start:end]
        start = following + 3


def kind_of(unit: bytes) -> int:
    """Return the type of a NAL unit."""
    return unit[0] & 0x1F
