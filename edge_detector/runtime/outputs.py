"""What results go to: opened as the settings name it, and closed."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, cast

from edge_detector.abandoned import leave_behind
from edge_detector.config import Config
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, PublishError
from edge_detector.overlay import OverlayRenderer
from edge_detector.overlay_shapes import Shape
from edge_detector.publishers import (
    EventHistory,
    Recordings,
    open_event_publisher,
    open_publisher,
    open_sink,
)
from edge_detector.publishers.append_file import UNLIMITED, Growth
from edge_detector.publishers.event_store import open_event_store
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.recorder import open_clips
from edge_detector.publishers.rtsp_push import RtspPush
from edge_detector.publishers.sink_filter import filtered
from edge_detector.runtime.feed import Feed
from edge_detector.runtime.pipeline import LivePipeline, RecordedPipeline
from edge_detector.runtime.shown_settings import without_secrets
from edge_detector.sink_config import SinkFilterConfig, parse_address
from edge_detector.sources import Source

logger = logging.getLogger(__name__)

CLOSE_S = 1.0  # in which what is live must end
FEW_LABELS = 10  # so many are told to MQTT from the start, of a model with more those that are seen
USUAL_FPS = 25.0  # of a video, where the source does not state its rate
ALL = SinkFilterConfig()


class Outputs:
    """What results go to: opened one after the other; of files closed in reverse order.

    Of cameras all are closed at the same time, as the end must be quick; what hangs or fails then is said, and no more.
    """

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
        self._videos: dict[str, LiveVideo] = {}  # closed after those who take them
        self._together: list[Any] = []
        self._web: Any = None
        self._stack.callback(_close_together, self._videos.values())
        self._stack.callback(_close_together, self._together)
        self._overlay = OverlayRenderer(detector.manifest.labels, shapes=shapes)

    def open(self, feeds: Sequence[Feed]) -> None:
        """Open all that the settings name, and let the feeds publish there.

        Raises:
            PublishError: one cannot be opened; those before it are closed by `close`.
        """
        history = self._open_events(feeds)
        self._open_videos(feeds)
        recordings = self._open_recordings(feeds) if self._live else None
        output = self._config.output
        if self._config.http is not None:
            self._web = self._open_web(history, recordings)
            self._add(self._web, feeds)
        if isinstance(self._pipeline, LivePipeline):
            self._open_mqtt(feeds, self._pipeline)
            for hook in self._config.webhooks.values():
                self._add(open_event_publisher("webhook", settings=hook), feeds, hook)
            if self._config.udp.address is not None:
                self._add(open_publisher("udp", settings=self._config.udp, **self._model), feeds, self._config.udp)
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

    def beats(self) -> dict[str, float]:
        """Return when the web server's loop last turned, in monotonic seconds.

        Sinks are not among it: a new start does not help a disk or a network that hangs, and takes the cameras away.
        """
        return {} if self._web is None else {"web server": self._web.beat_s}

    def close(self) -> None:
        """Close all."""
        self._stack.close()

    def _add(self, publisher: Any, feeds: Sequence[Feed], wanted: SinkFilterConfig = ALL) -> None:
        """Let feeds publish there what is wanted: results, events, or both."""
        self._will_close(publisher)
        self.names.append(publisher.name)
        if not self._live:  # of a file all goes, so that it always gives the same
            wanted = wanted.model_copy(update={"max_per_s": None})
        through = filtered(publisher, wanted, self._model["labels"])
        for feed in feeds:
            if hasattr(publisher, "publish"):
                feed.add(through)
            if hasattr(publisher, "publish_event"):
                feed.add_events(through)

    def _will_close(self, publisher: Any) -> None:
        if self._live:
            self._together.append(publisher)
        else:
            self._stack.enter_context(closing(publisher))

    def _warn_of_what_is_live(self) -> None:
        config = self._config
        keys = {"mqtt": config.mqtt.host, "webhooks": config.webhooks, "udp": config.udp.address}
        keys |= {"snapshots": config.snapshots.path, "recordings": config.recordings.path}
        named = [key for key, value in keys.items() if value]
        if named:
            logger.warning("%s: what is found in a file does not go there", ", ".join(named))

    def _open_sinks(self, feeds: Sequence[Feed]) -> None:
        """Open the sinks of any kind that the settings name."""
        offered = {**self._model, **self._waiting, "overlay": self._overlay, "growth": self._growth}
        for name, sink in self._config.sinks.items():
            try:
                publisher = open_sink(sink.kind, sink.options, offered)
            except ConfigError as error:
                raise ConfigError(f"sinks.{name}: {error}") from error
            self._add(publisher, feeds, sink)

    def _open_recordings(self, feeds: Sequence[Feed]) -> Recordings | None:
        settings = self._config.recordings
        if settings.path is None:
            return None
        clips = open_clips(settings)
        given = {"labels": self._model["labels"], "overlay": self._overlay, "clips": clips}
        self._add(open_publisher("recordings", settings=settings, **given), feeds)
        return clips

    def _open_videos(self, feeds: Sequence[Feed]) -> None:
        """Open live video of each camera, if the settings give it to anybody."""
        stream = self._config.stream
        if not stream.webrtc and stream.rtsp_push is None:
            return
        if not self._live:
            logger.warning("stream: a file is not sent as live video")
            return
        for feed in feeds:
            video = open_publisher("live_video", camera=feed.name, overlay=self._overlay, settings=stream)
            self._videos[feed.name] = cast(LiveVideo, video)
            feed.add(video)
            if stream.rtsp_push is not None:
                push = RtspPush(self._videos[feed.name], stream.rtsp_push.replace("{camera}", feed.name))
                self._will_close(push)
                self.names.append(push.name)

    def _open_web(self, history: EventHistory, recordings: Recordings | None) -> Any:
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
            videos=self._videos if self._config.stream.webrtc else {},
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
        self._add(broker, feeds, wanted)

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
        self._will_close(store)
        for feed in feeds:
            feed.add_events(store)
        if events.jsonl is not None:
            lines = open_event_publisher("lines", path=events.jsonl, growth=self._growth, **self._waiting)
            self._add(lines, feeds, events.jsonl_filter)
        return store.sink


def _close_together(publishers: Iterable[Any]) -> None:
    """Close all at the same time: one that hangs must not take the others' time, and is left behind in the end."""
    threads = [threading.Thread(target=_close_or_warn, args=(one,), daemon=True) for one in publishers]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + CLOSE_S
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
        if thread.is_alive():
            leave_behind(thread)


def _close_or_warn(publisher: Any) -> None:
    """Close it: that it is away, full or hangs is no failure of a service that is told to end."""
    try:
        publisher.close()
    except PublishError as error:
        logger.warning("%s", error)
    except Exception:
        logger.exception("%s does not close", publisher.name)
