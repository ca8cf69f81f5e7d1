"""A camera that comes back: whatever is unplugged, hangs or freezes is opened again, in stages."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_detector.abandoned import leave_behind
from edge_detector.errors import EndOfStream, SourceError
from edge_detector.frame import Frame
from edge_detector.runtime.mailbox import LatestFrame
from edge_detector.sources import SourceHealth
from edge_detector.sources.camera import Camera, Recovery

logger = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 0.5
_STABLE_S = 10.0  # pictures for so long, and the next failure is a new one
_LOG_PERIOD_S = 300.0  # between two reminders of the same trouble
_JITTER = 0.2
_STILL_STEP = 8  # every 8th pixel each way is enough to see that a picture is another


class LiveSource:
    """A `Source` over a camera driver, which is read by a thread of its own that keeps only the newest picture.

    A camera that fails is restarted in place, once; if that does not help it is opened anew, with growing pauses, as
    long as it takes: `health.lost` tells when `give_up_s` has passed. A call that hangs is left behind with its thread.
    """

    live = True
    frame_total: int | None = None

    def __init__(
        self, name: str, open_camera: Callable[[], Camera], recovery: Recovery | None = None, *, required: bool = False
    ) -> None:
        """Start opening the camera; with `required`, its failing before the first picture is an error of `read`."""
        self.name = name
        self.fps: float | None = None  # known with the first frame
        self._open_camera = open_camera
        self._recovery = recovery or Recovery()
        self._required = required
        self._health = SourceHealth(state="opening", since=time.monotonic())
        self._closed = threading.Event()
        self._next_id = 0
        self._last_s = time.monotonic()  # of the last picture, or of the beginning
        self._stable_since = 0.0
        self._outage_since: float | None = None
        self._logged_s = -_LOG_PERIOD_S
        self._attempts = 0  # in vain, one after the other
        self._retry_at = 0.0
        self._still: _Still | None = None
        self._reopened = 0  # by readers that have ended
        self._reader: _Reader | None = self._start_reader()

    @property
    def health(self) -> SourceHealth:
        """Its state; see `SourceHealth`."""
        health, reader = self._health, self._reader
        lost = health.state == "failed" or time.monotonic() - self._last_s > self._recovery.give_up_s
        return replace(health, lost=lost, reopened=self._reopened + (0 if reader is None else reader.reopened))

    def read(self, timeout_s: float) -> Frame | None:
        """Return the newest frame, or None if none came within `timeout_s` seconds, as in an outage.

        Raises:
            EndOfStream: it was closed.
            SourceError: it is `required` and cannot be opened.
        """
        if self._closed.is_set():
            raise EndOfStream
        reader = self._reader
        if reader is None:
            pause_s = self._retry_at - time.monotonic()
            if self._closed.wait(min(timeout_s, max(0.0, pause_s))) or pause_s > timeout_s:
                return None
            try:
                reader = self._reader = self._start_reader()
            except RuntimeError as error:  # no room for a thread
                self._lose(SourceError(f"{self.name}: {error}"))
                return None
            self._change(recreated=self._health.recreated + 1)
            return None
        try:
            taken = reader.pictures.get(timeout_s)
        except EndOfStream:
            return None
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the camera is to come back
            self._change(errors=self._health.errors + 1)
            self._lose(error if isinstance(error, SourceError) else SourceError(f"{self.name}: {error!r}"))
            return None
        if taken is None:
            self._watch(reader)
            return None
        return self._frame(reader, taken)

    def close(self) -> None:
        """Stop reading and release the camera; a call that hangs is left behind."""
        self._closed.set()
        if self._reader is not None:
            self._end(self._reader)
            self._reader = None

    def _start_reader(self) -> _Reader:
        return _Reader(self.name, self._open_camera, self._next_id)

    def _frame(self, reader: _Reader, taken: _Picture) -> Frame:
        now_s = time.monotonic()
        self._notice(reader)  # a restart may be over before anybody waited in vain
        self.name, self.fps = reader.name, reader.fps
        self._next_id = taken.frame_id + 1
        self._required = False
        if self._outage_since is not None or self._health.state == "opening":
            if self._outage_since is not None:
                away_s = now_s - self._outage_since
                logger.info("%s: back after %.1f s, %d new tries", self.name, away_s, self._attempts)
            self._outage_since = None
            self._stable_since = now_s
            self._still = None
            self._change(state="live", since=now_s, error=None)
        self._last_s = now_s
        if self._attempts and now_s - self._stable_since > _STABLE_S:
            self._attempts = 0
        self._watch_for_freeze(reader, taken.image, now_s)
        wall_time = time.time() - (now_s - taken.captured_at)
        return Frame(taken.image, taken.frame_id, taken.captured_at, wall_time, self.name)

    def _lose(self, error: SourceError) -> None:
        """Note that the reader ended or hangs, and when to try again."""
        if self._reader is not None:
            self._end(self._reader)
            self._reader = None
        if self._required:
            raise error
        recovery = self._recovery
        pause_s = min(recovery.retry_max_s, recovery.retry_s * 2.0 ** min(self._attempts, 30))
        pause_s *= random.uniform(1 - _JITTER, 1 + _JITTER)
        self._attempts += 1
        self._retry_at = time.monotonic() + pause_s
        self._suffer(error, "trying again in %.1f s", pause_s)
        if self._health.abandoned >= recovery.max_abandoned:
            self._retry_at = math.inf
            self._change(state="failed", since=time.monotonic())
            logger.error("%s: %d calls hang; only a new start of the program helps", self.name, recovery.max_abandoned)

    def _suffer(self, error: SourceError, next_step: str, *numbers: float) -> None:
        """Note an outage and say so: when it begins, when its cause changes, and now and then."""
        now_s = time.monotonic()
        if self._outage_since is None:
            self._outage_since = self._last_s
        if str(error) != self._health.error or now_s - self._logged_s >= _LOG_PERIOD_S:
            self._logged_s = now_s
            logger.warning(f"%s; {next_step}", error, *numbers)  # noqa: G004 - numbers apart, so that repeats are known
        self._change(state="reconnecting", since=self._outage_since, error=str(error))

    def _watch(self, reader: _Reader) -> None:
        """Notice that the reader has trouble, or hangs."""
        self._notice(reader)
        call = reader.call
        limit_s = self._recovery.grab_s if call.kind == "read" else self._recovery.open_s
        if time.monotonic() - call.since > limit_s:
            self._change(hangs=self._health.hangs + 1)
            self._lose(SourceError(f"{self.name}: hangs, no answer to {call.kind} for {limit_s:.0f} s"))

    def _notice(self, reader: _Reader) -> None:
        if reader.error is not None and reader.failures > reader.noticed:
            self._change(errors=self._health.errors + reader.failures - reader.noticed)
            reader.noticed = reader.failures
            self._suffer(reader.error, "starting it again")

    def _watch_for_freeze(self, reader: _Reader, image: npt.NDArray[np.uint8], now_s: float) -> None:
        if self._recovery.frozen_s is None:
            return
        checksum = zlib.crc32(image[::_STILL_STEP, ::_STILL_STEP].tobytes())
        if self._still is None or checksum != self._still.checksum:
            if self._health.state == "frozen":
                logger.info("%s: the picture moves again", self.name)
                self._change(state="live", since=now_s, error=None)
            self._still = _Still(checksum, image, now_s)
        elif self._health.state != "frozen" and now_s - self._still.since > self._recovery.frozen_s:
            if not np.array_equal(image, self._still.image):
                self._still = _Still(checksum, image, now_s)
                return
            message = f"{self.name}: the picture has not changed for {self._recovery.frozen_s:.0f} s"
            logger.warning("%s; starting the camera again, once", message)
            self._change(state="frozen", since=now_s, error=message, freezes=self._health.freezes + 1)
            reader.ask_restart()

    def _end(self, reader: _Reader) -> None:
        self._reopened += reader.reopened
        if not reader.end(_JOIN_TIMEOUT_S):
            leave_behind(reader.thread)
            self._change(abandoned=self._health.abandoned + 1)
            logger.warning("%s: a call hangs (%s) and is left behind", self.name, reader.call.kind)

    def _change(self, **changes: object) -> None:
        self._health = replace(self._health, **changes)  # type: ignore[arg-type]  # names and types of the dataclass


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    image: npt.NDArray[np.uint8]
    captured_at: float
    frame_id: int


@dataclass(frozen=True, slots=True, eq=False)
class _Still:
    """A picture that may be the first of a frozen camera."""

    checksum: int
    image: npt.NDArray[np.uint8]
    since: float


@dataclass(frozen=True, slots=True)
class _Call:
    """What the reader's thread waits for, and since when."""

    kind: Literal["open", "read", "restart", "close"]
    since: float


class _Reader:
    """One opening of the camera: a thread that reads until it fails twice."""

    def __init__(self, name: str, open_camera: Callable[[], Camera], first_id: int) -> None:
        self.name = name
        self.fps: float | None = None
        self.pictures: LatestFrame[_Picture] = LatestFrame()
        self.reopened = 0
        self.error: SourceError | None = None  # of the newest failure that a restart followed
        self.failures = 0
        self.noticed = 0  # of them, by the source
        self.call = _Call("open", time.monotonic())
        self._open_camera = open_camera
        self._next_id = first_id
        self._stop = threading.Event()
        self._restart = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"reader of {name}", daemon=True)
        self.thread.start()

    def ask_restart(self) -> None:
        """Stop and start the camera before the next picture."""
        self._restart.set()

    def end(self, timeout_s: float) -> bool:
        """Tell the thread to end; return whether it did so within `timeout_s` seconds."""
        self._stop.set()
        self.thread.join(timeout_s)
        return not self.thread.is_alive()

    def _run(self) -> None:
        try:
            camera = self._open_camera()
            try:
                self.name, self.fps = camera.name, camera.fps
                self._read_all(camera)
            finally:
                self._enter("close")
                camera.close()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that reads
            self.pictures.close(error)

    def _read_all(self, camera: Camera) -> None:
        good_since = time.monotonic()
        while not self._stop.is_set():
            if self._restart.is_set():
                self._restart.clear()
                self._reopen(camera)
            self._enter("read")
            try:
                image, captured_at = camera.grab()
            except SourceError as error:
                failed_s = time.monotonic()
                if self._stop.is_set() or failed_s - good_since < _STABLE_S:
                    raise
                self.error = error
                self.failures += 1
                self._reopen(camera)
                good_since = failed_s
                continue
            self.pictures.put(_Picture(image, captured_at, self._next_id))
            self._next_id += 1

    def _reopen(self, camera: Camera) -> None:
        self._enter("restart")
        camera.restart()
        self.reopened += 1

    def _enter(self, kind: Literal["open", "read", "restart", "close"]) -> None:
        self.call = _Call(kind, time.monotonic())
