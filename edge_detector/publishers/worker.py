"""QueuedPublisher: a bounded queue and a thread between the pipeline and a sink that may be slow, or fail."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from edge_detector.abandoned import leave_behind
from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event
from edge_detector.frame import FrameResult
from edge_detector.runtime.metrics import SinkStatus, sink_status

logger = logging.getLogger(__name__)

REPORT_PERIOD_S = 10.0
SURE_S = 10.0  # without a failure, until a sink that failed is said to work again
POLL_S = 0.2  # how soon a wait notices an interruption
REST_S = 1.0
EVENTS_MAX = 1000  # that wait with the results
CLOSE_S = 0.9  # of what is live, which must end within a second
CLOSE_LOSSLESS_S = 5.0


class Sink(Protocol):
    """Where a worker writes; both methods are called on the worker's thread only."""

    name: str
    uses_image: bool  # if not, it gets pictures of the right size that are black and take no memory

    def write(self, result: FrameResult) -> bool | None:
        """Write one result; an exception ends the worker, unless it `goes_on`.

        Returns:
            False where nothing was to be written, which does not say that the sink works.
        """
        ...

    def finish(self, complete: bool) -> None:
        """Release everything; `complete` is false where `write` failed and the output is to be discarded."""
        ...


@runtime_checkable
class BothSink(Sink, Protocol):
    """A sink for results and events, in the order in which they come."""

    def write_event(self, event: Event | Alert) -> bool | None:
        """Write one event or alert; see `write`."""
        ...

    def rest(self) -> None:
        """Do what is due: nothing has come for a second; see `write`."""
        ...


class QueuedPublisher:
    """A `Publisher` that hands results to `sink` in order, on a thread of its own.

    A full queue drops its oldest result and counts it. With `lossless`, which is for files, `publish` and `close` wait
    instead, however long it takes. Setting `stop` ends that: from then on what finds no room is left out, and `close`
    waits at most `close_timeout_s` seconds: 5 unless said otherwise, else 0.9, so that a service ends quickly; what is
    not written in half of them is dropped. The queue then holds 2 results unless said otherwise, else 8.

    With `goes_on`, what the sink fails to write is dropped and counted; that is said once, and again when it has worked
    for 10 s. Without, it is the end of it.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        lossless: bool = False,
        stop: threading.Event | None = None,
        capacity: int | None = None,
        close_timeout_s: float | None = None,
        goes_on: bool = False,
    ) -> None:
        self.name = sink.name
        self.dropped = 0
        self.failed = 0
        self._written = 0
        self._busy_since: float | None = None  # in a call of the sink
        self._goes_on = goes_on
        self._failing: tuple[float, Exception] | None = None  # since when, and how first
        self._failed_s = -math.inf  # the last time
        self._worked_s: float | None = None  # the first time since then
        self._sink = sink
        self._both = sink if isinstance(sink, BothSink) else None
        self._lossless = lossless
        self._stop = stop or threading.Event()
        self._capacity = capacity or (2 if lossless else 8)
        self._close_timeout_s = close_timeout_s or (CLOSE_LOSSLESS_S if lossless else CLOSE_S)
        self._queue: deque[FrameResult | Event | Alert] = deque()
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
        self._put(result if self._sink.uses_image else _without_pixels(result), self._capacity)

    def put_event(self, event: Event | Alert) -> None:
        """Queue an event, behind the results; the sink is a `BothSink`. Raises as `publish` does.

        Of a full queue the oldest update goes, and only if there is none, the oldest of all.
        """
        self._put(event, EVENTS_MAX)

    def status(self) -> SinkStatus:
        """Return how the sink is; from any thread."""
        return sink_status(
            failing=self._failing,
            busy_since=self._busy_since,
            queued=len(self._queue),
            dropped=self.dropped,
            failed=self.failed,
            written=self._written,
            ended=self._error is not None,
        )

    def _put(self, item: FrameResult | Event | Alert, capacity: int) -> None:
        is_result = isinstance(item, FrameResult)
        with self._changed:
            while self._waits() and self._count(is_result) >= capacity and not self._stopped():
                self._changed.wait(POLL_S)
            if self._error:
                raise self._error
            if self._closing:
                raise PublishError(f"{self.name} is closed")
            if self._count(is_result) >= capacity:
                if self._lossless:
                    return  # interrupted: what is written has no gaps
                alike = [at for at, old in enumerate(self._queue) if isinstance(old, FrameResult) is is_result]
                del self._queue[next((at for at in alike if _is_update(self._queue[at])), alike[0])]
                self._count_drop()
            self._queue.append(item)
            self._changed.notify_all()

    def _count(self, results: bool) -> int:
        return sum(isinstance(item, FrameResult) is results for item in self._queue)

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
        self._thread.join(self._close_timeout_s / 2)
        with self._changed:
            lost = len(self._queue)
            self.dropped += lost
            self._queue.clear()
        self._thread.join(self._close_timeout_s / 2)
        if self._thread.is_alive():
            leave_behind(self._thread)
            raise PublishError(f"{self.name} hung for {self._close_timeout_s:g} s; {lost} queued results are lost")
        if self.dropped:
            logger.warning(
                "%s: %d results dropped in all because it is slower than the source", self.name, self.dropped
            )
        if self.failed:
            logger.warning("%s: %d results could not be written in all", self.name, self.failed)
        if self._error:
            raise self._error
        if self._failing is not None and self._worked_s is None:
            raise PublishError(_told(self.name, self._failing[1])) from self._failing[1]

    def _waits(self) -> bool:
        return self._lossless and not self._stop.is_set()

    def _stopped(self) -> bool:
        return self._closing or self._error is not None

    def _count_drop(self) -> None:
        self.dropped += 1
        now = time.monotonic()
        if now - self._reported_at >= REPORT_PERIOD_S:
            self._reported_at = now
            told = "%s is slower than the source: %d results dropped so far"
            logger.warning(told, self.name, self.dropped, extra={"sink": self.name})

    def _run(self) -> None:
        try:
            self._write_all()
        except PublishError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - surfaces in the thread that publishes
            failure = PublishError(_told(self.name, error))
            failure.__cause__ = error
            self._fail(failure)

    def _write_all(self) -> None:
        complete = False
        try:
            while (item := self._next()) is not None or not self._is_over():
                self._write(item)
            complete = True
        finally:
            self._sink.finish(complete)

    def _write(self, item: FrameResult | Event | Alert | None) -> None:
        wrote: bool | None = False
        self._busy_since = time.monotonic()
        try:
            if isinstance(item, FrameResult):
                wrote = self._sink.write(item)
            elif self._both is not None and item is not None:
                wrote = self._both.write_event(item)
            elif self._both is not None:
                self._both.rest()
        except Exception as error:
            if not self._goes_on:
                raise
            self._note_failure(error)
        else:
            self._written += item is not None and wrote is not False
            if wrote is not False and self._failing is not None:
                self._note_success(self._failing[0])
        finally:
            self._busy_since = None

    def _is_over(self) -> bool:
        with self._changed:
            return self._closing and not self._queue

    def _note_failure(self, error: Exception) -> None:
        self.failed += 1
        self._failed_s, self._worked_s = time.monotonic(), None
        if self._failing is None:
            self._failing = self._failed_s, error
            defect = None if isinstance(error, PublishError | OSError) else error
            logger.warning("%s; it is tried again with what comes next", _told(self.name, error), exc_info=defect)

    def _note_success(self, since_s: float) -> None:
        now_s = time.monotonic()
        if self._worked_s is None:
            self._worked_s = now_s
        if now_s - self._failed_s >= SURE_S:
            logger.warning("%s works again after %.0f s", self.name, self._worked_s - since_s)
            self._failing = None

    def _fail(self, error: PublishError) -> None:
        with self._changed:
            self._error = error
            self._failing = self._failing or (time.monotonic(), error)
            self._queue.clear()
            self._changed.notify_all()

    def _next(self) -> FrameResult | Event | Alert | None:
        """Return what has waited longest; None when closing and all is written, or for a sink that may rest."""
        with self._changed:
            while not self._queue and not self._closing:
                if not self._changed.wait(REST_S) and self._both is not None:
                    return None
            if not self._queue:
                return None
            self._changed.notify_all()
            return self._queue.popleft()


class QueuedBoth:
    """A `Publisher` and `EventPublisher` that hands both to `sink` as a `QueuedPublisher` which goes on."""

    def __init__(self, sink: BothSink, *, capacity: int = 8) -> None:
        self._worker = QueuedPublisher(sink, capacity=capacity, goes_on=True)
        self.name = sink.name
        self.sink = sink
        self.publish = self._worker.publish
        self.publish_event = self._worker.put_event
        self.close = self._worker.close
        self.status = self._worker.status

    @property
    def dropped(self) -> int:
        """Results and events that were left out."""
        return self._worker.dropped

    @property
    def failed(self) -> int:
        """Results and events that could not be written."""
        return self._worker.failed


def _is_update(item: FrameResult | Event | Alert) -> bool:
    return isinstance(item, Event) and item.kind == "update"


def _told(name: str, error: Exception) -> str:
    return str(error) if isinstance(error, PublishError) else f"{name}: {error}"


def _without_pixels(result: FrameResult) -> FrameResult:
    black = np.broadcast_to(np.uint8(0), result.frame.image.shape)
    return replace(result, frame=replace(result.frame, image=black))
