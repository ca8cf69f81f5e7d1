"""What results go to: opened as the settings name it, and closed."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from edge_detector.abandoned import leave_behind
from edge_detector.config import Config
from edge_detector.errors import ConfigError, EdgeDetectorError, PublishError
from edge_detector.manifest import ModelManifest
from edge_detector.overlay import OverlayRenderer
from edge_detector.overlay_shapes import Shape
from edge_detector.publishers import (
    EventHistory,
    Publisher,
    Watched,
    open_event_publisher,
    open_publisher,
    open_sink,
)
from edge_detector.publishers.append_file import UNLIMITED, Growth
from edge_detector.publishers.event_store import open_event_store
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.recorder import open_clips
from edge_detector.publishers.sink_filter import filtered
from edge_detector.runtime.feed import Feed
from edge_detector.runtime.metrics import ServiceStatus, SinkStatus
from edge_detector.runtime.pipeline import LivePipeline, RecordedPipeline
from edge_detector.runtime.shown_settings import without_secrets
from edge_detector.sink_config import MqttConfig, SinkConfig, SinkFilterConfig, parse_address
from edge_detector.sources import Source

logger = logging.getLogger(__name__)

CLOSE_S = 1.0  # in which what is live must end
RELOAD_S = 0.3  # in which a reload must end, if all is to be closed
FEW_LABELS = 10  # so many are told to MQTT from the start, of a model with more those that are seen
USUAL_FPS = 25.0  # of a video, where the source does not state its rate
ALL = SinkFilterConfig()
OFFERED = ("labels", "model_name", "lossless", "stop", "overlay", "growth")  # to the sinks under `sinks`


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A sink that can be opened and closed by itself.

    Attributes:
        settings: all that `open` depends on; the same settings give the same sink.
        wanted: what of results and events goes there.
        camera: the one that it is for, None for all.
    """

    settings: Any
    open: Callable[[], Any]
    wanted: SinkFilterConfig = ALL
    camera: str | None = None


class Outputs:
    """What results go to: opened one after the other; of files closed in reverse order.

    Of cameras all are closed at the same time, as the end must be quick; what hangs or fails then is said, and no more.

    Attributes:
        reloads: times that new settings came, by how it went: "ok" or "failed".
    """

    def __init__(
        self,
        config: Config,
        manifest: ModelManifest,
        sources: Mapping[str, Source],
        stop: threading.Event,
        pipeline: LivePipeline | RecordedPipeline,
        shapes: Mapping[str, Sequence[Shape]],
    ) -> None:
        self.reloads = {"ok": 0, "failed": 0}
        self._config = config
        self._sources = sources
        self._pipeline = pipeline
        self._model = {"labels": manifest.labels, "model_name": manifest.name}
        self._live = isinstance(pipeline, LivePipeline)
        self._waiting: dict[str, Any] = {"lossless": not self._live, "stop": stop}
        self._stack = ExitStack()
        self._videos: dict[str, LiveVideo] = {}  # closed after those who take them
        self._fixed: list[Any] = []  # what no reload changes
        self._named: list[str] = []  # of them, what is worth a name
        self._open: dict[str, tuple[Unit, Any, Any]] = {}  # unit, publisher, and what is between it and the feeds
        self._begun: set[tuple[str, str]] = set()  # names and files of sinks: opened anew by a reload, these go on
        self._stack.callback(_close_together, self._videos.values())
        if self._live:
            self._stack.callback(self._close_live)
        self._lock = threading.Lock()  # a reload may be under way when all is closed
        self._closed = False
        self._web: Any = None
        self._overlay = OverlayRenderer(manifest.labels, shapes=shapes)

    @property
    def names(self) -> list[str]:
        """What results go to, in the order in which it was opened."""
        return self._named + [publisher.name for _, publisher, _ in self._open.values()]

    def open(self, feeds: Sequence[Feed]) -> None:
        """Open all that the settings name, and let the feeds publish there.

        Raises:
            PublishError: one cannot be opened; those before it are closed by `close`.
        """
        self._feeds = feeds
        history = self._open_store()
        self._open_videos(feeds)
        recordings = self._config.recordings
        self._clips = open_clips(recordings) if self._live and recordings.path is not None else None
        if self._config.http is not None:
            self._web = self._open_web(history)
            self._keep(self._web)
            for feed in feeds:
                feed.add(self._web)
        if not self._live:
            self._warn_of_what_is_live()
        for key, unit in self._units().items():
            self._open_unit(key, unit)

    def reload(self, config: Config, manifest: ModelManifest) -> None:
        """Close the sinks whose settings have changed, and open those that are new; all others go on.

        One that cannot be opened is said, and left out. What `FIXED` names stays as it is.
        """
        with self._lock:
            if self._closed:
                return
            self._config = config
            self._model["model_name"] = manifest.name
            wanted = self._units()
            gone = [
                key for key, (unit, _, _) in self._open.items() if key not in wanted or not _same(unit, wanted[key])
            ]
            _close_together([self._remove(key) for key in gone])
            for key, unit in wanted.items():
                if key not in self._open:
                    try:
                        self._open_unit(key, unit)
                    except EdgeDetectorError as error:
                        logger.error("%s: %s; it is left out", key, error)
            if self._web is not None:
                self._web.show(manifest.name, without_secrets(config))

    def beats(self) -> dict[str, float]:
        """Return when the web server's loop last turned, in monotonic seconds.

        Sinks are not among it: a new start does not help a disk or a network that hangs, and takes the cameras away.
        """
        return {} if self._web is None else {"web server": self._web.beat_s}

    def status(self) -> ServiceStatus:
        """Return how everything is; from any thread."""
        return replace(self._pipeline.status(), sinks=self._sinks(), reloads=dict(self.reloads))

    def _sinks(self) -> dict[str, SinkStatus]:
        """Return how all are, by their keys in the settings, or by their names where these have none of their own."""
        named = {publisher.name: publisher for publisher in (*self._fixed, *self._videos.values())}
        named |= {key: publisher for key, (_, publisher, _) in dict(self._open).items()}
        return {name: publisher.status() for name, publisher in named.items() if isinstance(publisher, Watched)}

    def close(self) -> None:
        """Close all."""
        self._closed = True
        if self._lock.acquire(timeout=RELOAD_S):  # else a reload hangs in opening a sink, which is left behind
            self._lock.release()
        self._stack.close()

    def _open_unit(self, key: str, unit: Unit) -> None:
        publisher = unit.open()
        if not self._live:
            self._stack.enter_context(closing(publisher))
        wanted = unit.wanted if self._live else unit.wanted.model_copy(update={"max_per_s": None})  # of a file all goes
        through = filtered(publisher, wanted, self._model["labels"])
        self._open[key] = unit, publisher, through
        for feed in self._feeds:
            if unit.camera in (None, feed.name):
                if hasattr(publisher, "publish"):
                    feed.add(through)
                if hasattr(publisher, "publish_event"):
                    feed.add_events(through)

    def _remove(self, key: str) -> Any:
        _, publisher, through = self._open.pop(key)
        for feed in self._feeds:
            feed.remove(through)
        return publisher

    def _units(self) -> dict[str, Unit]:
        """Return what the settings name, by its key in them."""
        return {**self._lines_of_events(), **(self._live_units() if self._live else {}), **self._other_units()}

    def _lines_of_events(self) -> dict[str, Unit]:
        events = self._config.events
        if events.jsonl is None:
            return {}
        lines = {"path": events.jsonl, "growth": self._growth}
        return {
            "events.jsonl": Unit(
                lines, partial(open_event_publisher, "lines", **lines, **self._waiting), events.jsonl_filter
            )
        }

    def _live_units(self) -> dict[str, Unit]:
        config, model, labels = self._config, dict(self._model), self._model["labels"]
        units = {}
        if self._clips is not None:
            given = {"settings": config.recordings, "labels": labels, "overlay": self._overlay, "clips": self._clips}
            units["recordings"] = Unit(config.recordings, partial(open_publisher, "recordings", **given))
        if config.mqtt.host is not None:
            counted = self._counted()
            units["mqtt"] = Unit(
                (config.mqtt, counted, model), partial(self._open_mqtt, config.mqtt, counted, model), config.mqtt.filter
            )
        for name, hook in config.webhooks.items():
            units[f"webhooks.{name}"] = Unit(hook, partial(open_event_publisher, "webhook", settings=hook), hook)
        if config.udp.address is not None:
            opener = partial(open_publisher, "udp", settings=config.udp, **model)
            units["udp"] = Unit((config.udp, model), opener, config.udp)
        if config.snapshots.path is not None:
            opener = partial(open_publisher, "snapshots", settings=config.snapshots, labels=labels)
            units["snapshots"] = Unit(config.snapshots, opener)
        return units

    def _other_units(self) -> dict[str, Unit]:
        config, model, output = self._config, dict(self._model), self._config.output
        units = {}
        for name, sink in config.sinks.items():
            opener = partial(self._open_sink, name, sink, {"growth": self._growth, **model})
            units[f"sinks.{name}"] = Unit((sink, self._growth, model), opener, sink)
        if output.jsonl is not None:
            lines = {"target": output.jsonl, "append": True, "growth": self._growth, **model}
            opener = partial(open_publisher, "jsonl", **lines, **self._waiting)
            units["output.jsonl"] = Unit(lines, opener, output.jsonl_filter)
        if output.video is not None:
            for name, source in self._sources.items():
                path = output.video.replace("{camera}", name)
                video = {"path": path, "fps": source.fps or USUAL_FPS, "overlay": self._overlay}
                opener = partial(open_publisher, "video", **video, **self._waiting)
                # Not by its rate, which a camera tells later: opened anew, it would take the place of what there is.
                units[f"output.video of {name}"] = Unit(path, opener, camera=name)
        return units

    @property
    def _growth(self) -> Growth:
        """Of files of lines; what a file gives is one piece, however large."""
        output = self._config.output
        if not self._live:
            return UNLIMITED
        return Growth(output.jsonl_max_mb, output.jsonl_max_days or math.inf, output.jsonl_keep, output.jsonl_sync_s)

    def _close_live(self) -> None:
        _close_together([*self._fixed, *(publisher for _, publisher, _ in self._open.values())])

    def _keep(self, publisher: Any, *, named: bool = True) -> None:
        """Close it in the end; no reload changes it."""
        self._fixed.append(publisher)
        self._named += [publisher.name] if named else []
        if not self._live:
            self._stack.enter_context(closing(publisher))

    def _warn_of_what_is_live(self) -> None:
        config = self._config
        keys = {"mqtt": config.mqtt.host, "webhooks": config.webhooks, "udp": config.udp.address}
        keys |= {"snapshots": config.snapshots.path, "recordings": config.recordings.path}
        named = [key for key, value in keys.items() if value]
        if named:
            logger.warning("%s: what is found in a file does not go there", ", ".join(named))

    def _open_sink(self, name: str, sink: SinkConfig, given: Mapping[str, Any]) -> Any:
        """Open a sink of any kind."""
        known = {**given, **self._waiting, "overlay": self._overlay}
        options, begun = sink.options, (name, str(sink.options.get("target")))
        if sink.kind == "jsonl" and begun in self._begun:
            options = {**options, "append": True}
        try:
            opened = open_sink(sink.kind, options, {key: known[key] for key in OFFERED})
        except ConfigError as error:
            raise ConfigError(f"sinks.{name}: {error}") from error
        self._begun.add(begun)
        return opened

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
                from edge_detector.publishers.rtsp_push import RtspPush  # not before: it takes long to import

                push = RtspPush(self._videos[feed.name], stream.rtsp_push.replace("{camera}", feed.name))
                self._keep(push)

    def _open_web(self, history: EventHistory) -> Any:
        host, port = parse_address(self._config.http or "")
        control: dict[str, Any] = {}
        if isinstance(self._pipeline, LivePipeline):
            control = {"status": self.status, "set_detecting": self._pipeline.set_detecting}
        cameras = tuple(self._sources)
        return open_publisher(
            "web",
            overlay=self._overlay,
            cameras=cameras,
            host=host,
            port=port,
            events=history,
            recordings=self._clips,
            access=self._config.web,
            settings=without_secrets(self._config),
            videos=self._videos if self._config.stream.webrtc else {},
            **self._model,
            **control,
        )

    def _counted(self) -> dict[str, list[str]]:
        """Return the labels of each camera that MQTT tells of from the start."""
        labels, wanted = self._model["labels"], self._config.mqtt.filter
        few = labels if len(labels) <= FEW_LABELS else ()
        return {
            name: [label for label in camera.objects.track or few if label in (wanted.labels or labels)]
            for name, camera in self._config.feeds.items()
            if name in (wanted.cameras or self._config.feeds)
        }

    def _open_mqtt(
        self, settings: MqttConfig, counted: Mapping[str, Sequence[str]], model: Mapping[str, Any]
    ) -> Publisher:
        pipeline = cast(LivePipeline, self._pipeline)
        given = {"status": self.status, "set_detecting": pipeline.set_detecting, **model}
        return open_publisher("mqtt", settings=settings, cameras=counted, **given)

    def _open_store(self) -> EventHistory:
        """Open what keeps events, and return the history; what happens in a file is kept in memory only."""
        events = self._config.events
        if self._live and events.path is not None:
            store = open_event_store(events.path, max_age_days=events.max_age_days, max_mb=events.max_mb)
        else:
            store = open_event_store(**self._waiting)
            if events.path is not None:
                logger.warning("events.path: what happens in a file is not history; it does not go to %s", events.path)
        self._keep(store, named=self._live and events.path is not None)
        for feed in self._feeds:
            feed.add_events(store)
        return store.sink


def _same(unit: Unit, other: Unit) -> bool:
    return (unit.settings, unit.wanted) == (other.settings, other.wanted)


def _close_together(publishers: Iterable[Any]) -> None:
    """Close all at the same time: one that hangs must not take the others' time, and is left behind in the end."""
    threads = [
        threading.Thread(target=_close_or_warn, args=(one,), name=f"publish {one.name}", daemon=True)
        for one in publishers
    ]
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:  # no room for a thread
            thread.run()
    deadline_s = time.monotonic() + CLOSE_S
    for thread in threads:
        if thread.ident is not None:
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
