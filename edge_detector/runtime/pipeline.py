"""From source to publishers: the threads, and what each hands to the next."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np

from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import EndOfStream, UnreadablePicture
from edge_detector.frame import Frame, FrameResult
from edge_detector.publishers import Publisher
from edge_detector.runtime.mailbox import LatestFrame
from edge_detector.runtime.metrics import PipelineStats, RateMeter
from edge_detector.sources import Source

logger = logging.getLogger(__name__)

_POLL_S = 0.2  # how soon every thread notices that it shall stop
_READ_AHEAD = 2  # decoded frames that wait for inference in file mode
_JOIN_TIMEOUT_S = 30.0  # the slowest inference on the slowest board ends within it
_REPORT_PERIOD_S = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class _Inference:
    """Detections and the frame that they were computed on, without its pixels."""

    detections: Detections
    detected_at: float
    size_wh: tuple[int, int]
    timings_s: Mapping[str, float]


class Pipeline:
    """Runs frames of one source through one detector to all publishers.

    A live source is sampled: a capture thread keeps the newest frame, an inference thread takes it when it is free, and
    every captured frame is published at once with the newest detections. Of any other source every frame is detected
    and published in order; only decoding runs ahead, in a thread.

    The caller opens source, detector and publishers and closes them after `run`. Setting `stop` ends the run.

    Attributes:
        stats: the counters, up to date while it runs.
    """

    def __init__(
        self,
        source: Source,
        detector: Detector,
        publishers: Sequence[Publisher],
        stop: threading.Event,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        """Take the parts; `on_progress(done, total)` is called after each picture of a source that is not live."""
        self.stats = PipelineStats()
        self._source = source
        self._detector = detector
        self._publishers = publishers
        self._stop = stop
        self._ended = threading.Event()
        self._on_progress = on_progress
        self._capture_rate = RateMeter()
        self._inference_rate = RateMeter()
        self._failing: set[str] = set()
        self._newest: _Inference | None = None

    def run(self, duration_s: float | None = None) -> PipelineStats:
        """Run until the source ends, `stop` is set or `duration_s` seconds have passed; return the counters.

        Raises:
            SourceError: the source failed.
            EdgeDetectorError: any other error of a stage; that of a publisher is counted instead.
        """
        deadline_s = time.monotonic() + (math.inf if duration_s is None else duration_s)
        with ExitStack() as on_exit:
            (self._run_live if self._source.live else self._run_recorded)(deadline_s, on_exit)
        return self.stats

    # Live: newest first.

    def _run_live(self, deadline_s: float, on_exit: ExitStack) -> None:
        to_detect: LatestFrame[Frame] = LatestFrame()
        to_show: LatestFrame[Frame] = LatestFrame()
        on_exit.enter_context(self._thread("capture", self._capture_live, to_detect, to_show))
        on_exit.enter_context(self._thread("inference", self._detect_live, to_detect, to_show))
        report_s = time.monotonic() + _REPORT_PERIOD_S
        while not self._stopping() and (now_s := time.monotonic()) < deadline_s:
            try:
                frame = to_show.get(min(_POLL_S, deadline_s - now_s))
            except EndOfStream:
                return
            if frame is not None:
                self._publish(frame, self._newest)
            if now_s >= report_s:
                self._log_rates()
                report_s += _REPORT_PERIOD_S

    def _log_rates(self) -> None:
        rates = self._capture_rate.per_second, self._inference_rate.per_second
        counts = self.stats.captured, self.stats.dropped, self.stats.publish_errors
        logger.info(
            "camera %.1f fps, inference %.1f fps; in all %d taken, %d left out, %d not published", *rates, *counts
        )

    def _capture_live(self, to_detect: LatestFrame[Frame], to_show: LatestFrame[Frame]) -> None:
        try:
            while not self._stopping():
                frame = self._read()
                if frame is not None:
                    to_detect.put(frame)
                    to_show.put(frame)
                    self.stats.dropped = to_detect.replaced
        except BaseException as error:  # noqa: BLE001 - the main loop raises it
            to_detect.close()
            to_show.close(error)

    def _detect_live(self, to_detect: LatestFrame[Frame], to_show: LatestFrame[Frame]) -> None:
        try:
            while not self._stopping():
                frame = to_detect.get(_POLL_S)
                if frame is not None:
                    self._newest = self._detect(frame)
        except EndOfStream:
            pass
        except BaseException as error:  # noqa: BLE001 - the main loop raises it
            to_show.close(error)

    # Files: every frame, in order.

    def _run_recorded(self, deadline_s: float, on_exit: ExitStack) -> None:
        frames: queue.Queue[Frame | BaseException] = queue.Queue(_READ_AHEAD)
        on_exit.enter_context(self._thread("capture", self._capture_recorded, frames))
        while not self._stopping() and time.monotonic() < deadline_s:
            try:
                frame = frames.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if isinstance(frame, EndOfStream):
                self._report_progress()
                return
            if isinstance(frame, BaseException):
                raise frame
            self._publish(frame, self._detect(frame))
            self._report_progress()

    def _capture_recorded(self, frames: queue.Queue[Frame | BaseException]) -> None:
        while not self._stopping():
            try:
                item: Frame | BaseException | None = self._read()
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

    def _report_progress(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.stats.inferred + self.stats.unreadable, self._source.frame_total)

    # Steps of both.

    def _stopping(self) -> bool:
        return self._stop.is_set() or self._ended.is_set()

    def _read(self) -> Frame | None:
        try:
            frame = self._source.read(_POLL_S)
        except UnreadablePicture as error:
            self.stats.unreadable += 1
            logger.warning("skipped %s", error)
            return None
        if frame is not None:
            self.stats.captured += 1
            self._capture_rate.tick()
        return frame

    def _detect(self, frame: Frame) -> _Inference:
        detections, timings_s = self._detector.detect_timed(frame)
        self.stats.inferred += 1
        self._inference_rate.tick()
        return _Inference(detections, frame.captured_at, frame.size_wh, timings_s)

    def _publish(self, frame: Frame, inference: _Inference | None) -> None:
        """Hand the frame to all publishers; without an inference yet, with no detections and no timings."""
        if inference is None:
            inference = _Inference(Detections.empty(), frame.captured_at, frame.size_wh, {})
        detections = _in_pixels_of(frame, inference)
        fps = {"capture": self._capture_rate.per_second, "inference": self._inference_rate.per_second}
        result = FrameResult(frame, detections, inference.detected_at, inference.timings_s, fps)
        for publisher in self._publishers:
            try:
                publisher.publish(result)
            except Exception as error:  # noqa: BLE001 - one failing publisher must not stop the others
                self.stats.publish_errors += 1
                if publisher.name not in self._failing:
                    self._failing.add(publisher.name)
                    logger.error("%s: %s (further errors of it are only counted)", publisher.name, error)
        self.stats.published += 1

    @contextmanager
    def _thread(self, name: str, work: Callable[..., None], *arguments: object) -> Iterator[None]:
        """Run `work` in a thread while the block runs, then tell the thread to end and wait for it."""
        thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(_JOIN_TIMEOUT_S)
            if thread.is_alive():
                logger.warning("%s: the %s thread hangs in a call and is left behind", self._source.name, name)


def _in_pixels_of(frame: Frame, inference: _Inference) -> Detections:
    """Return the detections in pixels of `frame`, also if the source has changed its resolution since."""
    if inference.size_wh == frame.size_wh:
        return inference.detections
    scale_xy = np.divide(frame.size_wh, inference.size_wh, dtype=np.float32)
    return replace(inference.detections, xyxy=inference.detections.xyxy * np.tile(scale_xy, 2))
