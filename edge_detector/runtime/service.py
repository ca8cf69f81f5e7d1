"""The service: opens what the settings name, runs the pipeline, closes everything in reverse order."""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from edge_detector.backends import DeviceOptions
from edge_detector.config import CameraConfig, Config, FeedConfig, ModelConfig
from edge_detector.config_checks import check_coordinates, check_labels
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, DelegateError, PublishError
from edge_detector.frame import parse_size
from edge_detector.object_config import RuleConfig
from edge_detector.overlay import OverlayRenderer
from edge_detector.overlay_shapes import Shape
from edge_detector.publishers import (
    EventHistory,
    Publisher,
    Recordings,
    open_event_publisher,
    open_publisher,
    open_sink,
)
from edge_detector.publishers.append_file import UNLIMITED, Growth
from edge_detector.publishers.event_store import open_event_store
from edge_detector.publishers.recorder import open_clips
from edge_detector.publishers.sink_filter import filtered
from edge_detector.runtime.feed import Feed
from edge_detector.runtime.metrics import PipelineStats
from edge_detector.runtime.pipeline import LivePipeline, RecordedPipeline
from edge_detector.runtime.shown_settings import without_secrets
from edge_detector.sink_config import SinkFilterConfig, parse_address
from edge_detector.sources import Source, open_source
from edge_detector.sources.camera import CaptureOptions, Recovery
from edge_detector.tracking.follower import Follower, FollowerOptions
from edge_detector.tracking.polygons import to_fractions

logger = logging.getLogger(__name__)

CLOSE_S = 1.0  # in which what is over the network must end
FEW_LABELS = 10  # so many are told to MQTT from the start, of a model with more those that are seen
USUAL_FPS = 25.0  # of a video, where the source does not state its rate
ALL = SinkFilterConfig()
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
        outputs = _Outputs(config, detector, sources, stop, pipeline, shapes)
        stack.enter_context(closing(outputs))
        outputs.open(feeds)
        read = ", ".join(source.name for source in sources.values())
        written = ", ".join(outputs.names) or "nowhere"
        on_ready(f"{read} -> {detector.manifest.name} ({detector.backend.name}) -> {written}")
        return pipeline.run(duration_s)


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


class _Outputs:
    """What results go to: opened one after the other, closed in reverse order."""

    def __init__(
        self,
        config: Config,
        detector: Detector,
        sources: Mapping[str, Source],
        stop: threading.Event,
        pipeline: LivePipeline | RecordedPipeline,
        shapes: Mapping[str, Sequence[Shape]],
    ) -> None:
        self.names: list[str] = []
        self._config = config
        self._sources = sources
        self._pipeline = pipeline
        self._model = {"labels": detector.manifest.labels, "model_name": detector.manifest.name}
        self._live = isinstance(pipeline, LivePipeline)
        self._waiting: dict[str, Any] = {"lossless": not self._live, "stop": stop}
        output = config.output
        # What a file gives is one piece, however large.
        days, keep, sync_s = output.jsonl_max_days or math.inf, output.jsonl_keep, output.jsonl_sync_s
        self._growth = Growth(output.jsonl_max_mb, days, keep, sync_s) if self._live else UNLIMITED
        self._stack = ExitStack()
        self._elsewhere: list[Any] = []  # what is over the network, closed all together
        self._stack.callback(_close_together, self._elsewhere)
        self._overlay = OverlayRenderer(detector.manifest.labels, shapes=shapes)

    def open(self, feeds: Sequence[Feed]) -> None:
        """Open all that the settings name, and let the feeds publish there.

        Raises:
            PublishError: one cannot be opened; those before it are closed by `close`.
        """
        history = self._open_events(feeds)
        recordings = self._open_recordings(feeds) if self._live else None
        output = self._config.output
        if self._config.http is not None:
            self._add(self._open_web(history, recordings), feeds)
        if isinstance(self._pipeline, LivePipeline):
            self._open_mqtt(feeds, self._pipeline)
            for hook in self._config.webhooks.values():
                self._add_elsewhere(open_event_publisher("webhook", settings=hook), feeds, hook)
            if self._config.udp.address is not None:
                udp = open_publisher("udp", settings=self._config.udp, **self._model)
                self._add_elsewhere(udp, feeds, self._config.udp)
            if self._config.snapshots.path is not None:
                labels = self._model["labels"]
                self._add(open_publisher("snapshots", settings=self._config.snapshots, labels=labels), feeds)
        else:
            self._warn_of_what_is_live()
        self._open_sinks(feeds)
        if output.jsonl is not None:
            lines = {"target": output.jsonl, "append": True, "growth": self._growth}
            self._add(open_publisher("jsonl", **lines, **self._model, **self._waiting), feeds, output.jsonl_filter)
        if output.video is not None:
            for feed in feeds:
                path, fps = output.video.replace("{camera}", feed.name), feed.source.fps or USUAL_FPS
                video = open_publisher("video", path=path, overlay=self._overlay, fps=fps, **self._waiting)
                self._add(video, [feed])

    def close(self) -> None:
        """Close all."""
        self._stack.close()

    def _add(self, publisher: Any, feeds: Sequence[Feed], wanted: SinkFilterConfig = ALL) -> None:
        """Let feeds publish there what is wanted: results, events, or both."""
        self._stack.enter_context(closing(publisher))
        self._connect(publisher, feeds, wanted)

    def _add_elsewhere(self, publisher: Any, feeds: Sequence[Feed], wanted: SinkFilterConfig) -> None:
        self._elsewhere.append(publisher)
        self._connect(publisher, feeds, wanted)

    def _connect(self, publisher: Any, feeds: Sequence[Feed], wanted: SinkFilterConfig) -> None:
        self.names.append(publisher.name)
        if not self._live:  # of a file all goes, so that it always gives the same
            wanted = wanted.model_copy(update={"max_per_s": None})
        through = filtered(publisher, wanted, self._model["labels"])
        for feed in feeds:
            if hasattr(publisher, "publish"):
                feed.add(through)
            if hasattr(publisher, "publish_event"):
                feed.add_events(through)

    def _warn_of_what_is_live(self) -> None:
        config = self._config
        keys = {"mqtt": config.mqtt.host, "webhooks": config.webhooks, "udp": config.udp.address}
        keys |= {"snapshots": config.snapshots.path, "recordings": config.recordings.path}
        named = [key for key, value in keys.items() if value]
        if named:
            logger.warning("%s: what is found in a file does not go there", ", ".join(named))

    def _open_sinks(self, feeds: Sequence[Feed]) -> None:
        """Open the sinks of any kind that the settings name."""
        offered = {**self._model, **self._waiting, "overlay": self._overlay}
        for name, sink in self._config.sinks.items():
            try:
                publisher = open_sink(sink.kind, sink.options, offered)
            except ConfigError as error:
                raise ConfigError(f"sinks.{name}: {error}") from error
            (self._add_elsewhere if self._live else self._add)(publisher, feeds, sink)

    def _open_recordings(self, feeds: Sequence[Feed]) -> Recordings | None:
        settings = self._config.recordings
        if settings.path is None:
            return None
        clips = open_clips(settings)
        given = {"labels": self._model["labels"], "overlay": self._overlay, "clips": clips}
        self._add(open_publisher("recordings", settings=settings, **given), feeds)
        return clips

    def _open_web(self, history: EventHistory, recordings: Recordings | None) -> Publisher:
        host, port = parse_address(self._config.http or "")
        control: dict[str, Any] = {}
        if isinstance(self._pipeline, LivePipeline):
            control = {"status": self._pipeline.status, "set_detecting": self._pipeline.set_detecting}
        cameras = tuple(self._sources)
        return open_publisher(
            "web",
            overlay=self._overlay,
            cameras=cameras,
            host=host,
            port=port,
            events=history,
            recordings=recordings,
            access=self._config.web,
            settings=without_secrets(self._config),
            **self._model,
            **control,
        )

    def _open_mqtt(self, feeds: Sequence[Feed], pipeline: LivePipeline) -> None:
        if self._config.mqtt.host is None:
            return
        labels: Sequence[str] = self._model["labels"]
        few = labels if len(labels) <= FEW_LABELS else ()
        wanted = self._config.mqtt.filter
        counted = {
            name: [label for label in camera.objects.track or few if label in (wanted.labels or labels)]
            for name, camera in self._config.feeds.items()
            if name in (wanted.cameras or self._config.feeds)
        }
        broker = open_publisher(
            "mqtt",
            settings=self._config.mqtt,
            cameras=counted,
            status=pipeline.status,
            set_detecting=pipeline.set_detecting,
            **self._model,
        )
        self._add_elsewhere(broker, feeds, wanted)

    def _open_events(self, feeds: Sequence[Feed]) -> EventHistory:
        """Open what keeps events, and return the history; what happens in a file is kept in memory only."""
        events = self._config.events
        if self._live and events.path is not None:
            store = open_event_store(events.path, max_age_days=events.max_age_days, max_mb=events.max_mb)
            self.names.append(store.name)
        else:
            store = open_event_store(**self._waiting)
            if events.path is not None:
                logger.warning("events.path: what happens in a file is not history; it does not go to %s", events.path)
        self._stack.enter_context(closing(store))
        for feed in feeds:
            feed.add_events(store)
        if events.jsonl is not None:
            lines = open_event_publisher("lines", path=events.jsonl, growth=self._growth, **self._waiting)
            self._add(lines, feeds, events.jsonl_filter)
        return store.sink


def _close_together(publishers: Sequence[Any]) -> None:
    """Close all at the same time: one that hangs must not take the others' time, and is left behind in the end."""
    closing_ = [threading.Thread(target=_close_or_warn, args=(publisher,), daemon=True) for publisher in publishers]
    for thread in closing_:
        thread.start()
    deadline_s = time.monotonic() + CLOSE_S
    for thread in closing_:
        thread.join(max(0.0, deadline_s - time.monotonic()))


def _close_or_warn(publisher: Any) -> None:
    """Close what is elsewhere: that it is away is no failure of the service."""
    try:
        publisher.close()
    except PublishError as error:
        logger.warning("%s", error)
