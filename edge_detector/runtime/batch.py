"""Detection in pictures and video files: every frame, in order; what is damaged is reported and left out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, SourceError
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import Publisher, open_publisher
from edge_detector.runtime.pipeline import Pipeline
from edge_detector.runtime.service import USUAL_FPS
from edge_detector.sources import Source, open_source
from edge_detector.sources.files import PictureFiles

logger = logging.getLogger(__name__)

_CUT_OFF = 0.95  # a video that gives less of the frames that it announces; many containers announce a rough number


@dataclass(slots=True)
class BatchReport:
    """Counters of a batch: frames detected, and inputs or pictures that could not be read to their end."""

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
        self._videos: set[str] = set()

    def run(self, inputs: Sequence[str]) -> BatchReport:
        """Process the inputs in their order, and return the counters.

        Raises:
            PublishError: results cannot be written; the batch has ended there.
            ConfigError: an input is a camera or stream.
            ModelError: the model failed.
        """
        with ExitStack() as stack:
            shared: list[Publisher] = []
            for publisher in self._open_shared():
                shared.append(stack.enter_context(closing(publisher)))
            for index, uri in enumerate(inputs):
                if self._interrupted.is_set():
                    break
                try:
                    self._run_input(uri, shared, waiting=len(inputs) - index - 1)
                except SourceError as error:
                    self.report.failed += 1
                    logger.error("%s", error)
        return self.report

    def _open_shared(self) -> Iterator[Publisher]:
        labels, model_name = self._detector.manifest.labels, self._detector.manifest.name
        if self._jsonl is not None:
            yield open_publisher(
                "jsonl", target=self._jsonl, labels=labels, model_name=model_name, lossless=True, stop=self._interrupted
            )
        if self._output is not None:
            yield open_publisher(
                "pictures", directory=self._output, overlay=self._overlay, lossless=True, stop=self._interrupted
            )

    def _run_input(self, uri: str, shared: Sequence[Publisher], waiting: int) -> None:
        with ExitStack() as stack:
            source = stack.enter_context(closing(open_source(uri)))
            if source.live:
                raise ConfigError(
                    f"{source.name}: has no end; use `edge-detector run --source` for cameras and streams"
                )
            publishers = list(shared)
            if self._output is not None and not isinstance(source, PictureFiles):
                publishers[-1] = stack.enter_context(closing(self._open_video(source, self._output)))
            self._run_pipeline(source, publishers, waiting)

    def _run_pipeline(self, source: Source, publishers: Sequence[Publisher], waiting: int) -> None:
        stop = threading.Event()
        before = self.report.frames + self.report.failed

        def on_progress(done: int, total: int | None) -> None:
            if self._interrupted.is_set() or pipeline.stats.publish_errors:
                stop.set()
            self._on_progress(before + done, before + max(done, total or 0) + waiting)

        pipeline = Pipeline(source, self._detector, publishers, stop, on_progress)
        stats = pipeline.run()
        self.report.frames += stats.inferred
        self.report.failed += stats.unreadable
        if stats.publish_errors:
            for publisher in publishers:
                publisher.close()  # raises what went wrong
        done = stats.inferred + stats.unreadable
        if not self._interrupted.is_set() and done < _CUT_OFF * (source.frame_total or 0):
            raise SourceError(f"{source.name}: ended after {done} of {source.frame_total} frames; it may be cut off")

    def _open_video(self, source: Source, folder: Path) -> Publisher:
        """Open `clip_boxes.mp4` for `clip.avi`, or `clip_boxes_2.mp4` for a second clip of that name."""
        stem = f"{Path(source.name).stem}_boxes"
        names = (stem if number == 1 else f"{stem}_{number}" for number in count(1))
        name = next(name for name in names if name not in self._videos)
        self._videos.add(name)
        fps = source.fps or USUAL_FPS
        return open_publisher(
            "video", path=folder / f"{name}.mp4", overlay=self._overlay, fps=fps, lossless=True, stop=self._interrupted
        )
