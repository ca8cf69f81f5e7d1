"""Annotated video file."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from uuid import uuid4

import cv2

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.worker import QueuedPublisher

logger = logging.getLogger(__name__)

# What OpenCV's wheels encode without further libraries; H.264 ("avc1") is not among it.
FOURCC_BY_SUFFIX = {".mp4": "mp4v", ".avi": "MJPG"}


def open_video(
    path: str | Path,
    overlay: OverlayRenderer,
    fps: float,
    *,
    lossless: bool = False,
    stop: threading.Event | None = None,
) -> QueuedPublisher:
    """Return a publisher that writes an annotated video to `path` (.mp4 or .avi) at `fps` frames per second.

    It is written under a temporary name beside `path` and renamed when it is complete. With no frame there is no file.

    Raises:
        PublishError: the suffix is not known, or the folder cannot be written to.
    """
    return QueuedPublisher(_VideoSink(Path(path), overlay, fps), lossless=lossless, stop=stop)


class _VideoSink:
    uses_image = True

    def __init__(self, path: Path, overlay: OverlayRenderer, fps: float) -> None:
        self.name = str(path)
        self._path = path
        self._part = path.with_name(f".{uuid4().hex}.part{path.suffix}")
        self._overlay = overlay
        self._fps = fps
        self._writer = cv2.VideoWriter()
        self._size_wh = (0, 0)
        self._frames = 0
        if path.suffix.lower() not in FOURCC_BY_SUFFIX:
            raise PublishError(f"cannot write {path}: a video's name ends in {' or '.join(FOURCC_BY_SUFFIX)}")
        try:
            if path.is_dir():
                raise PublishError(f"cannot write {path}: it is a folder; name a file")
            self._part.touch()
        except OSError as error:
            raise PublishError(f"cannot write {path}: {error.strerror}; choose another place") from error

    def write(self, result: FrameResult) -> None:
        if not self._frames:
            self._open(result.frame.size_wh)
        if result.frame.size_wh != self._size_wh:
            raise PublishError(
                f"{self.name}: frame {result.frame.frame_id} is {_by(result.frame.size_wh)}, the video is "
                f"{_by(self._size_wh)}; write pictures instead"
            )
        self._writer.write(cv2.cvtColor(self._overlay.draw(result), cv2.COLOR_RGB2BGR))
        self._frames += 1

    def finish(self, complete: bool) -> None:
        self._writer.release()
        try:
            if complete and self._frames:
                self._check()
                self._part.replace(self._path)
            elif complete:
                logger.warning("%s is not written: there was no frame", self._path)
        finally:
            self._part.unlink(missing_ok=True)

    def _open(self, size_wh: tuple[int, int]) -> None:
        fourcc = cv2.VideoWriter.fourcc(*FOURCC_BY_SUFFIX[self._path.suffix.lower()])
        if min(size_wh) < 2 or not self._writer.open(str(self._part), fourcc, self._fps, size_wh):
            raise PublishError(f"OpenCV cannot encode {_by(size_wh)} at {self._fps:g} fps to {self._path.suffix}")
        self._size_wh = size_wh

    def _check(self) -> None:
        """Read the number of frames back: OpenCV reports no error when a disk is full."""
        reader = cv2.VideoCapture(str(self._part))
        stored = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
        reader.release()
        if stored < self._frames:
            raise PublishError(f"cannot write {self.name}: {stored} of {self._frames} frames stored; is the disk full?")


def _by(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]}x{size_wh[1]}"
