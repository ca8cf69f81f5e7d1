"""What clients send, checked: query parameters and JSON bodies."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from aiohttp import web

T = TypeVar("T")

BODY_S = 10.0  # in which a body must have come


def read_parameters(request: web.Request, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Return the request's parameters, read by the reader of each; a reader's ValueError says what to give.

    Raises:
        web.HTTPBadRequest: one is unknown or wrong.
    """
    wanted = {}
    for name, text in request.query.items():
        if name not in readers:
            raise web.HTTPBadRequest(text=f"unknown parameter {name!r}; there are: {', '.join(readers)}\n")
        try:
            wanted[name] = readers[name](text)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{name} is {text!r}; give {error}\n") from error
    return wanted


async def read_json(request: web.Request) -> dict[str, Any]:
    """Return the object in a body of JSON.

    Raises:
        web.HTTPException: it is none, or did not come in time.
    """
    if request.content_type != "application/json":  # which no other site can make a browser send unasked
        raise web.HTTPUnsupportedMediaType(text="send application/json\n")
    try:
        document = await asyncio.wait_for(request.json(), BODY_S)
    except asyncio.TimeoutError as error:
        raise web.HTTPRequestTimeout(text="the body did not come in time\n") from error
    except (ValueError, LookupError, RecursionError) as error:  # of another encoding, or nested too deeply
        raise web.HTTPBadRequest(text="this is no JSON\n") from error
    if not isinstance(document, dict):
        raise web.HTTPBadRequest(text="send an object of JSON\n")
    return document


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


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > len(str(high)) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a reader of numbers from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return value

    return read


def one_of(values: Mapping[str, T]) -> Callable[[str], T]:
    """Return a reader of the keys of `values`, which gives the values."""

    def read(text: str) -> T:
        if text not in values:
            raise ValueError(" or ".join(values))
        return values[text]

    return read


flag = one_of({"true": True, "false": False})
