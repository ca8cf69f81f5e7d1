"""The history of events over HTTP: objects, their pictures, counts and alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aiohttp import web

from edge_detector.errors import PublishError
from edge_detector.publishers import EventHistory
from edge_detector.publishers.web.parameters import flag, one_of, read_parameters, read_time, whole_number

T = TypeVar("T")

MAX_LIMIT = 1000
MAX_OFFSET = 10**9


class EventPages:
    """Request handlers over a history; without one, all of them answer 404."""

    def __init__(self, events: EventHistory | None) -> None:
        self._events = events

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/api/events", self.list_events)
        router.add_get("/api/events/{id}", self.event)
        router.add_get("/api/events/{id}/snapshot.jpg", self.snapshot)
        router.add_get("/api/counts", self.counts)
        router.add_get("/api/alerts", self.list_alerts)

    async def list_events(self, request: web.Request) -> web.Response:
        """Objects, newest first."""
        events, wanted = self._history(), read_parameters(request, {**OBJECTS, **PAGE, "ended": flag})
        return web.json_response(await read_history(lambda: events.list_events(**wanted)))

    async def event(self, request: web.Request) -> web.Response:
        """One object."""
        events, object_id = self._history(), request.match_info["id"]
        found = await read_history(lambda: events.event(object_id))
        if found is None:
            raise web.HTTPNotFound(text="no such event\n")
        return web.json_response(found)

    async def snapshot(self, request: web.Request) -> web.Response:
        """The best picture of one object."""
        events, object_id = self._history(), request.match_info["id"]
        jpeg = await read_history(lambda: events.snapshot(object_id))
        if jpeg is None:
            raise web.HTTPNotFound(text="no such event, or it has no picture\n")
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def counts(self, request: web.Request) -> web.Response:
        """How many objects came by hour or day."""
        events, wanted = self._history(), read_parameters(request, {**OBJECTS, "by": _period})
        return web.json_response(await read_history(lambda: events.counts(**wanted)))

    async def list_alerts(self, request: web.Request) -> web.Response:
        """Alerts, newest first."""
        events, wanted = self._history(), read_parameters(request, {**TIMES, "rule": str, "limit": _limit})
        return web.json_response(await read_history(lambda: events.list_alerts(**wanted)))

    def _history(self) -> EventHistory:
        if self._events is None:
            raise web.HTTPNotFound(text="events are not kept\n")
        return self._events


async def read_history(query: Callable[[], T]) -> T:
    """Return the result of `query`, which reads from the disk, without holding up the server."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, query)
    except PublishError as error:
        raise web.HTTPServiceUnavailable(text=f"{error}\n", headers={"Retry-After": "5"}) from error


_limit = whole_number(1, MAX_LIMIT)
_period = one_of({"hour": "hour", "day": "day"})
TIMES: Mapping[str, Callable[[str], Any]] = {"after": read_time, "before": read_time}
OBJECTS: Mapping[str, Callable[[str], Any]] = {**TIMES, "label": str, "zone": str, "camera": str}
PAGE: Mapping[str, Callable[[str], Any]] = {"limit": _limit, "offset": whole_number(0, MAX_OFFSET)}
