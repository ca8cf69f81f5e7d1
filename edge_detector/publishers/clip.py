"""Clip: H.264 in an MP4 file that can be played up to its last second, whatever ends the program."""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType

from edge_detector.errors import PublishError

TICKS_PER_S = 90000
KEYFRAME_S = 1.0  # a fragment ends there and is given to the system: so much is lost by a kill
CRF = 24
_FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"
_HYBRID_SINCE = (61, 7)  # libavformat of FFmpeg 7.1, which makes a plain MP4 of the fragments at the end


class Clip:
    """A file that pictures of one size are written to; both sides are even.

    Raises:
        PublishError: it cannot be written; so do the methods.
    """

    def __init__(self, path: Path, size_wh: tuple[int, int], fps: float, bitrate_kbps: int | None = None) -> None:
        self.fragments = 0  # that are in the file
        self.size_wh = size_wh
        self._path = path
        self._last_pts = -1
        self._key_pts = -TICKS_PER_S * 10
        self._began_s = 0.0
        self._error: PublishError | None = None
        options = {"preset": "ultrafast", "tune": "zerolatency", "crf": str(CRF), "forced-idr": "1", "g": "10000"}
        if bitrate_kbps is not None:
            options |= {"maxrate": f"{bitrate_kbps}k", "bufsize": f"{2 * bitrate_kbps}k"}
        hybrid = "+hybrid_fragmented" if av.library_versions["libavformat"][:2] >= _HYBRID_SINCE else ""
        try:
            self._container = av.open(
                str(path), "w", format="mp4", options={"movflags": _FRAGMENTED + hybrid, "flush_packets": "1"}
            )
            self._stream = self._container.add_stream(
                "libx264", rate=Fraction(fps).limit_denominator(1000), options=options
            )
            self._stream.width, self._stream.height = size_wh
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
            self._stream.codec_context.thread_count = 1  # the other cores are the model's
        except (av.FFmpegError, OSError, ValueError) as error:  # the last where libx264 is missing
            raise _failure(path, error) from error

    def add(self, image: npt.NDArray[np.uint8], at_s: float) -> None:
        """Append a picture, (H, W, 3) uint8 RGB; `at_s` on the monotonic clock, in ascending order."""
        if self._last_pts < 0:
            self._began_s = at_s
        pts = max(self._last_pts + 1, round((at_s - self._began_s) * TICKS_PER_S))
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        frame.pts, frame.time_base = pts, Fraction(1, TICKS_PER_S)
        is_key = pts - self._key_pts >= KEYFRAME_S * TICKS_PER_S
        frame.pict_type = PictureType.I if is_key else PictureType.NONE
        self._mux(frame)
        if is_key:
            self.fragments += self._last_pts >= 0
            self._key_pts = pts
        self._last_pts = pts

    def close(self) -> None:
        """Write out the rest, and wait until all is on the medium; if that fails, half a fragment is cut off."""
        try:
            try:
                if self._last_pts >= 0 and self._error is None:
                    self._mux(None)
            finally:
                self._container.close()
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
        except (av.FFmpegError, OSError) as error:
            self._error = self._error or _failure(self._path, error)
        except PublishError as error:
            self._error = error
        if self._error is not None:
            with suppress(OSError):
                _cut(self._path)
            raise self._error

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            self._error = _failure(self._path, error)
            raise self._error from error


def mend(path: Path) -> float | None:
    """Cut half a fragment off a file that was not closed; return seconds of what remains, None if nothing plays.

    Raises:
        OSError: it cannot be read or written.
    """
    _cut(path)
    try:
        with av.open(str(path)) as container:
            ends = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None]
    except (av.FFmpegError, IndexError):
        return None
    return float(max(ends)) if ends else None


def _cut(path: Path) -> None:
    complete = _complete_bytes(path)
    if complete < path.stat().st_size:
        os.truncate(path, complete)


def _complete_bytes(path: Path) -> int:
    """Return how far the file consists of whole boxes, a fragment's index ("moof") counting with its pictures."""
    size, at, complete = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            if length < 8 or at + length > size:
                break
            at += length
            if kind != b"moof":
                complete = at
    return complete


def _failure(path: Path, error: Exception) -> PublishError:
    return PublishError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")
