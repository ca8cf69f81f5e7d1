"""Annotated pictures in a folder."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Collection
from itertools import count
from pathlib import Path
from uuid import uuid4

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.worker import QueuedPublisher

JPEG_QUALITY = 92
_STEM_MAX = 60  # characters; a name has room for 255 bytes


class CopyNames:
    """Names for annotated copies in a folder: each is new in this run, and none is that of a file in `originals`.

    What an earlier run wrote may be overwritten, unless it is an original of this one.
    """

    def __init__(self, directory: Path, originals: Collection[Path] = ()) -> None:
        self._directory = directory
        self._taken = {os.path.realpath(path) for path in originals}

    def next(self, source: str, suffix: str) -> Path:
        """Return `cat_boxes.jpg` for the source `photos/cat.png`, or `cat_boxes_2.jpg` where that is taken."""
        stem = re.sub(r"[^\w.-]+", "_", Path(source).stem)[:_STEM_MAX] or "frame"
        names = (f"{stem}_boxes{suffix}" if number == 1 else f"{stem}_boxes_{number}{suffix}" for number in count(1))
        paths = (self._directory / name for name in names)
        path = next(path for path in paths if os.path.realpath(path) not in self._taken)
        self._taken.add(os.path.realpath(path))
        return path


def open_pictures(
    directory: str | Path,
    overlay: OverlayRenderer,
    *,
    originals: Collection[Path] = (),
    on_unwritable: Callable[[str], None] | None = None,
    lossless: bool = False,
    stop: threading.Event | None = None,
) -> QueuedPublisher:
    """Return a publisher that writes each result to `directory` (made if missing) as an annotated JPEG.

    `cat.png` becomes `cat_boxes.jpg`, see `CopyNames`, and none of `originals` is ever overwritten. Each file is
    written under a temporary name and renamed when it is complete. A picture too large for a JPEG is a failure of the
    publisher, unless `on_unwritable` takes what is wrong with it, on the publisher's thread; then the rest goes on.

    Raises:
        PublishError: the folder cannot be made or written to.
    """
    sink = _PicturesSink(Path(directory), overlay, originals, on_unwritable)
    return QueuedPublisher(sink, lossless=lossless, stop=stop)


class _PicturesSink:
    uses_image = True

    def __init__(
        self,
        directory: Path,
        overlay: OverlayRenderer,
        originals: Collection[Path],
        on_unwritable: Callable[[str], None] | None,
    ) -> None:
        self.name = str(directory)
        # No other run writes to it, and none takes it for a picture.
        self._part = directory / f".{uuid4().hex}.part"
        self._names = CopyNames(directory, originals)
        self._overlay = overlay
        self._on_unwritable = on_unwritable
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._part.touch()
        except OSError as error:
            raise PublishError(f"cannot write to {directory}: {error.strerror}; choose another folder") from error

    def write(self, result: FrameResult) -> None:
        try:
            jpeg = encode_jpeg(self._overlay.draw(result), JPEG_QUALITY)
        except ValueError as error:
            if self._on_unwritable is None:
                raise
            self._on_unwritable(f"{result.frame.source}: no annotated copy: {error}")
            return
        path = self._names.next(result.frame.source, ".jpg")
        try:
            self._part.write_bytes(jpeg)
            self._part.replace(path)
        except OSError as error:
            raise PublishError(f"cannot write {path}: {error.strerror}") from error

    def finish(self, complete: bool) -> None:
        """Remove the unfinished file; pictures that are written stay."""
        self._part.unlink(missing_ok=True)
