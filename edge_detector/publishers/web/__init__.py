"""Live view in the browser."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from aiohttp import web

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import EventHistory, Recordings
from edge_detector.publishers.web.hub import FrameHub
from edge_detector.publishers.web.routes import MAX_VIEWERS, STALL_S, Pages, Site, is_loopback
from edge_detector.runtime.metrics import ServiceStatus

logger = logging.getLogger(__name__)

JPEG_QUALITY = 80
CLOSE_TIMEOUT_S = 1.0
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
    `events` is the history that `/api/events`, `/api/counts` and `/api/alerts` answer from, `recordings` are the clips.

    Raises:
        PublishError: the address cannot be listened on.
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
        host: str = "127.0.0.1",
        port: int = 8080,
        max_viewers: int = MAX_VIEWERS,
        stall_s: float = STALL_S,
    ) -> None:
        self._socket = _listen(host, port)
        self.url = _url(host, self._socket.getsockname()[1])
        self.name = self.url
        self._overlay = overlay
        self._loopback_only = is_loopback(host)
        self._ready: Future[tuple[asyncio.AbstractEventLoop, Mapping[str, FrameHub], Pages]] = Future()
        self._stop = asyncio.Event()
        self._closed = False
        site = Site(tuple(cameras), labels, model_name, max_viewers, stall_s, status, set_detecting, events, recordings)
        self._thread = threading.Thread(target=self._run, args=(site,), name="web server", daemon=True)
        self._thread.start()
        self._loop, self._hubs, self._pages = self._ready.result()
        if not self._loopback_only:
            logger.warning("%s can be opened by anybody on the network", self.url)

    @property
    def wants_image(self) -> bool:
        """Whether somebody watches the stream."""
        return self._pages.viewers > 0

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
        self._loop.call_soon_threadsafe(self._hubs[result.camera].announce, result)

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
        with ThreadPoolExecutor(1, thread_name_prefix="encode") as executor:
            hubs = {camera: FrameHub(self._draw_jpeg, executor) for camera in site.cameras}
            pages = Pages(hubs, site)
            app = pages.application(loopback_only=self._loopback_only)
            # Handlers are cancelled when their client goes, so that no viewer is counted who has left.
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
            await runner.setup()
            await web.SockSite(runner, self._socket).start()
            self._ready.set_result((asyncio.get_running_loop(), hubs, pages))
            await self._stop.wait()
            for hub in hubs.values():
                hub.close()
            await runner.cleanup()

    def _draw_jpeg(self, result: FrameResult) -> bytes:
        return encode_jpeg(self._overlay.draw(result), JPEG_QUALITY)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, str(error))
        raise PublishError(f"cannot serve the page on port {port} of {host}: {remedy}") from error


def _url(host: str, port: int) -> str:
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
