"""QueuedEvents: a bounded queue and a thread between what makes events and a sink that may fail for a while."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from edge_detector.abandoned import leave_behind
from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event
from edge_detector.publishers.event_queue import CAPACITY, EventQueue
from edge_detector.publishers.worker import POLL_S
from edge_detector.runtime.metrics import SinkStatus, sink_status

logger = logging.getLogger(__name__)

BATCH = 100
IDLE_S = 1.0
REPORT_PERIOD_S = 10.0
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
CLOSING_PAUSE_S = 0.1
CLOSE_S, CLOSE_LOSSLESS_S = 0.5, 5.0
FINISH_S = 0.4  # for the sink to release everything


class PartlyWritten(PublishError):  # noqa: N818 - named as one reads it
    """A sink failed when it had written the first `written` events of a batch, which do not come again."""

    def __init__(self, message: str, written: int) -> None:
        super().__init__(message)
        self.written = written


class EventSink(Protocol):
    """Where events are written; both methods are called on the worker's thread only."""

    name: str

    def write(self, events: Sequence[Event | Alert]) -> None:
        """Write a batch, oldest first; an empty one comes every second without events, for what a sink has gathered.

        Raises:
            PartlyWritten: it failed in the middle; the rest of the batch comes again.
            PublishError: it fails at present, as with `OSError`; the whole batch comes again, so either nothing of it
                was written or writing it twice does no harm. Any other exception drops the batch.
        """
        ...

    def finish(self) -> None:
        """Write out what is gathered and release everything, in any case.

        Raises:
            PublishError: something gathered is lost.
        """
        ...


Sink = TypeVar("Sink", bound=EventSink)


class QueuedEvents(Generic[Sink]):
    """An `EventPublisher` that hands events to `sink` in order, on a thread of its own.

    While the sink fails, what it did not write is kept and tried again after pauses that double up to `max_pause_s`
    seconds, each shortened by up to half at random, so that many devices do not come back at once. `EventQueue` says
    what is dropped when `capacity` events wait; `dropped` counts it. `close` waits at most `close_timeout_s` seconds
    for events to be taken, 0.5 and with `lossless` 5 unless given, and 0.4 more for the sink to release everything.

    With `lossless`, which is for files, `publish_event` waits instead, and no update is merged into another, until
    `stop` is set.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        lossless: bool = False,
        stop: threading.Event | None = None,
        capacity: int = CAPACITY,
        first_pause_s: float = FIRST_PAUSE_S,
        max_pause_s: float = MAX_PAUSE_S,
        close_timeout_s: float | None = None,
    ) -> None:
        self.name = sink.name
        self.sink = sink
        self.dropped = 0
        self._failed = self._written = 0
        self._busy_since: float | None = None  # in a call of the sink
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s
        if close_timeout_s is None:
            close_timeout_s = CLOSE_LOSSLESS_S if lossless else CLOSE_S
        self._close_timeout_s = close_timeout_s
        self._capacity = capacity if lossless else math.inf
        self._stop = stop or threading.Event()
        self._queue = EventQueue(capacity, merge=not lossless)
        self._batch: Sequence[Event | Alert] = ()  # in the sink's hands, or to be tried again
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._deadline = math.inf
        self._pause_s = first_pause_s
        self._failing_since: float | None = None
        self._error: Exception | None = None
        self._reported_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"events to {self.name}", daemon=True)
        self._thread.start()

    def publish_event(self, event: Event | Alert) -> None:
        """Queue an event or alert; returns at once, unless the class says otherwise.

        Raises:
            PublishError: the publisher is closed.
        """
        with self._changed:
            while len(self._queue) >= self._capacity and not (self._stop.is_set() or self._closing.is_set()):
                self._changed.wait(POLL_S)
            if self._closing.is_set():
                raise PublishError(f"{self.name} is closed")
            self._count_drops(self._queue.add(event))
            self._changed.notify_all()

    def status(self) -> SinkStatus:
        """Return how the sink is; from any thread."""
        since_s = self._failing_since
        return sink_status(
            failing=None if since_s is None else (since_s, self._error),
            busy_since=self._busy_since,
            queued=len(self._queue) + len(self._batch),
            dropped=self.dropped,
            failed=self._failed + getattr(self.sink, "refused", 0),
            written=self._written,
        )

    def close(self) -> None:
        """Write out what is queued, within the time that the class states, and release the sink.

        Raises:
            PublishError: events are lost, and how many; only the first call raises.
        """
        with self._changed:
            if self._closing.is_set():
                return
            self._deadline = time.monotonic() + self._close_timeout_s
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(self._close_timeout_s + FINISH_S)
        if self.dropped:
            logger.warning("%s: %d events dropped in all", self.name, self.dropped)
        with self._changed:
            lost = len(self._batch) + len(self._queue)
        if self._thread.is_alive():
            leave_behind(self._thread)
            raise PublishError(f"{self.name} hung for {self._close_timeout_s:g} s; {lost} events are lost")
        if lost:
            raise PublishError(f"{self.name}: {lost} events are lost: {self._error or 'it is too slow'}")
        if self._error:
            raise PublishError(f"{self.name}: {self._error}") from self._error

    def _count_drops(self, count: int) -> None:
        if not count:
            return
        self.dropped += count
        now = time.monotonic()
        if now - self._reported_at >= REPORT_PERIOD_S:
            self._reported_at = now
            told = "%s does not take events fast enough: %d dropped so far"
            logger.warning(told, self.name, self.dropped, extra={"sink": self.name})

    def _run(self) -> None:
        while self._take():
            self._busy_since = time.monotonic()
            try:
                self.sink.write(self._batch)
            except Exception as error:  # noqa: BLE001 - a sink with a defect must not end the others' events
                self._busy_since = None
                self._keep_what_is_left(error)
                self._wait_to_try_again()
            else:
                self._busy_since = None
                self._written += len(self._batch)
                self._batch = ()
                self._note_success()
        try:
            self.sink.finish()
        except Exception as error:  # noqa: BLE001 - surfaces in close
            self._error = error

    def _take(self) -> bool:
        """Have the next batch in hand, perhaps an empty one; return False when it is time to end."""
        with self._changed:
            if not self._batch:
                self._changed.wait_for(lambda: len(self._queue) or self._closing.is_set(), IDLE_S)
                self._batch = self._queue.take(BATCH)
                self._changed.notify_all()
            if self._closing.is_set():
                return bool(self._batch) and time.monotonic() < self._deadline
            return True

    def _keep_what_is_left(self, error: Exception) -> None:
        self._error = error
        self._failed += 1
        if isinstance(error, PartlyWritten):
            self._written += error.written
            self._batch = self._batch[error.written :]
        elif not isinstance(error, (PublishError, OSError)):
            logger.error("%s: %d events are dropped", self.name, len(self._batch), exc_info=error)
            with self._changed:
                self._count_drops(len(self._batch))
            self._batch = ()
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            logger.warning("%s: %s; its events are kept and tried again", self.name, error)

    def _wait_to_try_again(self) -> None:
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(2 * self._pause_s, self._max_pause_s)
        if self._closing.wait(pause_s):
            time.sleep(CLOSING_PAUSE_S)

    def _note_success(self) -> None:
        self._error = None
        self._pause_s = self._first_pause_s
        if self._failing_since is not None:
            logger.warning("%s takes events again after %.0f s", self.name, time.monotonic() - self._failing_since)
            self._failing_since = None
