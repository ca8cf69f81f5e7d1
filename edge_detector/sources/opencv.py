"""Cameras and streams that OpenCV opens: V4L2, RTSP, HTTP."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edge_detector.errors import SourceError
from edge_detector.frame import Frame
from edge_detector.runtime.mailbox import LatestFrame
from edge_detector.sources import redact

logger = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 3.0  # per device, when any camera will do
_STALL_TIMEOUT_S = 10.0
_JOIN_TIMEOUT_S = 1.0
_FAILED_READS = 10  # in a row; a camera may deliver a damaged picture now and then
_RETRY_PAUSE_S = 0.05
_STREAM_PARAMS = (
    cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
    int(_OPEN_TIMEOUT_S * 1000),
    cv2.CAP_PROP_READ_TIMEOUT_MSEC,
    int(_STALL_TIMEOUT_S * 1000),
)


def open_capture(target: str, backend: int, params: Sequence[int] = ()) -> cv2.VideoCapture:
    """Return a `cv2.VideoCapture`, opened or not, that keeps its complaints to itself.

    OPENCV_LOG_LEVEL and OPENCV_FFMPEG_LOGLEVEL bring them back.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    if "OPENCV_LOG_LEVEL" not in os.environ:
        _silence_opencv()
    return cv2.VideoCapture(target, backend, params)


def _silence_opencv() -> None:
    """Set OpenCV's log level to silent, 0; the function has another place since OpenCV 5."""
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_level(0)


class OpenCVSource:
    """A live source, read by a thread of its own that keeps only the newest frame.

    The thread is needed because `cv2.VideoCapture.read` can block for ever; one that does is left behind.
    """

    live = True
    frame_total: int | None = None

    def __init__(self, target: str, name: str, backend: int, params: Sequence[int] = ()) -> None:
        self.name = name
        self.fps: float | None = None  # known before the first frame
        self._frames: LatestFrame[Frame] = LatestFrame()
        self._stop = threading.Event()
        self._heard_s = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, args=(target, backend, params), name=f"reader of {name}", daemon=True
        )
        self._thread.start()

    def read(self, timeout_s: float) -> Frame | None:
        """Return the newest frame; see `Source.read`. A source that is silent for 10 s has failed."""
        frame = self._frames.get(timeout_s)
        now_s = time.monotonic()
        if frame is not None:
            self._heard_s = now_s
        elif now_s - self._heard_s > _STALL_TIMEOUT_S:
            raise SourceError(f"{self.name}: no picture for {_STALL_TIMEOUT_S:.0f} s; check the camera and its cable")
        return frame

    def close(self) -> None:
        """Stop reading and release the device; a reader that is stuck in a call is abandoned."""
        self._stop.set()
        self._frames.close()
        self._thread.join(_JOIN_TIMEOUT_S)
        if self._thread.is_alive():
            logger.warning("%s: the reader hangs in a call and is left behind", self.name)

    def _run(self, target: str, backend: int, params: Sequence[int]) -> None:
        try:
            capture = open_capture(target, backend, params)
            try:
                self._read_all(capture)
            finally:
                capture.release()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that reads
            self._frames.close(error)

    def _read_all(self, capture: cv2.VideoCapture) -> None:
        if not capture.isOpened():
            raise SourceError(f"{self.name}: cannot be opened; is it there, free, and are address and password right?")
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else None
        frame_id = failed = 0
        while not self._stop.is_set():
            ok, bgr = capture.read()
            captured_at, wall_time = time.monotonic(), time.time()
            if not ok:
                failed += 1
                if failed == _FAILED_READS:
                    raise SourceError(f"{self.name}: gives no more pictures; it was unplugged or the stream has ended")
                self._stop.wait(_RETRY_PAUSE_S)
                continue
            failed = 0
            image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            self._frames.put(Frame(image, frame_id, captured_at, wall_time, self.name))
            frame_id += 1


def open_camera(address: str, timeout_s: float = _OPEN_TIMEOUT_S) -> OpenCVSource:
    """Open a V4L2 device by its path or number.

    Raises:
        SourceError: no such device, or no picture within `timeout_s` seconds.
    """
    device = f"/dev/video{address}" if address.isdecimal() else address
    if not Path(device).exists():
        present = ", ".join(map(str, _devices())) or "none"
        raise SourceError(f"{device}: no such camera; devices here: {present}")
    return _delivering(OpenCVSource(device, f"v4l2://{device}", cv2.CAP_V4L2), timeout_s)


def open_stream(uri: str) -> OpenCVSource:
    """Open an RTSP or HTTP stream.

    Raises:
        SourceError: it cannot be opened, or gives no picture.
    """
    return _delivering(OpenCVSource(uri, redact(uri), cv2.CAP_FFMPEG, _STREAM_PARAMS), 2 * _OPEN_TIMEOUT_S)


def open_first_camera(_: str) -> OpenCVSource:
    """Open the first V4L2 device that delivers a picture.

    Raises:
        SourceError: none does.
    """
    for device in _devices():
        try:
            source = open_camera(str(device), _PROBE_TIMEOUT_S)
        except SourceError as error:
            logger.debug("%s", error)
        else:
            logger.info("using camera %s", source.name)
            return source
    raise SourceError("auto: no camera found; connect a USB camera or name a source, such as rtsp://... or demo")


def _devices() -> list[Path]:
    devices = [device for device in Path("/dev").glob("video*") if device.name[5:].isdecimal()]
    return sorted(devices, key=lambda device: int(device.name[5:]))


def _delivering(source: OpenCVSource, timeout_s: float) -> OpenCVSource:
    """Return `source` once it has delivered a picture, which is dropped; close it if it does not."""
    try:
        if source.read(timeout_s) is None:
            raise SourceError(f"{source.name}: no picture within {timeout_s:.0f} s; check the camera and its cable")
    except SourceError:
        source.close()
        raise
    return source
