"""The pages and streams that the server answers with."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web

from edge_detector.overlay import color_of
from edge_detector.publishers.schema import to_json
from edge_detector.publishers.web.hub import FrameHub, HubClosed

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
MAX_VIEWERS = 8
STALL_S = 10.0  # a viewer who takes no byte for so long is dropped
SEND_BUFFER_BYTES = 256 * 1024  # in the kernel, per viewer: more would be seconds of old pictures on a slow line
BOUNDARY = "edge-detector-frame"
# Chromium shows a picture when it has read the head of the next one: so that goes out at once after each picture, and
# can't carry a length.
PART_HEAD = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
HEADERS = {
    "Content-Security-Policy": "default-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pages:
    """Request handlers over one `FrameHub`; `viewers` counts open streams."""

    def __init__(
        self, hub: FrameHub, labels: Sequence[str], model_name: str, *, max_viewers: int, stall_s: float
    ) -> None:
        self.viewers = 0
        self._hub = hub
        self._labels = labels
        self._model_name = model_name
        self._max_viewers = max_viewers
        self._stall_s = stall_s

    def application(self, *, loopback_only: bool) -> web.Application:
        """Return the routes; with `loopback_only`, requests for foreign host names are refused."""
        app = web.Application(middlewares=[_refuse_foreign_hosts] if loopback_only else [])
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/", self.index)
        app.router.add_get("/stream.mjpg", self.stream)
        app.router.add_get("/snapshot.jpg", self.snapshot)
        app.router.add_get("/api/detections", self.detections)
        app.router.add_get("/api/labels", self.label_colors)
        app.router.add_get("/api/status", self.status)
        app.router.add_get("/healthz", self.health)
        app.router.add_static("/static", STATIC)
        return app

    async def index(self, _: web.Request) -> web.FileResponse:
        """The page."""
        return web.FileResponse(STATIC / "index.html")

    async def health(self, _: web.Request) -> web.Response:
        """Whether the process is alive."""
        return web.Response(text="ok\n")

    async def detections(self, _: web.Request) -> web.Response:
        """The newest result, schema 1."""
        if self._hub.result is None:
            raise web.HTTPServiceUnavailable(text="no frame yet\n", headers={"Retry-After": "1"})
        return web.json_response(text=to_json(self._hub.result, self._labels, self._model_name))

    async def label_colors(self, _: web.Request) -> web.Response:
        """The model's labels by class_id, and the colour in which the overlay draws each."""
        colors = ("#{:02x}{:02x}{:02x}".format(*color_of(class_id)) for class_id in range(len(self._labels)))
        rows = zip(self._labels, colors, strict=True)
        return web.json_response([{"label": label, "color": color} for label, color in rows])

    async def status(self, _: web.Request) -> web.Response:
        """Rates, seconds since the last frame, and what the server is doing."""
        result = self._hub.result
        return web.json_response(
            {
                "fps": {} if result is None else {name: round(fps, 2) for name, fps in result.fps.items()},
                "silent_s": None if result is None else round(self._hub.silent_s, 3),
                "viewers": self.viewers,
                "max_viewers": self._max_viewers,
                "encoded": self._hub.encoded,
            }
        )

    async def snapshot(self, _: web.Request) -> web.Response:
        """The newest picture with its boxes."""
        if self._hub.result is None:
            raise web.HTTPServiceUnavailable(text="no frame yet\n", headers={"Retry-After": "1"})
        picture = await self._hub.picture()
        return web.Response(body=picture.jpeg, content_type="image/jpeg")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The live picture as multipart JPEG: each viewer gets the newest when it has taken the last."""
        if self.viewers >= self._max_viewers:
            raise web.HTTPServiceUnavailable(
                text=f"all {self._max_viewers} places are taken, try again later\n", headers={"Retry-After": "5"}
            )
        self.viewers += 1
        try:
            return await self._send_pictures(request)
        finally:
            self.viewers -= 1

    async def _send_pictures(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": f"multipart/x-mixed-replace; boundary={BOUNDARY}"})
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        transport.set_write_buffer_limits(high=0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            await response.write(PART_HEAD)
            serial = 0
            while True:
                picture = await self._hub.picture(after=serial)
                serial = picture.serial
                await asyncio.wait_for(response.write(picture.jpeg + b"\r\n" + PART_HEAD), self._stall_s)
        except asyncio.TimeoutError:
            logger.info("viewer %s took nothing for %g s and is dropped", request.remote, self._stall_s)
            transport.abort()
        except (HubClosed, ConnectionError):
            pass
        return response


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers["Cache-Control"] = "no-cache" if request.path.startswith("/static") else "no-store"


@web.middleware
async def _refuse_foreign_hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer only requests made to this machine by name or number: a defence against DNS rebinding."""
    if not is_loopback(request.url.host or ""):
        raise web.HTTPMisdirectedRequest(text="open this page as http://localhost\n")
    return await handler(request)


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address or the name of one."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
