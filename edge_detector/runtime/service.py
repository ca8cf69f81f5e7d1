"""The service: opens what the settings name, runs the pipeline, closes everything in reverse order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from edge_detector.backends import DeviceOptions
from edge_detector.config import CameraConfig, Config, ModelConfig
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, DelegateError
from edge_detector.frame import parse_size
from edge_detector.runtime.feed_maker import HANGS_AFTER_S, FeedMaker
from edge_detector.runtime.metrics import PipelineStats
from edge_detector.runtime.notify import Notifier
from edge_detector.runtime.outputs import Outputs
from edge_detector.runtime.pipeline import LivePipeline, RecordedPipeline
from edge_detector.runtime.process import share_heaps, share_processors
from edge_detector.runtime.reload import Reload, Reloader, Running, model_files
from edge_detector.runtime.watchdog import Watchdog
from edge_detector.sources import Source, open_source
from edge_detector.sources.camera import CaptureOptions, Recovery

logger = logging.getLogger(__name__)


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
    reload: Reload | None = None,
) -> PipelineStats:
    """Run until `stop` is set, the source ends or `duration_s` seconds have passed; return the counters.

    When all is open, before the first picture, `on_ready` gets one line: what is read, what runs, where results go.
    A camera that is `required` must deliver now; otherwise it is waited for. `fallback` is the source to take where
    `auto` finds no camera. Of a file, `reload` is not looked at.

    Raises:
        EdgeDetectorError: a part cannot be opened, or failed for good.
    """
    share_heaps()
    share_processors()
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
        live = all(source.live for source in sources.values())
        if not live and len(sources) > 1:
            files = ", ".join(name for name, source in sources.items() if not source.live)
            raise ConfigError(f"cameras: {files}: is a file with an end; of several cameras, add ?loop=1 to repeat it")
        maker = FeedMaker(sources)
        feeds = maker.feeds(config, detector)
        pipeline = LivePipeline(feeds, detector, stop) if live else RecordedPipeline(feeds[0], detector, stop)
        outputs = Outputs(config, detector.manifest, sources, stop, pipeline, maker.shapes)
        stack.enter_context(closing(outputs))
        outputs.open(feeds)
        read = ", ".join(source.name for source in sources.values())
        written = ", ".join(outputs.names) or "nowhere"
        on_ready(f"{read} -> {detector.manifest.name} ({detector.backend.name}) -> {written}")
        notifier = stack.enter_context(closing(Notifier()))
        reloader = None
        if isinstance(pipeline, LivePipeline) and reload is not None:
            stack.callback(lambda: pipeline.detector.close())
            running = Running(config, pipeline, maker, outputs, model_files(config.model))
            reloader = Reloader(running, reload, lambda model: open_detector(model, stop))
            stack.enter_context(closing(reloader))
        watchdog = Watchdog(notifier, lambda: pipeline.beats() | outputs.beats(), pipeline.status)

        def on_turn() -> None:
            if reloader is not None and reloader.begin():
                watchdog.reloading()
            watchdog.look(ready=pipeline.is_warm and not (reloader and reloader.busy))

        try:
            return pipeline.run(duration_s, on_turn)
        finally:
            notifier.stopping("stopping")


def capture_options(camera: CameraConfig) -> CaptureOptions:
    """Return how a camera takes pictures, as the settings say."""
    return CaptureOptions(
        size_wh=None if camera.size is None else parse_size(camera.size),
        fps=camera.fps,
        pixel_format=camera.format,
        rotation=camera.rotation,
        stream=camera.stream,
        timeout_s=camera.stall_s,
        controls=camera.controls,
    )


def _open_camera(camera: CameraConfig, required: bool, fallback: str | None, stop: threading.Event) -> Source:
    recovery = Recovery(grab_s=camera.stall_s + HANGS_AFTER_S, frozen_s=camera.frozen_s, give_up_s=camera.give_up_s)
    return open_source(
        camera.source,
        options=capture_options(camera),
        recovery=recovery,
        required=required,
        fallback=fallback,
        stop=stop,
    )
