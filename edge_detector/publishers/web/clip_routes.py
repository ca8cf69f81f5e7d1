"""The clips that were recorded, over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from edge_detector.publishers import Recordings
from edge_detector.publishers.web.event_routes import TIMES, read_history
from edge_detector.publishers.web.parameters import read_parameters, whole_number

MAX_LIMIT = 1000
LISTED: Mapping[str, Callable[[str], Any]] = {
    **TIMES,
    "camera": str,
    "object_id": str,
    "limit": whole_number(1, MAX_LIMIT),
}


class ClipPages:
    """Request handlers over recordings; without them, all answer 404."""

    def __init__(self, recordings: Recordings | None) -> None:
        self._recordings = recordings

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/api/clips", self.list_clips)
        router.add_get("/api/clips/{id}/clip.mp4", self.clip)

    async def list_clips(self, request: web.Request) -> web.Response:
        """Clips, newest first."""
        recordings, wanted = self._kept(), read_parameters(request, LISTED)
        return web.json_response(await read_history(lambda: recordings.list_clips(**wanted)))

    async def clip(self, request: web.Request) -> web.FileResponse:
        """One clip; parts of it, too."""
        recordings, clip_id = self._kept(), request.match_info["id"]
        path = await read_history(lambda: recordings.clip_path(clip_id))
        if path is None:
            raise web.HTTPNotFound(text="no such clip\n")
        return web.FileResponse(path, headers={"Content-Type": "video/mp4"})

    def _kept(self) -> Recordings:
        if self._recordings is None:
            raise web.HTTPNotFound(text="nothing is recorded; set recordings: {path: FOLDER}\n")
        return self._recordings
