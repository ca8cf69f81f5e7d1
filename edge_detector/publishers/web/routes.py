"""The pages and streams that the server answers with."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from edge_detector.overlay import color_of
from edge_detector.publishers import EventHistory, Recordings
from edge_detector.publishers.schema import to_json
from edge_detector.publishers.web.event_routes import EventPages
from edge_detector.publishers.web.hub import FrameHub, HubClosed
from edge_detector.publishers.web.prometheus import PROMETHEUS_TYPE, to_prometheus
from edge_detector.runtime.metrics import ServiceStatus

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


@dataclass(frozen=True, slots=True)
class Site:
    """What the pages are about, and their limits; see `WebPublisher`."""

    cameras: tuple[str, ...]
    labels: Sequence[str]
    model_name: str
    max_viewers: int
    stall_s: float
    status: Callable[[], ServiceStatus] | None
    set_detecting: Callable[[str, bool], None] | None
    events: EventHistory | None
    recordings: Recordings | None = None


class Pages:
    """Request handlers over a `FrameHub` per camera; `viewers` counts open streams.

    `?camera=NAME` chooses the camera; without it, it is the first.
    """

    def __init__(self, hubs: Mapping[str, FrameHub], site: Site) -> None:
        self.viewers = 0
        self._hubs = hubs
        self._site = site

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
        app.router.add_post("/api/detect", self.detect)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/healthz", self.health)
        EventPages(self._site.events).add_to(app.router)
        app.router.add_static("/static", STATIC)
        return app

    async def index(self, _: web.Request) -> web.FileResponse:
        """The page."""
        return web.FileResponse(STATIC / "index.html")

    async def health(self, _: web.Request) -> web.Response:
        """Whether the process is alive."""
        return web.Response(text="ok\n")

    async def detections(self, request: web.Request) -> web.Response:
        """The newest result, schema 1."""
        result = self._hub(request).result
        if result is None:
            raise web.HTTPServiceUnavailable(text="no frame yet\n", headers={"Retry-After": "1"})
        return web.json_response(text=to_json(result, self._site.labels, self._site.model_name))

    async def label_colors(self, _: web.Request) -> web.Response:
        """The model's labels by class_id, and the colour in which the overlay draws each."""
        colors = ("#{:02x}{:02x}{:02x}".format(*color_of(class_id)) for class_id in range(len(self._site.labels)))
        rows = zip(self._site.labels, colors, strict=True)
        return web.json_response([{"label": label, "color": color} for label, color in rows])

    async def status(self, request: web.Request) -> web.Response:
        """How the chosen camera and the server are, and in "service" all that the service tells about itself."""
        hub, site = self._hub(request), self._site
        result = hub.result
        return web.json_response(
            {
                "camera": self._camera(request),
                "cameras": site.cameras,
                "fps": {} if result is None else {name: round(fps, 2) for name, fps in result.fps.items()},
                "silent_s": None if result is None else round(hub.silent_s, 3),
                "viewers": self.viewers,
                "max_viewers": site.max_viewers,
                "encoded": sum(hub.encoded for hub in self._hubs.values()),
                "service": None if site.status is None else site.status().to_json(),
            }
        )

    async def detect(self, request: web.Request) -> web.Response:
        """Pause or resume detection: `{"camera": NAME, "on": true}`, the name may be left out."""
        if self._site.set_detecting is None:
            raise web.HTTPNotFound(text="detection of a file cannot be paused\n")
        if request.content_type != "application/json":  # which no other site can make a browser send unasked
            raise web.HTTPUnsupportedMediaType(text="send application/json\n")
        try:
            wanted = await request.json()
            camera, on = wanted.get("camera", self._site.cameras[0]), wanted["on"]
        except (ValueError, AttributeError, KeyError):
            wanted, camera, on = None, None, None
        if camera not in self._hubs or not isinstance(on, bool):
            raise web.HTTPBadRequest(text='send {"camera": NAME, "on": true or false}\n')
        self._site.set_detecting(camera, on)
        return web.json_response({"camera": camera, "on": on})

    async def metrics(self, _: web.Request) -> web.Response:
        """All figures for Prometheus."""
        if self._site.status is None:
            raise web.HTTPNotFound(text="a file has no metrics\n")
        text = to_prometheus(self._site.status(), self.viewers)
        return web.Response(body=text, headers={"Content-Type": PROMETHEUS_TYPE})

    async def snapshot(self, request: web.Request) -> web.Response:
        """The newest picture with its boxes."""
        hub = self._hub(request)
        if hub.result is None:
            raise web.HTTPServiceUnavailable(text="no frame yet\n", headers={"Retry-After": "1"})
        picture = await hub.picture()
        return web.Response(body=picture.jpeg, content_type="image/jpeg")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The live picture as multipart JPEG: each viewer gets the newest when it has taken the last."""
        if self.viewers >= self._site.max_viewers:
            raise web.HTTPServiceUnavailable(
                text=f"all {self._site.max_viewers} places are taken, try again later\n", headers={"Retry-After": "5"}
            )
        hub = self._hub(request)
        self.viewers += 1
        try:
            return await self._send_pictures(request, hub)
        finally:
            self.viewers -= 1

    def _camera(self, request: web.Request) -> str:
        return request.query.get("camera", self._site.cameras[0])

    def _hub(self, request: web.Request) -> FrameHub:
        name = self._camera(request)
        if name not in self._hubs:
            raise web.HTTPNotFound(text=f"no such camera; there are: {', '.join(self._hubs)}\n")
        return self._hubs[name]

    async def _send_pictures(self, request: web.Request, hub: FrameHub) -> web.StreamResponse:
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
                picture = await hub.picture(after=serial)
                serial = picture.serial
                await asyncio.wait_for(response.write(picture.jpeg + b"\r\n" + PART_HEAD), self._site.stall_s)
        except asyncio.TimeoutError:
            logger.info("viewer %s took nothing for %g s and is dropped", request.remote, self._site.stall_s)
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
