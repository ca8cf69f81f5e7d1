"""Annotated pictures in a folder."""

from __future__ import annotations

import re
import threading
from itertools import count
from pathlib import Path

from edge_detector.errors import PublishError
from edge_detector.frame import Frame, FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.worker import QueuedPublisher

JPEG_QUALITY = 92


def open_pictures(
    directory: str | Path, overlay: OverlayRenderer, *, lossless: bool = False, stop: threading.Event | None = None
) -> QueuedPublisher:
    """Return a publisher that writes each result to `directory` (made if missing) as an annotated JPEG.

    `cat.png` becomes `cat_boxes.jpg`, so that no original is overwritten, and a second picture of that name
    `cat_boxes_2.jpg`. Each file is written under a temporary name and renamed when it is complete.

    Raises:
        PublishError: the folder cannot be made or written to.
    """
    return QueuedPublisher(_PicturesSink(Path(directory), overlay), lossless=lossless, stop=stop)


class _PicturesSink:
    uses_image = True

    def __init__(self, directory: Path, overlay: OverlayRenderer) -> None:
        self.name = str(directory)
        self._directory = directory
        self._part = directory / ".part.jpg"
        self._overlay = overlay
        self._names: set[str] = set()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._part.touch()
        except OSError as error:
            raise PublishError(f"cannot write to {directory}: {error.strerror}; choose another folder") from error

    def write(self, result: FrameResult) -> None:
        path = self._directory / self._name_for(result.frame)
        try:
            self._part.write_bytes(encode_jpeg(self._overlay.draw(result), JPEG_QUALITY))
            self._part.replace(path)
        except OSError as error:
            raise PublishError(f"cannot write {path}: {error.strerror}") from error

    def finish(self, complete: bool) -> None:
        """Remove the unfinished file; pictures that are written stay."""
        self._part.unlink(missing_ok=True)

    def _name_for(self, frame: Frame) -> str:
        stem = re.sub(r"[^\w.-]+", "_", Path(frame.source).stem) or "frame"
        names = (f"{stem}_boxes" if number == 1 else f"{stem}_boxes_{number}" for number in count(1))
        name = next(name for name in names if name not in self._names)
        self._names.add(name)
        return f"{name}.jpg"
