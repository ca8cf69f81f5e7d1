"""The service: opens what the settings name, runs the pipeline, closes everything in reverse order."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

from edge_detector.backends import DeviceOptions
from edge_detector.config import CameraConfig, Config, FeedConfig, ModelConfig, parse_address
from edge_detector.config_checks import check_coordinates, check_labels
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, DelegateError, PublishError
from edge_detector.frame import parse_size
from edge_detector.object_config import RuleConfig
from edge_detector.overlay import OverlayRenderer
from edge_detector.overlay_shapes import Shape
from edge_detector.publishers import EventHistory, EventPublisher, Publisher, open_event_publisher, open_publisher
from edge_detector.publishers.event_store import open_event_store
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.rtsp_push import RtspPush
from edge_detector.runtime.feed import Feed
from edge_detector.runtime.metrics import PipelineStats
from edge_detector.runtime.pipeline import LivePipeline, RecordedPipeline
from edge_detector.runtime.shown_settings import without_secrets
from edge_detector.sources import Source, open_source
from edge_detector.sources.camera import CaptureOptions, Recovery
from edge_detector.tracking.follower import Follower, FollowerOptions
from edge_detector.tracking.polygons import to_fractions

logger = logging.getLogger(__name__)

CLOSE_S = 1.0  # in which what is over the network must end
FEW_LABELS = 10  # so many are told to MQTT from the start, of a model with more those that are seen
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
        self._growth = {"max_mb": output.jsonl_max_mb, "keep": output.jsonl_keep} if self._live else {}
        self._stack = ExitStack()
        self._elsewhere: list[EventPublisher | RtspPush] = []  # what is over the network, closed all together
        self._stack.callback(_close_together, self._elsewhere)
        self._overlay = OverlayRenderer(detector.manifest.labels, shapes=shapes)

    def open(self, feeds: Sequence[Feed]) -> None:
        """Open all that the settings name, and let the feeds publish there.

        Raises:
            PublishError: one cannot be opened; those before it are closed by `close`.
        """
        history = self._open_events(feeds)
        videos = self._open_videos(feeds)
        output = self._config.output
        if self._config.http is not None:
            self._add(self._open_web(history, videos), feeds)
        if isinstance(self._pipeline, LivePipeline):
            self._open_mqtt(feeds, self._pipeline)
            self._open_webhooks(feeds)
        elif self._config.mqtt.host is not None or self._config.webhooks:
            logger.warning("mqtt and webhooks: what is found in a file does not go there")
        if output.jsonl is not None:
            lines = {"target": output.jsonl, "append": True, **self._growth}
            self._add(open_publisher("jsonl", **lines, **self._model, **self._waiting), feeds)
        if output.video is not None:
            for feed in feeds:
                path, fps = output.video.replace("{camera}", feed.name), feed.source.fps or USUAL_FPS
                video = open_publisher("video", path=path, overlay=self._overlay, fps=fps, **self._waiting)
                self._add(video, [feed])

    def close(self) -> None:
        """Close all."""
        self._stack.close()

    def _add(self, publisher: Publisher, feeds: Sequence[Feed]) -> None:
        self._stack.enter_context(closing(publisher))
        self.names.append(publisher.name)
        for feed in feeds:
            feed.add(publisher)

    def _open_videos(self, feeds: Sequence[Feed]) -> dict[str, LiveVideo]:
        """Open live video of each camera, if the settings give it to anybody."""
        stream = self._config.stream
        if not stream.webrtc and stream.rtsp_push is None:
            return {}
        if not self._live:
            logger.warning("stream: a file is not sent as live video")
            return {}
        videos = {}
        for feed in feeds:
            video = open_publisher("live_video", camera=feed.name, overlay=self._overlay, settings=stream)
            videos[feed.name] = cast(LiveVideo, self._stack.enter_context(closing(video)))
            feed.add(video)
            if stream.rtsp_push is not None:
                push = RtspPush(videos[feed.name], stream.rtsp_push.replace("{camera}", feed.name))
                self._elsewhere.append(push)
                self.names.append(push.name)
        return videos if stream.webrtc else {}

    def _open_web(self, history: EventHistory, videos: Mapping[str, LiveVideo]) -> Publisher:
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
            access=self._config.web,
            settings=without_secrets(self._config),
            videos=videos,
            **self._model,
            **control,
        )

    def _open_mqtt(self, feeds: Sequence[Feed], pipeline: LivePipeline) -> None:
        if self._config.mqtt.host is None:
            return
        labels: Sequence[str] = self._model["labels"]
        few = labels if len(labels) <= FEW_LABELS else ()
        broker = open_publisher(
            "mqtt",
            settings=self._config.mqtt,
            cameras={name: camera.objects.track or few for name, camera in self._config.feeds.items()},
            status=pipeline.status,
            set_detecting=pipeline.set_detecting,
            **self._model,
        )
        self._elsewhere.append(cast(EventPublisher, broker))
        self.names.append(broker.name)
        for feed in feeds:
            feed.add(broker)
            feed.add_events(cast(EventPublisher, broker))

    def _open_webhooks(self, feeds: Sequence[Feed]) -> None:
        for hook in self._config.webhooks.values():
            publisher = open_event_publisher("webhook", settings=hook)
            self._elsewhere.append(publisher)
            self.names.append(publisher.name)
            for feed in feeds:
                feed.add_events(publisher)

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
        publishers: list[EventPublisher] = [store]
        if events.jsonl is not None:
            publishers.append(open_event_publisher("lines", path=events.jsonl, **self._growth, **self._waiting))
            self.names.append(publishers[-1].name)
            self._stack.enter_context(closing(publishers[-1]))
        for feed in feeds:
            for publisher in publishers:
                feed.add_events(publisher)
        return store.sink


def _close_together(publishers: Sequence[EventPublisher | RtspPush]) -> None:
    """Close all at the same time: one that hangs must not take the others' time, and is left behind in the end."""
    closing_ = [threading.Thread(target=_close_or_warn, args=(publisher,), daemon=True) for publisher in publishers]
    for thread in closing_:
        thread.start()
    deadline_s = time.monotonic() + CLOSE_S
    for thread in closing_:
        thread.join(max(0.0, deadline_s - time.monotonic()))


def _close_or_warn(publisher: EventPublisher | RtspPush) -> None:
    """Close what is elsewhere: that it is away is no failure of the service."""
    try:
        publisher.close()
    except PublishError as error:
        logger.warning("%s", error)
