"""The service: opens what the settings name, runs the pipeline, closes everything in reverse order."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from edge_detector.backends import DeviceOptions
from edge_detector.config import CameraConfig, Config, FeedConfig, ModelConfig
from edge_detector.config_checks import check_coordinates, check_labels
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, DelegateError
from edge_detector.frame import parse_size
from edge_detector.object_config import RuleConfig
from edge_detector.overlay_shapes import Shape
from edge_detector.runtime.feed import Feed
from edge_detector.runtime.metrics import PipelineStats
from edge_detector.runtime.notify import Notifier
from edge_detector.runtime.outputs import Outputs
from edge_detector.runtime.pipeline import LivePipeline, RecordedPipeline
from edge_detector.runtime.watchdog import Watchdog
from edge_detector.sources import Source, open_source
from edge_detector.sources.camera import CaptureOptions, Recovery
from edge_detector.tracking.follower import Follower, FollowerOptions
from edge_detector.tracking.polygons import to_fractions

logger = logging.getLogger(__name__)

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
        live = all(source.live for source in sources.values())
        if not live and len(sources) > 1:
            files = ", ".join(name for name, source in sources.items() if not source.live)
            raise ConfigError(f"cameras: {files}: is a file with an end; of several cameras, add ?loop=1 to repeat it")
        shapes: dict[str, list[Shape]] = {}
        feeds = _make_feeds(config, detector, sources, shapes)
        pipeline = LivePipeline(feeds, detector, stop) if live else RecordedPipeline(feeds[0], detector, stop)
        outputs = Outputs(config, detector, sources, stop, pipeline, shapes)
        stack.enter_context(closing(outputs))
        outputs.open(feeds)
        read = ", ".join(source.name for source in sources.values())
        written = ", ".join(outputs.names) or "nowhere"
        on_ready(f"{read} -> {detector.manifest.name} ({detector.backend.name}) -> {written}")
        notifier = stack.enter_context(closing(Notifier()))
        watchdog = Watchdog(
            notifier, lambda: pipeline.beats() | outputs.beats(), lambda: pipeline.is_warm, pipeline.status
        )
        try:
            return pipeline.run(duration_s, watchdog.look)
        finally:
            notifier.stopping("stopping")


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


def _make_feeds(
    config: Config, detector: Detector, sources: Mapping[str, Source], shapes: dict[str, list[Shape]]
) -> list[Feed]:
    """Return a feed for each source; the detector's threshold becomes the lowest that one of them needs.

    What the settings want drawn for a camera goes to `shapes` when its first picture has come.

    Raises:
        ConfigError: the settings name a label that the model does not have.
    """
    manifest, threshold = detector.manifest, detector.threshold
    check_labels(config, manifest.labels)
    recorded = any(not source.live for source in sources.values())

    def on_size(camera: str, size_wh: tuple[int, int]) -> None:
        check_coordinates(config, camera, size_wh)
        if config.overlay.zones:
            shapes[camera] = _shapes(config.feeds[camera], size_wh)

    options = FollowerOptions(
        labels=manifest.labels,
        threshold=threshold,
        canvas_wh=(manifest.input.width, manifest.input.height),
        rules=_at_any_time(config.rules) if recorded else config.rules,
        on_size=on_size,
        update_s=config.events.update_s,
        run_id="" if recorded else f"{secrets.token_hex(2)}-",  # the same file gives the same ids
    )
    feeds, lowest = [], [threshold]
    for name, camera in config.feeds.items():
        source = sources[name]
        follower = None
        if source.live or source.fps is not None:  # else photos, which have nothing to do with each other
            follower = Follower(name, camera, options)
            lowest.append(follower.lowest_score)
        feeds.append(
            Feed(
                name,
                source,
                detect_fps=camera.detect_fps,
                max_age_s=camera.max_age_s,
                patience_s=max(camera.stall_s + _HANGS_AFTER_S, 3 / (source.fps or 1)),
                detecting=camera.detect,
                follower=follower,
            )
        )
    detector.set_threshold(min(lowest))
    return feeds


def _at_any_time(rules: Mapping[str, RuleConfig]) -> dict[str, RuleConfig]:
    """Return the rules without times of day and week, which nobody knows of a file."""
    timed = ", ".join(name for name, rule in rules.items() if rule.between or rule.weekdays)
    if timed:
        logger.warning("rules %s: between and weekdays are ignored, because it is not known when the file is of", timed)
    return {name: rule.model_copy(update={"between": None, "weekdays": None}) for name, rule in rules.items()}


def _shapes(camera: FeedConfig, size_wh: tuple[int, int]) -> list[Shape]:
    """Return the zones and lines of a camera with pictures of `size_wh`, to be drawn."""
    zones = [Shape("zone", name, to_fractions(one.coordinates, size_wh, name)) for name, one in camera.zones.items()]
    lines = [Shape("line", name, to_fractions(one.coordinates, size_wh, name)) for name, one in camera.lines.items()]
    return zones + lines
