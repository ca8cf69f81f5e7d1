"""The service: opens what the settings name, runs the pipeline, closes everything in reverse order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from edge_detector.config import Config, ModelConfig, parse_address
from edge_detector.detector import Detector
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import Publisher, open_publisher
from edge_detector.runtime.metrics import PipelineStats
from edge_detector.runtime.pipeline import Pipeline
from edge_detector.sources import Source, open_source

USUAL_FPS = 25.0  # of a video, where the source does not state its rate


def open_detector(model: ModelConfig) -> Detector:
    """Load the model that the settings name.

    Raises:
        ModelError: it is unknown, or its file cannot be used.
        DelegateError: the runtime is not installed or does not work.
    """
    labels = None if model.labelmap_path is None else Path(model.labelmap_path)
    return Detector.open(model.path, labels, model.num_threads, model.runtime, model.score_threshold)


def run_service(
    config: Config,
    stop: threading.Event,
    duration_s: float | None = None,
    on_ready: Callable[[str], None] = lambda line: None,
) -> PipelineStats:
    """Run until `stop` is set, the source ends or `duration_s` seconds have passed; return the counters.

    When all is open, before the first picture, `on_ready` gets one line: what is read, what runs, where results go.

    Raises:
        EdgeDetectorError: a part cannot be opened, or failed for good.
    """
    with ExitStack() as stack:
        detector = stack.enter_context(closing(open_detector(config.model)))
        source = stack.enter_context(closing(open_source(config.source, fallback="demo")))
        publishers = []
        for publisher in _open_publishers(config, detector, source, stop):
            publishers.append(stack.enter_context(closing(publisher)))
        outputs = ", ".join(publisher.name for publisher in publishers) or "nowhere"
        on_ready(f"{source.name} -> {detector.manifest.name} ({detector.backend.name}) -> {outputs}")
        return Pipeline(source, detector, publishers, stop).run(duration_s)


def _open_publishers(config: Config, detector: Detector, source: Source, stop: threading.Event) -> Iterator[Publisher]:
    """Open one by one, so that the caller can close the first where the second fails."""
    labels, model_name = detector.manifest.labels, detector.manifest.name
    overlay = OverlayRenderer(labels)
    waiting = {"lossless": not source.live, "stop": stop}
    if config.http is not None:
        host, port = parse_address(config.http)
        yield open_publisher("web", overlay=overlay, labels=labels, model_name=model_name, host=host, port=port)
    if config.output.jsonl is not None:
        target = config.output.jsonl
        yield open_publisher("jsonl", target=target, labels=labels, model_name=model_name, append=True, **waiting)
    if config.output.video is not None:
        fps = source.fps or USUAL_FPS
        yield open_publisher("video", path=config.output.video, overlay=overlay, fps=fps, **waiting)
