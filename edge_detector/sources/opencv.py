"""Streams that OpenCV's FFmpeg opens: RTSP over TCP, HTTP, RTMP, SRT."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.errors import SourceError
from edge_detector.sources import redact
from edge_detector.sources.camera import CaptureOptions, turned

_OPEN_TIMEOUT_S = 10.0
_FAILED_READS = 10  # in a row; a stream may hold a damaged picture now and then
_RETRY_PAUSE_S = 0.05
_DECODER_THREADS = 2  # each holds a picture back; one alone may be too slow for a big stream


def open_capture(target: str, backend: int, params: Sequence[int] = ()) -> cv2.VideoCapture:
    """Return a `cv2.VideoCapture`, opened or not, that keeps its complaints to itself.

    OPENCV_LOG_LEVEL and OPENCV_FFMPEG_LOGLEVEL bring them back.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    # For the whole process: OpenCV has no such parameters. Over UDP every lost packet is a torn picture; without
    # measuring the rate, which the sender states, a stream opens in a third of the time.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|fpsprobesize;0")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        _silence_opencv()
    return cv2.VideoCapture(target, backend, params)


def _silence_opencv() -> None:
    """Set OpenCV's log level to silent, 0; the function has another place since OpenCV 5."""
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_level(0)


class StreamCamera:
    """A network stream; see `Camera`. Size and rate are the sender's.

    If the size changes in mid-stream, OpenCV 5 scales to the first until the stream is opened anew; 4.11 gives torn
    pictures, and has no property by which to notice.
    """

    def __init__(self, uri: str, options: CaptureOptions) -> None:
        """Open it.

        Raises:
            SourceError: no answer within 10 s, or nothing that can be decoded.
        """
        self.name = redact(uri)
        self._uri = uri
        self._options = options
        self._capture = self._open()
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = fps if 0 < fps <= 240 else None

    def grab(self) -> tuple[npt.NDArray[np.uint8], float]:
        """Return the next picture and when it was decoded; see `Camera.grab`."""
        start_s = time.monotonic()
        for _ in range(_FAILED_READS):
            ok, bgr = self._capture.read()
            captured_at = time.monotonic()
            # At the time limit OpenCV still gives pictures that were in the decoder: they are old.
            if captured_at - start_s > 0.9 * self._options.timeout_s:
                raise SourceError(f"{self.name}: no picture for {self._options.timeout_s:g} s, though connected")
            if ok:
                image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
                return turned(image, self._options.rotation), captured_at
            time.sleep(_RETRY_PAUSE_S)
        raise SourceError(f"{self.name}: the stream has ended or broken off")

    def restart(self) -> None:
        """Connect again."""
        self._capture.release()
        self._capture = self._open()

    def close(self) -> None:
        """Hang up."""
        self._capture.release()

    def _open(self) -> cv2.VideoCapture:
        params = {
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: int(_OPEN_TIMEOUT_S * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC: int(self._options.timeout_s * 1000),
            cv2.CAP_PROP_N_THREADS: _DECODER_THREADS,
        }
        capture = open_capture(self._uri, cv2.CAP_FFMPEG, [number for pair in params.items() for number in pair])
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{self.name}: cannot be opened; is it on, and are address, user and password right?")
        return capture
