"""Guard: keeps clients who are many, slow or silent from using the server up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

MAX_CONNECTIONS = 200
FIRST_REQUEST_S = 10.0  # in which a new connection must have sent a request
UNTAKEN_S = 20.0  # sent bytes that are not taken for so long end a connection
_OPENS_S = 1.0  # after its protocol a connection has its transport


class Guard:
    """Makes the protocols of a server's connections, at most `max_connections`; what is beyond is closed at once.

    A connection that has sent no whole request after `first_request_s` seconds is closed, which older versions of
    aiohttp do not do. `note` has to be called for each response.

    Attributes:
        refused: connections that were one too many.
    """

    def __init__(
        self,
        server: Callable[[], RequestHandler],
        max_connections: int = MAX_CONNECTIONS,
        first_request_s: float = FIRST_REQUEST_S,
    ) -> None:
        self.refused = 0
        self._server = server
        self._max_connections = max_connections
        self._first_request_s = first_request_s
        self._made_s: dict[RequestHandler, float] = {}  # when, of all that are open
        self._silent: dict[RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        loop = asyncio.get_running_loop()
        old_s = loop.time() - _OPENS_S
        self._made_s = {one: at_s for one, at_s in self._made_s.items() if one.transport is not None or at_s > old_s}
        if len(self._made_s) >= self._max_connections:
            self.refused += 1
            return _Refusal()
        handler = self._server()
        self._made_s[handler] = loop.time()
        self._silent[handler] = loop.call_later(self._first_request_s, self._end_if_silent, handler)
        return handler

    async def note(self, request: web.Request, _: web.StreamResponse) -> None:
        """Take note that a connection has sent a request."""
        timer = self._silent.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()

    def _end_if_silent(self, handler: RequestHandler) -> None:
        self._silent.pop(handler, None)
        if handler.transport is not None:
            handler.transport.abort()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def limit_untaken(listener: socket.socket) -> None:
    """Have the kernel end connections, accepted from now on, whose other side takes nothing for `UNTAKEN_S`."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNTAKEN_S * 1000))
