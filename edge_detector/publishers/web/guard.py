"""Guard: keeps clients who are many, slow or silent from using the server up."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

MAX_CONNECTIONS = 200
MAX_OF_ONE = 60  # of one address on the network
FIRST_REQUEST_S = 10.0  # in which a new connection must have sent a request
HANDSHAKE_S = 5.0  # of TLS
UNTAKEN_S = 20.0  # sent bytes that are not taken for so long end a connection
_NO_FILES_S = 0.5  # until connections are accepted again when there was no file descriptor left
THEIRS = (HttpProcessingError, web.RequestPayloadError, web.HTTPException, ConnectionError)


class Guard:
    """Accepts a server's connections, at most `max_connections`, of one address `max_of_one`; closes what is beyond.

    A connection that has sent no whole request after `first_request_s` seconds is closed, too, of which its handshake
    takes a part. `note` has to be called
    for each response.

    Attributes:
        refused: connections that were one too many.
    """

    def __init__(
        self,
        server: Callable[[], RequestHandler],
        tls: ssl.SSLContext | None = None,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_of_one: int = MAX_OF_ONE,
        first_request_s: float = FIRST_REQUEST_S,
    ) -> None:
        self.refused = 0
        self._server = server
        self._tls = tls
        self._max_connections = max_connections
        self._max_of_one = max_of_one
        self._first_request_s = first_request_s
        self._opening: dict[asyncio.Task[None], str] = {}  # with their addresses
        self._open: dict[RequestHandler, str] = {}
        self._silent: dict[RequestHandler, asyncio.TimerHandle] = {}

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        limit_untaken(listener)
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(_NO_FILES_S)
                continue
            if self._is_full(address[0]):
                self.refused += 1
                connection.close()
            else:
                opening = asyncio.create_task(self._open_connection(connection, address[0]))
                self._opening[opening] = address[0]
                opening.add_done_callback(self._opening.pop)

    async def note(self, request: web.Request, _: web.StreamResponse) -> None:
        """Take note that a connection has sent a request."""
        timer = self._silent.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()

    def _is_full(self, address: str) -> bool:
        self._open = {one: at for one, at in self._open.items() if one.transport is not None}
        addresses = [*self._open.values(), *self._opening.values()]
        own = ipaddress.ip_address(address.partition("%")[0]).is_loopback  # which may be a proxy's, for many
        return len(addresses) >= self._max_connections or (not own and addresses.count(address) >= self._max_of_one)

    async def _open_connection(self, connection: socket.socket, address: str) -> None:
        handler, loop = self._server(), asyncio.get_running_loop()
        # Before it can send, so that its first request finds it.
        self._silent[handler] = loop.call_later(self._first_request_s, self._end_if_silent, handler)
        handshake_s = None if self._tls is None else HANDSHAKE_S
        try:
            await loop.connect_accepted_socket(
                lambda: handler, connection, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )
        except (OSError, asyncio.TimeoutError):
            connection.close()
        else:
            self._open[handler] = address

    def _end_if_silent(self, handler: RequestHandler) -> None:
        self._silent.pop(handler, None)
        if handler.transport is not None:
            handler.transport.abort()


class Mistakes(logging.Filter):
    """Keeps what clients do wrong out of a server's log, which anybody could fill with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is of something else."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, THEIRS)


def limit_untaken(listener: socket.socket) -> None:
    """Have the kernel end connections, accepted from now on, whose other side takes nothing for `UNTAKEN_S`."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNTAKEN_S * 1000))
