"""QueuedPublisher: a bounded queue and a thread between the pipeline and a sink that may be slow."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Protocol

import numpy as np

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult

logger = logging.getLogger(__name__)

REPORT_PERIOD_S = 10.0
POLL_S = 0.2  # how soon a wait notices an interruption


class Sink(Protocol):
    """Where a worker writes; both methods are called on the worker's thread only."""

    name: str
    uses_image: bool  # if not, it gets pictures of the right size that are black and take no memory

    def write(self, result: FrameResult) -> None:
        """Write one result; any exception ends the worker."""
        ...

    def finish(self, complete: bool) -> None:
        """Release everything; `complete` is false where `write` failed and the output is to be discarded."""
        ...


class QueuedPublisher:
    """A `Publisher` that hands results to `sink` in order, on a thread of its own.

    A full queue drops its oldest result and counts it. With `lossless`, which is for files, `publish` and `close` wait
    instead, however long it takes. Setting `stop` ends that: from then on what finds no room is left out, and `close`
    waits at most `close_timeout_s` seconds. The queue then holds 2 results unless said otherwise, else 8.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        lossless: bool = False,
        stop: threading.Event | None = None,
        capacity: int | None = None,
        close_timeout_s: float = 5.0,
    ) -> None:
        self.name = sink.name
        self.dropped = 0
        self._sink = sink
        self._lossless = lossless
        self._stop = stop or threading.Event()
        self._capacity = capacity or (2 if lossless else 8)
        self._close_timeout_s = close_timeout_s
        self._queue: deque[FrameResult] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._error: PublishError | None = None
        self._reported_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"publish {self.name}", daemon=True)
        self._thread.start()

    def publish(self, result: FrameResult) -> None:
        """Queue a result.

        Raises:
            PublishError: the sink failed, now or at an earlier result, or the publisher is closed.
        """
        with self._changed:
            while self._waits() and len(self._queue) >= self._capacity and not self._stopped():
                self._changed.wait(POLL_S)
            if self._error:
                raise self._error
            if self._closing:
                raise PublishError(f"{self.name} is closed")
            if len(self._queue) >= self._capacity:
                if self._lossless:
                    return  # interrupted: what is written has no gaps
                self._queue.popleft()
                self._count_drop()
            self._queue.append(result if self._sink.uses_image else _without_pixels(result))
            self._changed.notify_all()

    def close(self) -> None:
        """Write out what is queued, within the time that the class states, and release the sink.

        Raises:
            PublishError: the sink failed or did not finish in time; only the first call raises.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        while self._waits() and self._thread.is_alive():
            self._thread.join(POLL_S)
        self._thread.join(self._close_timeout_s)
        with self._changed:
            if self._thread.is_alive():
                lost = len(self._queue)
                self._queue.clear()
                raise PublishError(f"{self.name} hung for {self._close_timeout_s:g} s; {lost} queued results are lost")
        if self.dropped:
            logger.warning(
                "%s: %d results dropped in all because it is slower than the source", self.name, self.dropped
            )
        if self._error:
            raise self._error

    def _waits(self) -> bool:
        return self._lossless and not self._stop.is_set()

    def _stopped(self) -> bool:
        return self._closing or self._error is not None

    def _count_drop(self) -> None:
        self.dropped += 1
        now = time.monotonic()
        if now - self._reported_at >= REPORT_PERIOD_S:
            self._reported_at = now
            logger.warning("%s is slower than the source: %d results dropped so far", self.name, self.dropped)

    def _run(self) -> None:
        try:
            self._write_all()
        except PublishError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - surfaces in the thread that publishes
            failure = PublishError(f"{self.name}: {error}")
            failure.__cause__ = error
            self._fail(failure)

    def _write_all(self) -> None:
        complete = False
        try:
            while (result := self._next()) is not None:
                self._sink.write(result)
            complete = True
        finally:
            self._sink.finish(complete)

    def _fail(self, error: PublishError) -> None:
        with self._changed:
            self._error = error
            self._queue.clear()
            self._changed.notify_all()

    def _next(self) -> FrameResult | None:
        """Return the oldest queued result, or None when closing and all are written."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            if not self._queue:
                return None
            self._changed.notify_all()
            return self._queue.popleft()


def _without_pixels(result: FrameResult) -> FrameResult:
    black = np.broadcast_to(np.uint8(0), result.frame.image.shape)
    return replace(result, frame=replace(result.frame, image=black))
