"""The pages, and what the service tells and is told over HTTP."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from edge_detector import __version__
from edge_detector.overlay import color_of
from edge_detector.publishers.schema import to_json
from edge_detector.publishers.web.access import Access
from edge_detector.publishers.web.clip_routes import ClipPages
from edge_detector.publishers.web.event_routes import EventPages
from edge_detector.publishers.web.live import LOOK, LivePages, look_of
from edge_detector.publishers.web.parameters import read_json, read_parameters
from edge_detector.publishers.web.readiness import faults
from edge_detector.publishers.web.site import Site
from edge_detector.publishers.web.whep import WhepPages

STATIC = Path(__file__).parent / "static"
OPENAPI = Path(__file__).parent / "openapi.yaml"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_BODY_BYTES = 16 * 1024
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Pages:
    """Request handlers; those of what is live are in `live`."""

    def __init__(self, site: Site, access: Access) -> None:
        self.live = LivePages(site)
        self.whep = WhepPages(site.videos, self.live, site.max_viewers)
        self._site = site
        self._access = access

    def application(self, on_response: Callable[[web.Request, web.StreamResponse], Awaitable[None]]) -> web.Application:
        """Return the routes; `on_response` is called before each answer."""
        app = web.Application(middlewares=self._access.middlewares, client_max_size=MAX_BODY_BYTES)
        app.on_response_prepare.extend((_add_headers, on_response))
        router = app.router
        router.add_get("/", self.index)
        router.add_get("/login", self.login_page)
        router.add_post("/login", self._access.log_in)
        router.add_post("/logout", self._access.log_out)
        router.add_get("/snapshot.jpg", self.snapshot)
        router.add_get("/api/detections", self.detections)
        router.add_get("/api/labels", self.label_colors)
        router.add_get("/api/status", self.status)
        router.add_get("/api/config", self.config)
        router.add_post("/api/control", self.control)
        router.add_get("/openapi.json", self.openapi)
        router.add_get("/metrics", self.metrics)
        router.add_get("/healthz", self.health)
        router.add_get("/readyz", self.readiness)
        self.live.add_to(router)
        self.whep.add_to(router)
        EventPages(self._site.events).add_to(router)
        ClipPages(self._site.recordings).add_to(router)
        router.add_get("/static/{name}", self.static)
        return app

    async def index(self, _: web.Request) -> web.Response:
        """The page."""
        return _part("index.html")

    async def static(self, request: web.Request) -> web.Response:
        """What the pages are made of."""
        return _part(request.match_info["name"])

    async def login_page(self, _: web.Request) -> web.Response:
        """The page that asks for user and password."""
        return _part("login.html")

    async def openapi(self, _: web.Request) -> web.Response:
        """The description of all this."""
        return web.json_response(describe())

    async def health(self, _: web.Request) -> web.Response:
        """Whether the process is alive."""
        return web.Response(text="ok\n")

    async def readiness(self, _: web.Request) -> web.Response:
        """Whether all cameras give pictures and these are searched; else what is wrong, a line each."""
        site = self._site
        found = faults(site, None if site.status is None else site.status())
        if found:
            raise web.HTTPServiceUnavailable(text="".join(f"{line}\n" for line in found))
        return web.Response(text="ok\n")

    async def detections(self, request: web.Request) -> web.Response:
        """The newest result, schema 1."""
        result = self._site.hub_of(request).result
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
        hub, site = self._site.hub_of(request), self._site
        result = hub.result
        return web.json_response(
            {
                "camera": site.camera_of(request),
                "cameras": site.cameras,
                "fps": {} if result is None else {name: round(fps, 2) for name, fps in result.fps.items()},
                "silent_s": None if result is None else round(hub.silent_s, 3),
                "viewers": self.live.viewers,
                "max_viewers": site.max_viewers,
                "sockets": self.live.sockets,
                "encoded": sum(hub.encoded for hub in site.hubs.values()),
                "service": None if site.status is None else site.status().to_json(),
            }
        )

    async def config(self, _: web.Request) -> web.Response:
        """The settings, without what is secret in them."""
        return web.json_response(self._site.settings)

    async def control(self, request: web.Request) -> web.Response:
        """Pause or resume detection: `{"camera": NAME, "detect": true}`; without a name, of the first camera."""
        site, wanted = self._site, await read_json(request)
        if site.set_detecting is None:
            raise web.HTTPNotFound(text="detection of a file cannot be paused\n")
        camera, detect = wanted.pop("camera", site.cameras[0]), wanted.pop("detect", None)
        if wanted or not isinstance(camera, str) or not isinstance(detect, bool):
            raise web.HTTPBadRequest(text='send {"camera": NAME, "detect": true or false}\n')
        if camera not in site.hubs:
            raise web.HTTPNotFound(text=f"no such camera; there are: {', '.join(site.cameras)}\n")
        site.set_detecting(camera, detect)
        return web.json_response({"camera": camera, "detect": detect})

    async def metrics(self, _: web.Request) -> web.Response:
        """All figures for Prometheus."""
        # Takes as long to import as a start may not wait for.
        from edge_detector.publishers.web.prometheus import PROMETHEUS_TYPE, ServerStatus, to_prometheus

        if self._site.status is None:
            raise web.HTTPNotFound(text="a file has no metrics\n")
        site, status = self._site, self._site.status()
        server = ServerStatus(
            ready=not faults(site, status),
            viewers=self.live.viewers,
            sockets=self.live.sockets,
            dropped={"viewers": self.live.missed, "webrtc": self.whep.dropped},
            encoded={camera: hub.encoded for camera, hub in site.hubs.items()},
            stages={camera: hub.stages.histograms for camera, hub in site.hubs.items()},
        )
        text = to_prometheus(status, server)
        return web.Response(body=text, headers={"Content-Type": PROMETHEUS_TYPE})

    async def snapshot(self, request: web.Request) -> web.Response:
        """The newest picture with its boxes."""
        look, hub = look_of(read_parameters(request, LOOK)), self._site.hub_of(request)
        if hub.result is None:
            raise web.HTTPServiceUnavailable(text="no frame yet\n", headers={"Retry-After": "1"})
        picture = await hub.picture(look=look)
        return web.Response(body=picture.jpeg, content_type="image/jpeg")


@cache
def _parts() -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in STATIC.iterdir()}


def _part(name: str) -> web.Response:
    if name not in _parts():
        raise web.HTTPNotFound(text="no such file\n")
    return web.Response(body=_parts()[name], content_type=KINDS[Path(name).suffix], charset="utf-8")


@cache
def describe() -> Mapping[str, Any]:
    """Return the OpenAPI description of the routes."""
    document: dict[str, Any] = yaml.safe_load(OPENAPI.read_text(encoding="utf-8"))
    document["info"]["version"] = __version__
    return document


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    # Older Safari does not count WebSockets to the same server as 'self'.
    host = request.headers.get("Host", "")
    if re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", host):
        response.headers["Content-Security-Policy"] += f"; connect-src 'self' ws://{host} wss://{host}"
    response.headers["Cache-Control"] = "no-cache" if request.path.startswith("/static") else "no-store"
