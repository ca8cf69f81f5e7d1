"""The history of events over HTTP: objects, their pictures, counts and alerts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from aiohttp import web

from edge_detector.errors import PublishError
from edge_detector.publishers import EventHistory

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
        events, wanted = self._history(), _parameters(request, {**OBJECTS, **PAGE, "ended": _flag})
        return web.json_response(await _answer(lambda: events.list_events(**wanted)))

    async def event(self, request: web.Request) -> web.Response:
        """One object."""
        events, object_id = self._history(), request.match_info["id"]
        found = await _answer(lambda: events.event(object_id))
        if found is None:
            raise web.HTTPNotFound(text="no such event\n")
        return web.json_response(found)

    async def snapshot(self, request: web.Request) -> web.Response:
        """The best picture of one object."""
        events, object_id = self._history(), request.match_info["id"]
        jpeg = await _answer(lambda: events.snapshot(object_id))
        if jpeg is None:
            raise web.HTTPNotFound(text="no such event, or it has no picture\n")
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def counts(self, request: web.Request) -> web.Response:
        """How many objects came by hour or day."""
        events, wanted = self._history(), _parameters(request, {**OBJECTS, "by": _period})
        return web.json_response(await _answer(lambda: events.counts(**wanted)))

    async def list_alerts(self, request: web.Request) -> web.Response:
        """Alerts, newest first."""
        events, wanted = self._history(), _parameters(request, {**TIMES, "rule": str, "limit": _limit})
        return web.json_response(await _answer(lambda: events.list_alerts(**wanted)))

    def _history(self) -> EventHistory:
        if self._events is None:
            raise web.HTTPNotFound(text="events are not kept\n")
        return self._events


async def _answer(query: Callable[[], T]) -> T:
    """Return the result of `query`, which reads from the disk, without holding up the server."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, query)
    except PublishError as error:
        raise web.HTTPServiceUnavailable(text=f"{error}\n", headers={"Retry-After": "5"}) from error


def _parameters(request: web.Request, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Return the request's parameters, read by the reader of each; a reader's ValueError says what to give."""
    wanted = {}
    for name, text in request.query.items():
        if name not in readers:
            raise web.HTTPBadRequest(text=f"unknown parameter {name!r}; there are: {', '.join(readers)}\n")
        try:
            wanted[name] = readers[name](text)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{name} is {text!r}; give {error}\n") from error
    return wanted


def read_time(text: str) -> float:
    """Return seconds since the epoch of these themselves, or of ISO 8601, which is local time if it has no offset.

    Raises:
        ValueError: it is neither; the message says what to give.
    """
    # A + that was not escaped has become a space; Python 3.10 does not know Z.
    for reader in (float, _iso_time, lambda iso: _iso_time("+".join(iso.rsplit(" ", 1)))):
        try:
            ts = reader(text)
        except (ValueError, OverflowError):
            continue
        if math.isfinite(ts):
            return ts
    raise ValueError("seconds since 1970 or a time like 2024-05-17T08:30:00+02:00")


def _iso_time(text: str) -> float:
    return datetime.fromisoformat(text.upper().replace("Z", "+00:00")).timestamp()


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > len(str(high)) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def _one_of(values: Mapping[str, T]) -> Callable[[str], T]:
    def read(text: str) -> T:
        if text not in values:
            raise ValueError(" or ".join(values))
        return values[text]

    return read


_limit = _whole_number(1, MAX_LIMIT)
_flag = _one_of({"true": True, "false": False})
_period = _one_of({"hour": "hour", "day": "day"})
TIMES: Mapping[str, Callable[[str], Any]] = {"after": read_time, "before": read_time}
OBJECTS: Mapping[str, Callable[[str], Any]] = {**TIMES, "label": str, "zone": str, "camera": str}
PAGE: Mapping[str, Callable[[str], Any]] = {"limit": _limit, "offset": _whole_number(0, MAX_OFFSET)}
