"""From sources to publishers: the threads, and what each hands to the next."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from edge_detector.abandoned import leave_behind
from edge_detector.detector import Detector
from edge_detector.errors import EndOfStream, SourceLost
from edge_detector.events import EndReason
from edge_detector.frame import Frame
from edge_detector.runtime.feed import Feed, Search
from edge_detector.runtime.metrics import PipelineStats, ServiceStatus
from edge_detector.runtime.process import process_status, return_memory
from edge_detector.shortage import is_shortage

logger = logging.getLogger(__name__)

_POLL_S = 0.2  # how soon every thread notices that it shall stop
_READ_AHEAD = 2  # decoded frames that wait for inference in file mode
_JOIN_TIMEOUT_S = 0.8  # a slow inference may last longer: its thread is left behind
_REPORT_AFTER_S, _REPORT_PERIOD_S = 60.0, 3600.0  # for months: page, metrics and systemd tell more
_TIDY_PERIOD_S = 30.0  # of memory
_WARM_UP_AFTER_S = 3.0  # without anything to search


class LivePipeline:
    """Runs the newest frames of one or several live sources through one detector, each to its own publishers.

    A thread per feed reads its source and publishes every frame at once with that feed's newest detections. One thread
    runs inference: of the feeds that have a frame it serves the one that it served longest ago.

    The caller opens sources, detector and publishers and closes them after `run`. Setting `stop` ends the run.
    """

    def __init__(self, feeds: Sequence[Feed], detector: Detector, stop: threading.Event) -> None:
        self.feeds = {feed.name: feed for feed in feeds}
        self._detector = detector
        self._stop = stop
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._arrived = threading.Condition()
        self._started_s = self._inference_beat_s = time.monotonic()
        self._warm = False
        self._searching = threading.Lock()  # held while the detector works

    @property
    def detector(self) -> Detector:
        """The one that searches now."""
        return self._detector

    def swap(self, detector: Detector) -> Detector:
        """Search with this one from the next search on; return the one before, which is not used any more."""
        with self._searching:
            before, self._detector = self._detector, detector
        return before

    @property
    def stats(self) -> PipelineStats:
        """The counters of all feeds, summed."""
        return sum((feed.stats for feed in self.feeds.values()), PipelineStats())

    def status(self) -> ServiceStatus:
        """Return how everything is; from any thread."""
        cameras = {feed.name: feed.status() for feed in self.feeds.values()}
        return ServiceStatus(self._detector.status(), process_status(self._started_s), cameras)

    @property
    def is_warm(self) -> bool:
        """Whether the model has run."""
        return self._warm

    def beats(self) -> dict[str, float]:
        """Return by stage when it last completed work, or had none, in monotonic seconds; from any thread."""
        return {f"camera {feed.name}": feed.beat_s for feed in self.feeds.values()} | {
            "inference": self._inference_beat_s
        }

    def set_detecting(self, name: str, on: bool) -> None:
        """Pause or resume detection of the feed `name`; from any thread.

        Raises:
            KeyError: there is none of this name.
        """
        self.feeds[name].detecting = on

    def run(self, duration_s: float | None = None, on_turn: Callable[[], None] = lambda: None) -> PipelineStats:
        """Run until a source ends, `stop` is set or `duration_s` seconds have passed; return the counters.

        `on_turn` is called several times a second, on this thread.

        Raises:
            SourceLost: no source has given a picture for as long as was given to it.
            EdgeDetectorError: any other error of a stage; that of a publisher is counted instead.
        """
        deadline_s = time.monotonic() + (math.inf if duration_s is None else duration_s)
        with ExitStack() as on_exit:
            for feed in self.feeds.values():
                on_exit.enter_context(_thread(f"feed of {feed.name}", self._ended, self._run_feed, feed))
            on_exit.enter_context(_thread("inference", self._ended, self._run_inference))
            report_s, tidy_s = time.monotonic() + _REPORT_AFTER_S, time.monotonic() + _TIDY_PERIOD_S
            while not self._stopping() and (now_s := time.monotonic()) < deadline_s:
                self._stop.wait(min(_POLL_S, deadline_s - now_s))
                on_turn()
                if all(feed.source.health.lost for feed in self.feeds.values()):
                    self._error = self._error or SourceLost(_loss(self.feeds.values()))
                    break
                if now_s >= tidy_s:
                    return_memory()
                    tidy_s = now_s + _TIDY_PERIOD_S
                if now_s >= report_s:
                    self._log_rates()
                    report_s += _REPORT_PERIOD_S
        for feed in self.feeds.values():
            feed.end("shutdown")
        if self._error is not None and not isinstance(self._error, EndOfStream):
            raise self._error
        return self.stats

    def _stopping(self) -> bool:
        return self._stop.is_set() or self._ended.is_set()

    def _log_rates(self) -> None:
        for feed in self.feeds.values():
            status = feed.status()
            counts = status.stats.captured, status.stats.dropped, status.stats.publish_errors
            rates = status.fps["capture"], status.fps["inference"]
            logger.info(
                "%s: %s, camera %.1f fps, inference %.1f fps; in all %d taken, %d left out, %d not published",
                *(feed.name, status.state, *rates, *counts),
                extra={"camera": feed.name},
            )

    def _run_feed(self, feed: Feed) -> None:
        try:
            while not self._stopping():
                with self._spared(feed.name):
                    self._pass_on(feed)
                    feed.beat()
        except BaseException as error:  # noqa: BLE001 - the main loop raises it
            self._end(error)

    def _pass_on(self, feed: Feed) -> None:
        """Wait for a picture, offer it to inference and publish it."""
        frame = feed.read(_POLL_S)
        if frame is None:
            feed.wait()
            return
        if feed.look(frame):
            with self._arrived:
                if (search := feed.search(frame)) is not None:
                    feed.offer(search)
                    self._arrived.notify()
        feed.publish_newest(frame)

    def _run_inference(self) -> None:
        try:
            while not self._stopping():
                with self._spared("inference"):
                    self._search()
                    self._inference_beat_s = time.monotonic()
        except BaseException as error:  # noqa: BLE001 - the main loop raises it
            self._end(error)

    def _search(self) -> None:
        """Wait for a search and do it; without any for long, let the model run for once."""
        taken = self._next(_POLL_S)
        if taken is not None:
            feed, search = taken
            with self._searching:
                inference = feed.detect(self._detector, search)
            feed.hand_over(inference)
            self._warm = True
        elif not self._warm and time.monotonic() - self._started_s > _WARM_UP_AFTER_S:
            with self._searching:
                self._detector.warm_up()
            self._warm = True

    @contextmanager
    def _spared(self, stage: str) -> Iterator[None]:
        """Let a stage go on that found no memory: one picture is left out. Without a beat, the watchdog has its say."""
        try:
            yield
        except Exception as error:
            if not is_shortage(error):
                raise
            logger.warning("%s: no memory (%r); a picture is left out", stage, error)
            self._stop.wait(_POLL_S)

    def _end(self, error: BaseException) -> None:
        if not self._stopping():
            self._error = error
            self._ended.set()

    def _next(self, timeout_s: float) -> tuple[Feed, Search] | None:
        """Wait for the search whose turn it is."""
        deadline_s = time.monotonic() + timeout_s
        with self._arrived:
            while True:
                now_s = time.monotonic()
                waits_s = [(feed.ready_in_s(now_s), feed) for feed in self.feeds.values()]
                ready = [feed for wait_s, feed in waits_s if wait_s <= 0]
                if ready:
                    feed = min(ready, key=lambda feed: feed.served_s)
                    return feed, feed.take(now_s)
                if now_s >= deadline_s:
                    return None
                self._arrived.wait(min(deadline_s - now_s, *(wait_s for wait_s, _ in waits_s)))


class RecordedPipeline:
    """Runs every frame of a file or folder to all publishers, in order, searched as often as its feed wants.

    Only decoding runs ahead, in a thread: the same file, model and settings give the same results. The caller opens
    source, detector and publishers and closes them after `run`. Setting `stop` ends the run.

    Attributes:
        stats: the counters, up to date while it runs.
    """

    def __init__(
        self,
        feed: Feed,
        detector: Detector,
        stop: threading.Event,
        on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    ) -> None:
        """Take the parts; `on_progress(done, total)` is called after each picture."""
        self._feed = feed
        self.stats = feed.stats
        self._detector = detector
        self._stop = stop
        self._ended = threading.Event()
        self._on_progress = on_progress
        self._started_s = time.monotonic()

    @property
    def is_warm(self) -> bool:
        """Whether pictures have gone through."""
        return self.stats.published > 0

    def status(self) -> ServiceStatus:
        """Return how everything is."""
        cameras = {self._feed.name: self._feed.status()}
        return ServiceStatus(self._detector.status(), process_status(self._started_s), cameras)

    def beats(self) -> dict[str, float]:
        """Return nothing: the thread that would ask does the work."""
        return {}

    def run(self, duration_s: float | None = None, on_turn: Callable[[], None] = lambda: None) -> PipelineStats:
        """Run until the source ends, `stop` is set or `duration_s` seconds have passed; return the counters.

        `on_turn` is called after every picture, and several times a second while none comes.

        Raises:
            EdgeDetectorError: the source or the model failed; the error of a publisher is counted instead.
        """
        deadline_s = time.monotonic() + (math.inf if duration_s is None else duration_s)
        frames: queue.Queue[Frame | BaseException] = queue.Queue(_READ_AHEAD)
        reason: EndReason = "shutdown"
        try:
            with _thread("capture", self._ended, self._capture, frames):
                while not self._stop.is_set() and time.monotonic() < deadline_s:
                    try:
                        frame = frames.get(timeout=_POLL_S)
                    except queue.Empty:
                        on_turn()
                        continue
                    if isinstance(frame, BaseException):
                        reason = "camera"
                        if isinstance(frame, EndOfStream):
                            break
                        raise frame
                    self._run_frame(frame)
                    self._report_progress()
                    on_turn()
        finally:
            self._feed.end(reason)
        self._report_progress()
        return self.stats

    def _run_frame(self, frame: Frame) -> None:
        feed = self._feed
        in_order = feed.look(frame)
        if in_order and feed.is_due(frame.captured_at) and (search := feed.search(frame)) is not None:
            feed.plan_next(frame.captured_at)
            feed.searching(search)
            feed.apply(feed.detect(self._detector, search))
        feed.publish_newest(frame)

    def _capture(self, frames: queue.Queue[Frame | BaseException]) -> None:
        while not self._stopping():
            try:
                item: Frame | BaseException | None = self._feed.read(_POLL_S)
            except BaseException as error:  # noqa: BLE001 - the main loop raises it
                item = error
            while item is not None and not self._stopping():
                try:
                    frames.put(item, timeout=_POLL_S)
                except queue.Full:
                    continue
                break
            if isinstance(item, BaseException):
                return

    def _stopping(self) -> bool:
        return self._stop.is_set() or self._ended.is_set()

    def _report_progress(self) -> None:
        self._on_progress(self.stats.published + self.stats.unreadable, self._feed.source.frame_total)


@contextmanager
def _thread(name: str, ended: threading.Event, work: Callable[..., None], *arguments: object) -> Iterator[None]:
    """Run `work` in a thread while the block runs, then tell the thread to end and wait for it."""
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_JOIN_TIMEOUT_S)
        if thread.is_alive():
            leave_behind(thread)
            logger.warning("the thread %s hangs in a call and is left behind", name)


def _loss(feeds: Iterable[Feed]) -> str:
    errors = "; ".join(feed.source.health.error or f"{feed.source.name}: no picture" for feed in feeds)
    return f"no camera gives pictures any more, and the time to wait for one is over: {errors}"
