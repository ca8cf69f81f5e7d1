"""Site: what the server's pages are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from edge_detector.publishers import EventHistory, Recordings
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.web.hub import FrameHub
from edge_detector.runtime.metrics import ServiceStatus


@dataclass(slots=True, eq=False)
class Site:
    """What the pages are about, and their limits; see `WebPublisher`. A reload changes `model_name` and `settings`."""

    hubs: Mapping[str, FrameHub]  # by camera
    labels: Sequence[str]
    model_name: str
    max_viewers: int
    stall_s: float
    status: Callable[[], ServiceStatus] | None
    set_detecting: Callable[[str, bool], None] | None
    events: EventHistory | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    videos: Mapping[str, LiveVideo] = field(default_factory=dict)
    recordings: Recordings | None = None

    @property
    def cameras(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.hubs)

    def camera_of(self, request: web.Request) -> str:
        """Return the camera that a request is about: `?camera=NAME`, else the first.

        Raises:
            web.HTTPNotFound: there is none of this name.
        """
        name = request.query.get("camera", self.cameras[0])
        if name not in self.hubs:
            raise web.HTTPNotFound(text=f"no such camera; there are: {', '.join(self.hubs)}\n")
        return name

    def hub_of(self, request: web.Request) -> FrameHub:
        """Return the hub of the camera that a request is about; see `camera_of`."""
        return self.hubs[self.camera_of(request)]
