"""Stage 6: results leave the device."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

from edge_detector.errors import ConfigError
from edge_detector.events import Alert, Event
from edge_detector.frame import FrameResult
from edge_detector.runtime.metrics import SinkStatus

# Resolved when opened: nothing that a publisher needs is imported before.
PUBLISHERS = {
    "jsonl": "edge_detector.publishers.jsonl:open_jsonl",
    "mqtt": "edge_detector.publishers.mqtt:MqttPublisher",
    "pictures": "edge_detector.publishers.pictures:open_pictures",
    "recordings": "edge_detector.publishers.recorder:open_recordings",
    "snapshots": "edge_detector.publishers.snapshots:open_snapshots",
    "udp": "edge_detector.publishers.udp:open_udp",
    "video": "edge_detector.publishers.video:open_video",
    "web": "edge_detector.publishers.web:WebPublisher",
    "live_video": "edge_detector.publishers.live_video:LiveVideo",
}
EVENT_PUBLISHERS = {
    "lines": "edge_detector.publishers.event_lines:open_event_lines",
    "store": "edge_detector.publishers.event_store:open_event_store",
    "webhook": "edge_detector.publishers.webhook:open_webhook",
}
# What `sinks` in the settings may name; either of the two kinds of publishers, or both in one.
SINKS = {
    "jsonl": PUBLISHERS["jsonl"],
    "lines": EVENT_PUBLISHERS["lines"],
}


class Publisher(Protocol):
    """A sink for results."""

    name: str

    def publish(self, result: FrameResult) -> None:
        """Take a result; returns at once for live sinks (a full queue drops the oldest and counts it)."""
        ...

    def close(self) -> None:
        """Write out what is queued and release everything; safe to call twice."""
        ...


class EventPublisher(Protocol):
    """A sink for events and alerts."""

    name: str

    def publish_event(self, event: Event | Alert) -> None:
        """Take an event or alert; returns at once."""
        ...

    def close(self) -> None:
        """Write out what is queued and release everything; safe to call twice."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A publisher that says how it is."""

    name: str

    def status(self) -> SinkStatus:
        """Return how it is; from any thread."""
        ...


class EventHistory(Protocol):
    """The events that are kept; methods are safe on any thread and read from the disk.

    Objects are `ObjectState.to_json` with `has_snapshot`, alerts are `schema.event_to_json`, both as JSON values.
    `after` <= `ts` < `before`, in seconds since the epoch; of an object it is `start_ts`. Of all conditions, None is
    met by everything. All raise `PublishError` where the history cannot be read.
    """

    def list_events(
        self,
        *,
        after: float | None = None,
        before: float | None = None,
        label: str | None = None,
        zone: str | None = None,
        camera: str | None = None,
        ended: bool | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[dict[str, Any]]:
        """Return objects, newest first, at most 1000, without the first `offset`; `zone` is one it has been in."""
        ...

    def event(self, object_id: str) -> dict[str, Any] | None:
        """Return one object, or None if it is unknown."""
        ...

    def snapshot(self, object_id: str) -> bytes | None:
        """Return an object's best picture as JPEG, or None if there is none."""
        ...

    def counts(
        self,
        *,
        after: float | None = None,
        before: float | None = None,
        label: str | None = None,
        zone: str | None = None,
        camera: str | None = None,
        by: Literal["hour", "day"] = "hour",
    ) -> list[dict[str, Any]]:
        """Return {"ts", "count", "labels": {label: count}} of every hour or day in which objects came, oldest first.

        `ts` is when it began by the local time of this machine, in seconds since the epoch.
        """
        ...

    def list_alerts(
        self, *, after: float | None = None, before: float | None = None, rule: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return alerts, newest first, at most 1000."""
        ...


class Recordings(Protocol):
    """The clips that are kept; methods are safe on any thread."""

    def list_clips(
        self,
        *,
        camera: str | None = None,
        after: float | None = None,
        before: float | None = None,
        object_id: str | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Return clips as JSON values, newest first, at most 1000; of all conditions, None is met by everything.

        Each has `id`, `camera`, `start_ts` and `end_ts` in seconds since the epoch (`end_ts` is None while it is
        written), `objects` (ids) and `labels` that it shows, and where they are known `width`, `height` and `bytes`.
        `after` <= `start_ts` < `before`.
        """
        ...

    def clip_path(self, clip_id: str) -> Path | None:
        """Return the MP4 file of a clip, or None if there is none; ids are looked up, and never become paths."""
        ...


def open_publisher(kind: str, **settings: Any) -> Publisher:
    """Return the publisher `kind`, opened with the settings that its entry in `PUBLISHERS` takes.

    Raises:
        ConfigError: there is no such kind.
        PublishError: its file, folder or address cannot be used.
    """
    return cast(Publisher, _open(PUBLISHERS, kind, settings))


def open_event_publisher(kind: str, **settings: Any) -> EventPublisher:
    """Return the publisher `kind`, opened with the settings that its entry in `EVENT_PUBLISHERS` takes.

    Raises:
        ConfigError: there is no such kind.
        PublishError: its file cannot be used.
    """
    return cast(EventPublisher, _open(EVENT_PUBLISHERS, kind, settings))


def open_sink(kind: str, options: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """Return the `Publisher` or `EventPublisher` or both that is named `kind` in the table `SINKS`.

    It is opened with `options`, and with what it takes of `offered`.

    Raises:
        ConfigError: there is no such kind, or it does not take these options; the message does not show their values.
        PublishError: what it needs cannot be used.
    """
    opener = bind_sink(kind, options, offered)
    try:
        return opener()
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"options of {kind}: a value is of the wrong kind ({type(error).__name__})") from error


def bind_sink(kind: str, options: Mapping[str, Any], offered: Mapping[str, Any]) -> Callable[[], Any]:
    """Return what opens a sink, see `open_sink`; nothing is opened yet.

    Raises:
        ConfigError: there is no such kind, or it does not take these options.
    """
    opener = _find(SINKS, kind)
    takes = inspect.signature(opener)
    own = [key for key in takes.parameters if key not in offered]
    arguments = {key: value for key, value in offered.items() if key in takes.parameters}
    try:
        takes.bind(**arguments, **options)
    except TypeError as error:
        raise ConfigError(f"options of {kind}: {error}; it takes {', '.join(own)}") from error
    return partial(opener, **arguments, **options)


def _open(table: Mapping[str, str], kind: str, settings: Mapping[str, Any]) -> Any:
    return _find(table, kind)(**settings)


def _find(table: Mapping[str, str], kind: str) -> Any:
    if kind not in table:
        raise ConfigError(f"unknown publisher '{kind}'; choose from {', '.join(table)}")
    module, _, attribute = table[kind].partition(":")
    return getattr(importlib.import_module(module), attribute)
