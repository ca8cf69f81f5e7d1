"""The service: opens what the settings name, runs the pipeline, closes everything in reverse order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from edge_detector.backends import DeviceOptions
from edge_detector.config import CameraConfig, Config, ModelConfig, parse_address
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, DelegateError
from edge_detector.frame import parse_size
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import Publisher, open_publisher
from edge_detector.runtime.feed import Feed
from edge_detector.runtime.metrics import PipelineStats
from edge_detector.runtime.pipeline import LivePipeline, RecordedPipeline
from edge_detector.sources import Source, open_source
from edge_detector.sources.camera import CaptureOptions, Recovery

USUAL_FPS = 25.0  # of a video, where the source does not state its rate
_HANGS_AFTER_S = 5.0  # beyond the time in which a camera itself notices that no picture comes


def open_detector(model: ModelConfig, stop: threading.Event | None = None) -> Detector:
    """Load the model that the settings name; setting `stop` ends a wait for its device.

    Raises:
        ModelError: it is unknown, or its file cannot be used.
        DelegateError: the runtime is not installed, does not work, or the device is away and must not be.
    """
    device = DeviceOptions(
        device=model.device,
        edgetpu_model=None if model.edgetpu_path is None else Path(model.edgetpu_path),
        fallback=model.fallback,
        library=model.delegate_library,
        invoke_timeout_s=model.invoke_timeout_s,
    )
    labels = None if model.labelmap_path is None else Path(model.labelmap_path)
    return Detector.open(
        model.path, labels, model.num_threads, model.runtime, model.score_threshold, device=device, stop=stop
    )


def run_service(
    config: Config,
    stop: threading.Event,
    duration_s: float | None = None,
    on_ready: Callable[[str], None] = lambda line: None,
    *,
    required: bool = True,
    fallback: str | None = None,
) -> PipelineStats:
    """Run until `stop` is set, the source ends or `duration_s` seconds have passed; return the counters.

    When all is open, before the first picture, `on_ready` gets one line: what is read, what runs, where results go.
    A camera that is `required` must deliver now; otherwise it is waited for. `fallback` is the source to take where
    `auto` finds no camera.

    Raises:
        EdgeDetectorError: a part cannot be opened, or failed for good.
    """
    with ExitStack() as stack:
        try:
            detector = stack.enter_context(closing(open_detector(config.model, stop)))
        except DelegateError:
            if stop.is_set():  # it was waited for, and no longer is
                return PipelineStats()
            raise
        sources = {}
        for name, camera in config.feeds.items():
            source = _open_camera(camera, required, fallback, stop)
            sources[name] = stack.enter_context(closing(source))
        if stop.is_set():
            return PipelineStats()
        if all(source.live for source in sources.values()):
            feeds = [_feed(name, sources[name], camera) for name, camera in config.feeds.items()]
            pipeline = LivePipeline(feeds, detector, stop)
            outputs = _enter(stack, _open_publishers(config, detector, sources, stop, pipeline))
            run = pipeline.run
        elif len(sources) == 1:
            outputs = _enter(stack, _open_publishers(config, detector, sources, stop, None))
            (source,) = sources.values()
            run = RecordedPipeline(source, detector, outputs, stop).run
        else:
            files = ", ".join(name for name, source in sources.items() if not source.live)
            raise ConfigError(f"cameras: {files}: is a file with an end; of several cameras, add ?loop=1 to repeat it")
        read = ", ".join(source.name for source in sources.values())
        written = ", ".join(publisher.name for publisher in outputs) or "nowhere"
        on_ready(f"{read} -> {detector.manifest.name} ({detector.backend.name}) -> {written}")
        return run(duration_s)


def _open_camera(camera: CameraConfig, required: bool, fallback: str | None, stop: threading.Event) -> Source:
    options = CaptureOptions(
        size_wh=None if camera.size is None else parse_size(camera.size),
        fps=camera.fps,
        pixel_format=camera.format,
        rotation=camera.rotation,
        stream=camera.stream,
        timeout_s=camera.stall_s,
        controls=camera.controls,
    )
    recovery = Recovery(grab_s=camera.stall_s + _HANGS_AFTER_S, frozen_s=camera.frozen_s, give_up_s=camera.give_up_s)
    return open_source(
        camera.source, options=options, recovery=recovery, required=required, fallback=fallback, stop=stop
    )


def _feed(name: str, source: Source, camera: CameraConfig) -> Feed:
    return Feed(name, source, detect_fps=camera.detect_fps, max_age_s=camera.max_age_s, detecting=camera.detect)


def _enter(stack: ExitStack, publishers: Iterator[Publisher]) -> list[Publisher]:
    """Open one by one, so that the first is closed where the second fails."""
    return [stack.enter_context(closing(publisher)) for publisher in publishers]


def _open_publishers(
    config: Config,
    detector: Detector,
    sources: Mapping[str, Source],
    stop: threading.Event,
    pipeline: LivePipeline | None,
) -> Iterator[Publisher]:
    """Open one after the other, and let the pipeline's feeds publish there."""
    labels, model_name = detector.manifest.labels, detector.manifest.name
    overlay = OverlayRenderer(labels)
    waiting = {"lossless": pipeline is None, "stop": stop}
    everywhere: list[Publisher] = []
    if config.http is not None:
        host, port = parse_address(config.http)
        control = {} if pipeline is None else {"status": pipeline.status, "set_detecting": pipeline.set_detecting}
        everywhere.append(
            open_publisher(
                "web",
                overlay=overlay,
                labels=labels,
                model_name=model_name,
                cameras=tuple(sources),
                host=host,
                port=port,
                **control,
            )
        )
        yield everywhere[-1]
    if config.output.jsonl is not None:
        target = config.output.jsonl
        everywhere.append(
            open_publisher("jsonl", target=target, labels=labels, model_name=model_name, append=True, **waiting)
        )
        yield everywhere[-1]
    for feed in () if pipeline is None else pipeline.feeds.values():
        for publisher in everywhere:
            feed.add(publisher)
    if config.output.video is not None:
        for name, source in sources.items():
            path, fps = config.output.video.replace("{camera}", name), source.fps or USUAL_FPS
            video = open_publisher("video", path=path, overlay=overlay, fps=fps, **waiting)
            if pipeline is not None:
                pipeline.feeds[name].add(video)
            yield video
