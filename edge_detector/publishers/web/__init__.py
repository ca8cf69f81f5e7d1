"""Live view in the browser."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from aiohttp import web

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import EventHistory, Recordings
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.web.access import Access
from edge_detector.publishers.web.certificate import Certificate
from edge_detector.publishers.web.guard import Guard, Mistakes
from edge_detector.publishers.web.hub import FrameHub, Look
from edge_detector.publishers.web.routes import Pages
from edge_detector.publishers.web.site import Site
from edge_detector.resize import resize
from edge_detector.runtime.metrics import ServiceStatus
from edge_detector.web_config import WebConfig, is_loopback

logger = logging.getLogger(__name__)

JPEG_QUALITY = 80
CLOSE_TIMEOUT_S = 1.0
STALL_S = 10.0  # a viewer who takes no byte for so long is dropped
KEEPALIVE_S = 15.0
DEFAULTS = WebConfig()
REMEDIES = {
    errno.EADDRINUSE: "it is in use; stop the other program or choose another port",
    errno.EACCES: "it needs root rights; choose a port from 1024 up",
    errno.EADDRNOTAVAIL: "this machine has no such address; use 127.0.0.1, or 0.0.0.0 for all networks",
}


class WebPublisher:
    """A web server with the live annotated picture, on an event loop and thread of its own.

    Pictures are drawn and encoded once for all viewers and only while somebody watches; a viewer who is slower than
    the camera skips pictures, one who takes none for `stall_s` seconds is dropped. Port 0 takes any free port; `url`
    says where the page is. Results of several cameras are told apart by `FrameResult.camera`. `status` tells how the
    service is and `set_detecting(camera, on)` pauses and resumes detection; without them the page shows less.
    `events` is the history that `/api/events`, `/api/counts` and `/api/alerts` answer from, `recordings` are the
    clips. `videos` by camera are what `/whep` gives by WebRTC; without any it answers 404. `access` says who may come,
    `settings` is what `/api/config` shows.

    Raises:
        PublishError: the address cannot be listened on, or the certificate cannot be used.
    """

    def __init__(
        self,
        overlay: OverlayRenderer,
        labels: Sequence[str],
        model_name: str,
        *,
        cameras: Sequence[str] = ("camera",),
        status: Callable[[], ServiceStatus] | None = None,
        set_detecting: Callable[[str, bool], None] | None = None,
        events: EventHistory | None = None,
        recordings: Recordings | None = None,
        access: WebConfig = DEFAULTS,
        settings: Mapping[str, Any] | None = None,
        videos: Mapping[str, LiveVideo] | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        stall_s: float = STALL_S,
    ) -> None:
        self._tls = Certificate(access) if access.tls_cert is not None else None
        self._socket = _listen(host, port)
        self._host, self._port = host, self._socket.getsockname()[1]
        self.url = _url(host, self._port, "http" if self._tls is None else "https")
        self.name = self.url
        self._overlay = overlay
        self._access = access
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="encode")
        hubs = {camera: FrameHub(self._draw_jpeg, self._executor) for camera in cameras}
        site = Site(
            hubs,
            labels,
            model_name,
            access.max_viewers,
            stall_s,
            status,
            set_detecting,
            events,
            settings or {},
            videos or {},
            recordings,
        )
        self._hubs, self._site = hubs, site
        self._ready: Future[tuple[asyncio.AbstractEventLoop, Pages]] = Future()
        self._stop = asyncio.Event()
        self.beat_s = time.monotonic()
        self._closed = False
        self._thread = threading.Thread(target=self._run, args=(site,), name="web server", daemon=True)
        self._thread.start()
        self._loop, self._pages = self._ready.result()
        if not is_loopback(host) and not access.is_guarded:
            logger.warning("%s can be opened by anybody on the network", self.url)

    @property
    def wants_image(self) -> bool:
        """Whether somebody watches the stream."""
        return self._pages.live.viewers > 0

    @property
    def encoded(self) -> int:
        """How many pictures have been encoded."""
        return sum(hub.encoded for hub in self._hubs.values())

    def publish(self, result: FrameResult) -> None:
        """Make `result` the newest of its camera; returns at once.

        Raises:
            PublishError: the publisher is closed or its thread has died.
        """
        if self._closed or not self._thread.is_alive():
            raise PublishError(f"the web server at {self.url} has stopped")
        self._hubs[result.camera].announce(result)

    def show(self, model_name: str, settings: Mapping[str, Any]) -> None:
        """Show this model and these settings from now on; from any thread."""
        self._site.model_name, self._site.settings = model_name, settings

    def close(self) -> None:
        """Send all viewers away and free the port."""
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_TIMEOUT_S)
        self._socket.close()

    def _run(self, site: Site) -> None:
        try:
            asyncio.run(self._serve(site))
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self, site: Site) -> None:
        access = Access(self._access, self._host, self._port)
        pages = Pages(site, access)
        # Handlers are cancelled when their client goes, so that no viewer is counted who has left.
        guard = Guard(lambda: cast("web.Server", runner.server)(), None if self._tls is None else self._tls.context)
        runner = web.AppRunner(
            pages.application(guard.note),
            access_log=None,
            logger=_server_logger(),
            handler_cancellation=True,
            shutdown_timeout=0.5,
            keepalive_timeout=KEEPALIVE_S,
            auto_decompress=False,  # a small body could become a large one
        )
        await runner.setup()
        self._ready.set_result((asyncio.get_running_loop(), pages))
        work = [
            self._stop.wait(),
            self._beat(),
            guard.accept(self._socket),
            *([] if self._tls is None else [self._tls.renew()]),
        ]
        working = [asyncio.create_task(one) for one in work]
        ended, going_on = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        for task in going_on:
            task.cancel()
        for hub in site.hubs.values():
            hub.close()
        await pages.whep.close()
        await runner.cleanup()
        access.close()
        self._executor.shutdown()
        for task in ended:
            task.result()  # raises what ended it

    async def _beat(self) -> None:
        while True:
            self.beat_s = time.monotonic()
            await asyncio.sleep(1)

    def _draw_jpeg(self, result: FrameResult, look: Look) -> bytes:
        started_s, stages = time.perf_counter(), self._hubs[result.camera].stages
        image = self._overlay.draw(result) if look.boxes else result.frame.image
        drawn_s = time.perf_counter()
        jpeg = encode_jpeg(_narrowed(image, look.width), JPEG_QUALITY)
        if look.boxes:
            stages.add("overlay", drawn_s - started_s)
        stages.add("encode", time.perf_counter() - drawn_s)
        return jpeg


def _server_logger() -> logging.Logger:
    """Return aiohttp's logger of errors, without those that are the clients'."""
    named = logging.getLogger(f"{__name__}.server")
    if not named.filters:
        named.addFilter(Mistakes())
    return named


def _narrowed(image: npt.NDArray[np.uint8], width: int | None) -> npt.NDArray[np.uint8]:
    if width is None or image.shape[1] <= width:
        return image
    size_wh = width, max(1, round(image.shape[0] * width / image.shape[1]))
    return resize(image, size_wh)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, str(error))
        raise PublishError(f"cannot serve the page on port {port} of {host}: {remedy}") from error


def _url(host: str, port: int, scheme: str) -> str:
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    return f"{scheme}://[{shown}]:{port}/" if ":" in shown else f"{scheme}://{shown}:{port}/"
