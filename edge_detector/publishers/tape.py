"""Tape: the pictures of one camera, those of the last seconds and those that go to a clip."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.errors import PublishError
from edge_detector.events import ObjectState
from edge_detector.frame import FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.clips import Clips
from edge_detector.publishers.sink_filter import Rate
from edge_detector.resize import resize
from edge_detector.sink_config import RecordingsConfig

logger = logging.getLogger(__name__)

KEPT_BYTES = 32 * 1024 * 1024  # of the pictures of the last seconds
KEPT_QUALITY = 90
LAG_S = 5.0  # an object may have been seen so long before it was told of
CATCH_UP = 0.5  # of the time between two pictures goes to recording those that were kept
RETRY_S = 10.0
OVER_S = 1.0
CLOSE_S = 0.5  # for what is still to be recorded
LATE_S = 0.1  # likewise, at a time: other cameras wait
FREE_BYTES = 32 * 1000 * 1000  # below, no clip is begun


class Writer(Protocol):
    """Where a clip's pictures go; see `Clip`."""

    fragments: int
    size_wh: tuple[int, int]

    def add(self, image: npt.NDArray[np.uint8], at_s: float) -> None:
        """Append a picture."""
        ...

    def close(self) -> None:
        """End the file."""
        ...


OpenClip = Callable[[Path, tuple[int, int], float, int | None], Writer]


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """A picture as it is recorded: of a kept one the pixels are in `jpeg`."""

    result: FrameResult
    jpeg: bytes = b""

    @property
    def at_s(self) -> float:
        return self.result.frame.captured_at

    def kept(self) -> _Picture:
        """Return it in less memory."""
        frame = self.result.frame
        black = np.broadcast_to(np.uint8(0), frame.image.shape)
        jpeg = encode_jpeg(frame.image, KEPT_QUALITY)
        return _Picture(replace(self.result, frame=replace(frame, image=black)), jpeg)

    def whole(self) -> FrameResult:
        """Return the result with its pixels."""
        if not self.jpeg:
            return self.result
        bgr = np.asarray(cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
        image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        return replace(self.result, frame=replace(self.result.frame, image=image))


@dataclass(slots=True, eq=False)
class _Recording:
    """A clip that is being written."""

    id: str
    writer: Writer
    began_s: float
    start_ts: float
    last_s: float


class Tape:
    """Keeps the pictures of a camera for some seconds, as JPEG, or records them.

    They go to a clip while objects are `there`, and some seconds more. Times are those of taking the pictures. Methods
    raise where a clip cannot be written, `PublishError` or `OSError` as a rule; it is tried again `RETRY_S` later.
    """

    def __init__(
        self,
        camera: str,
        settings: RecordingsConfig,
        overlay: OverlayRenderer | None,
        clips: Clips,
        open_clip: OpenClip,
    ) -> None:
        self.there: dict[str, str] = {}  # labels of wanted objects, by id
        self._camera = camera
        self._settings = settings
        self._overlay = overlay
        self._clips = clips
        self._open_clip = open_clip
        self._rate = Rate(settings.fps)
        self._pictures: deque[_Picture] = deque()
        self._bytes = 0
        self._newest: FrameResult | None = None
        self._until_s = -math.inf  # pictures up to here are recorded
        self._recent: dict[str, str] = {}  # objects that what is recorded next shows
        self._recording: _Recording | None = None
        self._retry_s = -math.inf
        self._warned = False

    def take(self, result: FrameResult) -> bool:
        """Keep or record a picture, unless it comes too soon; return whether some are safely written."""
        if not self._rate.take(result.frame.captured_at):
            return False
        result = _scaled(result, self._settings.max_width)
        if self._newest is not None and self._newest.frame.size_wh != result.frame.size_wh:
            self.close()
            self._forget(math.inf)
        self._newest = result
        picture = _Picture(result)
        if not self._is_recording() or self._pictures:
            picture = picture.kept()
        self._pictures.append(picture)
        self._bytes += len(picture.jpeg)
        if self._is_recording():
            self._record(CATCH_UP / self._settings.fps)
        else:
            self._forget(picture.at_s - self._settings.pre_roll_s - LAG_S)
        return self._recording is not None and self._recording.writer.fragments > 0

    def came(self, seen: ObjectState) -> None:
        """Record, from some seconds before a wanted object was first seen."""
        if self._until_s == -math.inf and self._newest is not None:
            frame = self._newest.frame
            lag_s = min(max(0.0, frame.wall_time - seen.start_ts), LAG_S)
            self._forget(frame.captured_at - lag_s - self._settings.pre_roll_s)
        self._until_s = math.inf
        self.there[seen.id] = self._recent[seen.id] = seen.label
        if self._recording is not None:
            self._clips.note(self._recording.id, self._recent)

    def gone(self, seen: ObjectState) -> None:
        """Plan the end of the clip, if the object was the last."""
        del self.there[seen.id]
        if not self.there:
            newest_s = -math.inf if self._newest is None else self._newest.frame.captured_at
            self._until_s = newest_s + self._settings.post_roll_s

    def end_if_over(self) -> None:
        """End the clip if it is time to, though no picture has come; before, record some of what belongs to it."""
        if -math.inf < self._until_s < time.monotonic() - OVER_S:
            if self._is_recording() and self._pictures and self._pictures[0].at_s <= self._until_s:
                self._record(LATE_S)
            else:
                self._end()

    def close(self, budget_s: float = CLOSE_S) -> None:
        """Record what is left, for so long at most, and end the clip."""
        try:
            if self._is_recording():
                self._record(budget_s)
        finally:
            self._end()

    def _is_recording(self) -> bool:
        return self._until_s > -math.inf and time.monotonic() >= self._retry_s

    def _forget(self, before_s: float) -> None:
        while self._pictures and (self._pictures[0].at_s < before_s or self._bytes > KEPT_BYTES):
            picture = self._pictures.popleft()
            self._bytes -= len(picture.jpeg)
            if picture.at_s > before_s + LAG_S and not self._warned:
                self._warned = True
                logger.warning(
                    "clips of %s lack pictures, which take more than %.0f MB; lower pre_roll_s, fps or max_width",
                    self._camera,
                    KEPT_BYTES / 1e6,
                )

    def _record(self, budget_s: float) -> None:
        """Record the oldest pictures, one at least, for so long, and end the clip at its end."""
        deadline_s = time.monotonic() + budget_s
        while self._pictures and time.monotonic() < deadline_s:
            if self._pictures[0].at_s > self._until_s:
                self._end()
                return
            picture = self._pictures.popleft()
            self._bytes -= len(picture.jpeg)
            try:
                self._write(picture)
            except Exception:
                self._retry_s = time.monotonic() + RETRY_S
                self._end_recording()
                raise
        self._forget(-math.inf)

    def _write(self, picture: _Picture) -> None:
        recording = self._recording
        if recording is not None and picture.at_s - recording.began_s >= self._settings.max_clip_s:
            self._end_recording()
            recording = None
        result = picture.whole()
        recording = recording or self._begin(result)
        recording.writer.add(result.frame.image if self._overlay is None else self._overlay.draw(result), picture.at_s)
        recording.last_s = picture.at_s

    def _begin(self, result: FrameResult) -> _Recording:
        free_bytes = shutil.disk_usage(self._clips.folder).free
        if free_bytes < FREE_BYTES:
            raise PublishError(f"cannot write to {self._clips.folder}: only {free_bytes / 1e6:.0f} MB are free")
        frame = result.frame
        self._recent = self.there.copy() or self._recent
        clip_id, path = self._clips.begin(self._camera, frame.wall_time, self._recent, frame.size_wh)
        try:
            writer = self._open_clip(path, frame.size_wh, self._settings.fps, self._settings.bitrate_kbps)
        except BaseException:
            self._clips.drop(clip_id)
            raise
        self._recording = _Recording(clip_id, writer, frame.captured_at, frame.wall_time, frame.captured_at)
        return self._recording

    def _end(self) -> None:
        self._end_recording()
        if not self.there:
            self._until_s = -math.inf
            self._recent = {}

    def _end_recording(self) -> None:
        """End the file; of one that cannot be, what is written stays, if it can be played."""
        recording, self._recording = self._recording, None
        if recording is None:
            return
        whole = True
        try:
            recording.writer.close()
        except PublishError as error:
            whole = recording.writer.fragments > 0
            logger.debug("%s", error)
        if whole:
            with suppress(OSError):  # on a full disk; the next start does it
                self._clips.end(recording.id, recording.start_ts + recording.last_s - recording.began_s)
        else:
            self._clips.drop(recording.id)


def _scaled(result: FrameResult, max_width: int | None) -> FrameResult:
    """Return a result whose picture is not wider than allowed, and has even sides, as H.264 wants it."""
    width, height = result.frame.size_wh
    scale = min(1.0, (max_width or width) / width)
    size_wh = max(2, int(width * scale) // 2 * 2), max(2, round(height * scale / 2) * 2)
    if size_wh == (width, height):
        return result
    image = resize(result.frame.image, size_wh)
    ratio = np.tile(np.divide(size_wh, (width, height)), 2)
    found = replace(result.detections, xyxy=(result.detections.xyxy * ratio).astype(np.float32))
    return replace(result, frame=replace(result.frame, image=image), detections=found)
