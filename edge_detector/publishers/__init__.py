"""Stage 6: results leave the device."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from edge_detector.errors import ConfigError
from edge_detector.frame import FrameResult

# Resolved when opened: nothing that a publisher needs is imported before.
PUBLISHERS = {
    "jsonl": "edge_detector.publishers.jsonl:open_jsonl",
    "pictures": "edge_detector.publishers.pictures:open_pictures",
    "video": "edge_detector.publishers.video:open_video",
    "web": "edge_detector.publishers.web:WebPublisher",
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


def open_publisher(kind: str, **settings: Any) -> Publisher:
    """Return the publisher `kind`, opened with the settings that its entry in `PUBLISHERS` takes.

    Raises:
        ConfigError: there is no such kind.
        PublishError: its file, folder or address cannot be used.
    """
    if kind not in PUBLISHERS:
        raise ConfigError(f"unknown publisher '{kind}'; choose from {', '.join(PUBLISHERS)}")
    module, _, attribute = PUBLISHERS[kind].partition(":")
    return cast(Publisher, getattr(importlib.import_module(module), attribute)(**settings))
