"""Pictures and video files: every one in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

import edge_detector.assets
from edge_detector.errors import EndOfStream, SourceError, UnreadablePicture
from edge_detector.frame import Frame
from edge_detector.sources import SourceHealth, find_pictures
from edge_detector.sources.opencv import open_capture
from edge_detector.sources.pace import Pacer

logger = logging.getLogger(__name__)

_USUAL_FPS = 25.0  # where a file does not say


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """Return the picture as (H, W, 3) RGB uint8, turned upright by its EXIF orientation; transparency is dropped.

    Raises:
        UnreadablePicture: missing, empty, damaged, or of a kind that OpenCV does not decode.
    """
    try:
        stored = np.fromfile(path, np.uint8)
        bgr = cv2.imdecode(stored, cv2.IMREAD_COLOR) if stored.size else None
    except OSError as error:
        raise UnreadablePicture(f"{path}: {error.strerror or error}; check the file and its permissions") from error
    except cv2.error:
        bgr = None
    if bgr is None:
        why = "damaged or of an unknown kind; convert it to JPEG or PNG" if stored.size else "empty; copy it again"
        raise UnreadablePicture(f"{path}: not a picture: {why}, or leave it out")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


class PictureFiles:
    """Pictures one after the other; a frame's id is the place in `paths`, its source the path as given."""

    live = False
    fps: float | None = None
    health = SourceHealth()

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        self.name = name
        self.frame_total: int | None = len(paths)
        self._paths = paths
        self._next = 0

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next picture; see `Source.read`."""
        if self._next == len(self._paths):
            raise EndOfStream
        frame_id = self._next
        self._next += 1
        path = self._paths[frame_id]
        image = read_picture(path)
        try:
            modified = path.stat().st_mtime
        except OSError as error:
            raise UnreadablePicture(f"{path}: {error.strerror}; it was taken away just now") from error
        return Frame(image, frame_id, float(frame_id), modified, str(path))

    def close(self) -> None:
        """Read no more."""
        self._next = len(self._paths)


class VideoFile:
    """The frames of a video.

    With `loop` it stands for a camera: live, endless, at the clip's own rate. Without, every frame is given as fast as
    it is read, `captured_at` and `wall_time` being seconds since its beginning.
    """

    health = SourceHealth()

    def __init__(self, path: Path, name: str, loop: bool = False) -> None:
        self.live = loop
        self.name = name
        self._path = path
        self._capture = self._open()
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._announced = int(announced) if announced > 0 else None
        self.frame_total = None if loop else self._announced
        self.fps: float | None = fps if 0 < fps <= 1000 else None
        self._period_s = 1 / (self.fps or _USUAL_FPS)
        self._frame_id = 0
        self._position = 0  # frames since the clip's beginning
        self._pacer = Pacer(self._period_s)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame; see `Source.read`. A clip that breaks off ends early, with a warning."""
        if self.live and not self._pacer.wait(timeout_s):
            return None
        bgr = self._read_bgr()
        since_start_s = self._frame_id * self._period_s
        captured_at = self._pacer.beat_s if self.live else since_start_s
        wall_time = time.time() - (time.monotonic() - captured_at) if self.live else since_start_s
        image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        frame = Frame(image, self._frame_id, captured_at, wall_time, self.name)
        self._frame_id += 1
        return frame

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._capture.release()

    def _read_bgr(self) -> npt.NDArray[np.uint8]:
        ok, bgr = self._capture.read()
        if not ok:
            self._rewind()
            ok, bgr = self._capture.read()
            if not ok:
                raise SourceError(
                    f"{self.name}: no picture in it can be decoded; re-encode it as H.264, or use another"
                )
        self._position += 1
        return bgr  # type: ignore[return-value]  # cv2 declares any depth; a decoded video is uint8

    def _rewind(self) -> None:
        """Go back to the beginning of a looping clip; raise `EndOfStream` for any other that gave frames."""
        if self._announced is not None and 0 < self._position < self._announced:
            logger.warning(
                "%s: ended after %d of %d frames; the file may be cut off", self.name, self._position, self._announced
            )
            self._announced = None  # say it once
        if not self.live and self._position:
            raise EndOfStream
        self._capture.release()
        self._capture = self._open()
        self._position = 0

    def _open(self) -> cv2.VideoCapture:
        if not self._path.exists():
            raise SourceError(f"{self.name}: no such file; check the path")
        if not self._path.stat().st_size:
            raise SourceError(f"{self.name}: is empty; copy it again")
        capture = open_capture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise SourceError(f"{self.name}: not a video, or cut off; try it in a player, or re-encode it")
        return capture


def open_video(address: str) -> VideoFile:
    """Open a path, with `?loop=1` behind it to repeat the clip at its own rate."""
    path = address.removesuffix("?loop=1")
    return VideoFile(Path(path).expanduser(), path, loop=path != address)


def open_demo(_: str) -> VideoFile:
    """Open the clip that ships with the package, repeated at its own rate."""
    clip = Path(next(iter(edge_detector.assets.__path__))) / "demo.mp4"
    if not clip.exists():
        raise SourceError("demo: this installation has no demo clip; give another --source")
    return VideoFile(clip, "demo", loop=True)


def open_pictures(address: str) -> PictureFiles:
    """Open the pictures that `find_pictures` finds, in the order of their names.

    Raises:
        SourceError: there is no such picture.
    """
    return PictureFiles(find_pictures(address), address)
