"""Detection in pictures and video files: every frame, in order; what is damaged is reported and left out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_detector.detector import Detector
from edge_detector.errors import PublishError, SourceError
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import Publisher, open_publisher
from edge_detector.publishers.pictures import CopyNames
from edge_detector.runtime.feed import Feed
from edge_detector.runtime.outputs import USUAL_FPS
from edge_detector.runtime.pipeline import RecordedPipeline
from edge_detector.sources import Source, local_files, open_source
from edge_detector.sources.files import PictureFiles

logger = logging.getLogger(__name__)

_CUT_OFF = 0.95  # a video that gives less of the frames that it announces; many containers announce a rough number


@dataclass(slots=True)
class BatchReport:
    """Counters of a batch: frames detected, and inputs or pictures that could not be read or copied to their end."""

    frames: int = 0
    failed: int = 0


class Batch:
    """Runs inputs through one detector, into annotated files in a folder and lines of JSON."""

    def __init__(
        self,
        detector: Detector,
        output: Path | None,
        jsonl: str | None,
        interrupted: threading.Event,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Take the parts.

        Args:
            detector: stays open.
            output: folder for annotated pictures and videos.
            jsonl: file for lines of JSON, "-" for standard output.
            interrupted: ends the batch after the current frame when set.
            on_progress: gets the number of pictures done and their total so far; each input that is not open yet
                counts as one.
        """
        self.report = BatchReport()
        self._detector = detector
        self._output = output
        self._jsonl = jsonl
        self._interrupted = interrupted
        self._on_progress = on_progress
        self._overlay = OverlayRenderer(detector.manifest.labels, status=False)
        self._unwritable: list[str] = []

    def run(self, inputs: Sequence[str]) -> BatchReport:
        """Process the inputs in their order, and return the counters; no input is overwritten.

        Raises:
            PublishError: results cannot be written; the batch has ended there.
            ModelError: the model failed.
        """
        originals = [path for uri in inputs for path in local_files(uri)]
        self._video_names = CopyNames(self._output or Path(), originals)
        with ExitStack() as stack:
            shared: list[Publisher] = []
            for publisher in self._open_shared(originals):
                shared.append(stack.enter_context(closing(publisher)))
            for index, uri in enumerate(inputs):
                if self._interrupted.is_set():
                    break
                try:
                    self._run_input(uri, shared, waiting=len(inputs) - index - 1)
                except SourceError as error:
                    self.report.failed += 1
                    logger.error("%s", error)
        self.report.failed += len(self._unwritable)
        return self.report

    def _open_shared(self, originals: Sequence[Path]) -> Iterator[Publisher]:
        labels, model_name = self._detector.manifest.labels, self._detector.manifest.name
        if self._jsonl is not None:
            if self._jsonl != "-" and Path(self._jsonl).resolve() in {path.resolve() for path in originals}:
                raise PublishError(f"{self._jsonl} is one of the inputs; choose another file for the lines")
            yield open_publisher(
                "jsonl", target=self._jsonl, labels=labels, model_name=model_name, lossless=True, stop=self._interrupted
            )
        if self._output is not None:
            yield open_publisher(
                "pictures",
                directory=self._output,
                overlay=self._overlay,
                originals=originals,
                on_unwritable=self._note_unwritable,
                lossless=True,
                stop=self._interrupted,
            )

    def _note_unwritable(self, message: str) -> None:
        self._unwritable.append(message)
        logger.error("%s", message)

    def _run_input(self, uri: str, shared: Sequence[Publisher], waiting: int) -> None:
        with ExitStack() as stack:
            source = stack.enter_context(closing(open_source(uri)))
            if source.live:
                raise SourceError(
                    f"{source.name}: has no end; use `edge-detector run --source` for cameras and streams"
                )
            if self._output is None or isinstance(source, PictureFiles):
                self._run_pipeline(source, shared, None, waiting)
                return
            video = self._open_video(source)
            stack.callback(_close_video, video)
            self._run_pipeline(source, shared[:-1], video, waiting)

    def _run_pipeline(self, source: Source, shared: Sequence[Publisher], video: Publisher | None, waiting: int) -> None:
        stop = threading.Event()
        before = self.report.frames + self.report.failed

        def on_progress(done: int, total: int | None) -> None:
            if self._interrupted.is_set() or pipeline.stats.publish_errors:
                stop.set()
            self._on_progress(before + done, before + max(done, total or 0) + waiting)

        publishers = shared if video is None else (*shared, video)
        pipeline = RecordedPipeline(Feed("camera", source, publishers), self._detector, stop, on_progress)
        stats = pipeline.run()
        self.report.frames += stats.inferred
        self.report.failed += stats.unreadable
        if stats.publish_errors:
            if video is not None:
                _close_video(video)  # raises what went wrong with it, else
            for publisher in shared:
                publisher.close()  # raises what went wrong here
        done = stats.inferred + stats.unreadable
        if not self._interrupted.is_set() and done < _CUT_OFF * (source.frame_total or 0):
            raise SourceError(f"{source.name}: ended after {done} of {source.frame_total} frames; it may be cut off")

    def _open_video(self, source: Source) -> Publisher:
        path, fps = self._video_names.next(source.name, ".mp4"), source.fps or USUAL_FPS
        with _failing_input():
            return open_publisher(
                "video", path=path, overlay=self._overlay, fps=fps, lossless=True, stop=self._interrupted
            )


def _close_video(video: Publisher) -> None:
    with _failing_input():
        video.close()


@contextmanager
def _failing_input() -> Iterator[None]:
    """Make the failure of a video, which is the copy of one input, that of the input instead of the batch."""
    try:
        yield
    except PublishError as error:
        raise SourceError(str(error)) from error
