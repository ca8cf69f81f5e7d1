"""What is live: pictures as multipart JPEG, results and pictures over a WebSocket."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from edge_detector.frame import FrameResult
from edge_detector.publishers.schema import to_json
from edge_detector.publishers.web.hub import HubClosed, Look
from edge_detector.publishers.web.parameters import flag, number, read_parameters, whole_number
from edge_detector.publishers.web.site import Site

logger = logging.getLogger(__name__)

SEND_BUFFER_BYTES = 256 * 1024  # in the kernel, per viewer: more would be seconds of old pictures on a slow line
MAX_SOCKETS = 64
HEARTBEAT_S = 15.0
BOUNDARY = "edge-detector-frame"
# Chromium shows a picture when it has read the head of the next one: so that goes out at once after each picture, and
# can't carry a length.
PART_HEAD = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
FPS = number(0.1, 100)
LOOK: Mapping[str, Callable[[str], Any]] = {"camera": str, "width": whole_number(16, 16384), "boxes": flag}


class LivePages:
    """Request handlers of streams; `viewers` counts those that get pictures, `sockets` the WebSockets.

    `missed` counts pictures and results that viewers were too slow for; not of those who asked for fewer.
    """

    def __init__(self, site: Site) -> None:
        self.viewers = 0
        self.sockets = 0
        self.missed = 0
        self._site = site
        self._told: dict[str, tuple[int, str]] = {}  # the newest JSON of each camera, with its serial

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/stream.mjpg", self.stream, allow_head=False)
        router.add_get("/ws", self.socket, allow_head=False)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The live picture as multipart JPEG: each viewer gets the newest when it has taken the last."""
        wanted = read_parameters(request, {**LOOK, "fps": FPS, "t": str})
        hub, pause = self._site.hub_of(request), _Pause(wanted.pop("fps", None))
        look = look_of(wanted)
        with self._viewing():
            response = web.StreamResponse(headers={"Content-Type": f"multipart/x-mixed-replace; boundary={BOUNDARY}"})
            await response.prepare(request)
            transport = request.transport
            if transport is None:
                return response
            _send_at_once(transport)
            with _until_gone(request, transport):
                await response.write(PART_HEAD)
                serial = 0
                # Gone: asked for here too, as wait_for loses the cancellation that comes while its write ends.
                while not (hub.closed or transport.is_closing()):
                    picture = await hub.picture(serial, look)
                    serial = self._seen(serial, picture.serial, pause)
                    await asyncio.wait_for(response.write(picture.jpeg + b"\r\n" + PART_HEAD), self._site.stall_s)
                    await pause.wait()
            return response

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """Results as JSON of schema 1, each followed by its picture where `pictures=true`; who is slow misses some."""
        wanted = read_parameters(request, {**LOOK, "fps": FPS, "pictures": flag})
        camera, pause = self._site.camera_of(request), _Pause(wanted.pop("fps", None))
        pictures = wanted.pop("pictures", False)
        look = look_of({"boxes": False, **wanted})
        with self._listening(), self._viewing() if pictures else nullcontext():
            socket_ = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=1024, compress=False)
            await socket_.prepare(request)
            transport = request.transport
            if transport is None:  # it has gone already
                return socket_
            _send_at_once(transport)
            reading = asyncio.create_task(_read(socket_, asyncio.current_task()))
            try:
                with _until_gone(request, transport):
                    await self._send_results(socket_, camera, look if pictures else None, pause)
            except asyncio.CancelledError:
                if not reading.done():
                    raise
            finally:
                reading.cancel()
                await asyncio.wait((reading,))
            with suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(socket_.close(code=WSCloseCode.GOING_AWAY), 1.0)
            return socket_

    async def _send_results(
        self, socket_: web.WebSocketResponse, camera: str, look: Look | None, pause: _Pause
    ) -> None:
        hub, stall_s, serial = self._site.hubs[camera], self._site.stall_s, 0
        while not hub.closed:
            if look is None:
                newest, result = await hub.newest(serial)
                serial = self._seen(serial, newest, pause)
                await asyncio.wait_for(socket_.send_str(self._text(camera, serial, result)), stall_s)
            else:
                picture = await hub.picture(serial, look)
                serial = self._seen(serial, picture.serial, pause)
                await asyncio.wait_for(socket_.send_str(self._text(camera, serial, picture.result)), stall_s)
                await asyncio.wait_for(socket_.send_bytes(picture.jpeg), stall_s)
            await pause.wait()

    def _seen(self, last: int, serial: int, pause: _Pause) -> int:
        """Return the serial, and count those since the last that were missed."""
        if last and not pause.wanted:
            self.missed += max(0, serial - last - 1)
        return serial

    def _text(self, camera: str, serial: int, result: FrameResult) -> str:
        """Return the JSON of a result, made once for all sockets."""
        told, text = self._told.get(camera, (0, ""))
        if told != serial:
            text = to_json(result, self._site.labels, self._site.model_name)
            self._told[camera] = serial, text
        return text

    @contextmanager
    def _listening(self) -> Iterator[None]:
        if self.sockets >= MAX_SOCKETS:
            raise web.HTTPServiceUnavailable(text="too many WebSockets\n", headers={"Retry-After": "5"})
        self.sockets += 1
        try:
            yield
        finally:
            self.sockets -= 1

    @contextmanager
    def _viewing(self) -> Iterator[None]:
        if self.viewers >= self._site.max_viewers:
            text = f"all {self._site.max_viewers} places are taken, try again later\n"
            raise web.HTTPServiceUnavailable(text=text, headers={"Retry-After": "5"})
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1


class _Pause:
    """Waits so long that `fps` rounds per second are not exceeded; None: not at all."""

    def __init__(self, fps: float | None) -> None:
        self._period_s = 0.0 if fps is None else 1 / fps
        self._due_s = 0.0

    @property
    def wanted(self) -> bool:
        """Whether it waits at all."""
        return self._period_s > 0

    async def wait(self) -> None:
        if self._period_s:
            now_s = asyncio.get_running_loop().time()
            self._due_s = max(self._due_s + self._period_s, now_s)
            await asyncio.sleep(self._due_s - now_s)


def look_of(wanted: dict[str, Any]) -> Look:
    """Return the look that parameters ask for, which may have a camera, too."""
    return Look.of(**{name: value for name, value in wanted.items() if name in ("boxes", "width")})


def _send_at_once(transport: asyncio.Transport) -> None:
    transport.set_write_buffer_limits(high=0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


@contextmanager
def _until_gone(request: web.Request, transport: asyncio.Transport) -> Iterator[None]:
    """Leave the block when the viewer has gone, or the server stops; drop a viewer who takes nothing."""
    try:
        yield
    except asyncio.TimeoutError:
        logger.info("viewer %s took nothing for too long and is dropped", request.remote)
        transport.abort()
    except (HubClosed, ConnectionError):
        pass


async def _read(socket_: web.WebSocketResponse, sender: asyncio.Task[Any] | None) -> None:
    """Take what a client sends, which has no meaning, until it goes; then end the sender."""
    while (await socket_.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
        pass
    if sender is not None:
        sender.cancel()
