"""Live video to browsers by WebRTC, as WHEP says (draft-ietf-wish-whep): an offer is posted, an answer comes back."""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from edge_detector.errors import ConfigError
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.web.parameters import BODY_S

if TYPE_CHECKING:
    from edge_detector.publishers.web.peer import Peer

logger = logging.getLogger(__name__)

MAX_OFFER_BYTES = 64 * 1024
SDP = "application/sdp"
_H264 = re.compile(r"^a=rtpmap:\d+ H264/90000\s*$", re.MULTILINE | re.IGNORECASE)
# aiortc takes offers without, and fails later.
_NEEDED = {
    "m=video ": "video",
    "a=ice-ufrag:": "ICE user",
    "a=ice-pwd:": "ICE password",
    "a=fingerprint:": "fingerprint",
}
# Sockets are opened for each medium, and packets sent to each candidate.
_AT_MOST = {"m=": 3, "a=candidate:": 64}
_CANDIDATE = re.compile(r"^(a=candidate:\S+ \d+ \S+ \d+) (\S+) ", re.MULTILINE)


class Places(Protocol):
    """Counts all who watch."""

    viewers: int


class WhepPages:
    """Request handlers over the live video of each camera; without any, all of them answer 404.

    Every peer counts among the `places.viewers`, of which there may be `max_viewers`.

    Raises:
        ConfigError: aiortc is not installed.
    """

    def __init__(self, videos: Mapping[str, LiveVideo], places: Places, max_viewers: int) -> None:
        self._videos = videos
        self._places = places
        self._max_viewers = max_viewers
        self._peers: dict[str, Peer] = {}
        self._closed = False
        self._dropped = 0  # of those that have gone
        self._make_peer: Any = _peer_class() if videos else None

    @property
    def peers(self) -> int:
        """How many are there, connected or about to be."""
        return len(self._peers)

    @property
    def dropped(self) -> int:
        """Packets that they were too slow for, so far."""
        return self._dropped + sum(peer.dropped for peer in self._peers.values())

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_post("/whep", self.open)
        router.add_delete("/whep/{id}", self.end)

    async def close(self) -> None:
        """End all peers, and answer no more."""
        self._closed = True
        await asyncio.gather(*(peer.close() for peer in list(self._peers.values())))

    async def open(self, request: web.Request) -> web.Response:
        """Answer an offer; the session that it opens is at `Location`."""
        video = self._video(request)
        if request.content_type != SDP:
            raise web.HTTPUnsupportedMediaType(text=f"send an offer as {SDP}\n", headers={"Accept-Post": SDP})
        try:
            offer = _with_addresses(await asyncio.wait_for(_read_offer(request), BODY_S), request.remote or "")
            answer, session = await self._answer(video, offer)
        except asyncio.TimeoutError as error:
            raise web.HTTPRequestTimeout(text="the offer did not come in time\n") from error
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"the offer cannot be answered: {error}\n") from error
        return web.Response(
            status=201, body=answer.encode(), content_type=SDP, headers={"Location": f"/whep/{session}"}
        )

    async def end(self, request: web.Request) -> web.Response:
        """End a session."""
        peer = self._peers.get(request.match_info["id"])
        if peer is None:
            raise web.HTTPNotFound(text="no such session\n")
        await asyncio.shield(peer.close())
        return web.Response(text="")

    async def _answer(self, video: LiveVideo, offer: str) -> tuple[str, str]:
        if self._places.viewers >= self._max_viewers:
            raise web.HTTPServiceUnavailable(
                text=f"all {self._max_viewers} places are taken, try again later\n", headers={"Retry-After": "5"}
            )
        if self._closed:
            raise web.HTTPServiceUnavailable(text="the server is ending\n")
        session = secrets.token_urlsafe(16)
        self._places.viewers += 1
        self._peers[session] = peer = self._make_peer(video, lambda: self._ended(session))
        try:
            return await peer.answer(offer), session
        except BaseException:  # also when the client has gone meanwhile
            await asyncio.shield(peer.close())
            raise

    def _ended(self, session: str) -> None:
        self._dropped += self._peers.pop(session).dropped
        self._places.viewers -= 1

    def _video(self, request: web.Request) -> LiveVideo:
        if not self._videos:
            raise web.HTTPNotFound(text="WebRTC is off; set stream: {webrtc: true}\n")
        name = request.query.get("camera", next(iter(self._videos)))
        if name not in self._videos:
            raise web.HTTPNotFound(text=f"no such camera; there are: {', '.join(self._videos)}\n")
        return self._videos[name]


async def _read_offer(request: web.Request) -> str:
    """Return the body.

    Raises:
        ValueError: it is no offer of video.
        HTTPException: it is too long, or without H.264.
    """
    body = await request.content.read(MAX_OFFER_BYTES + 1)
    while len(body) <= MAX_OFFER_BYTES and (more := await request.content.read(MAX_OFFER_BYTES)):
        body += more
    if len(body) > MAX_OFFER_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_OFFER_BYTES, len(body))
    offer = "\r\n".join(body.decode().splitlines()) + "\r\n"  # as aiortc splits it, so that all is counted
    for key, what in _NEEDED.items():
        if not re.search(f"^{key}", offer, re.MULTILINE):
            raise ValueError(f"it has no {what}")
    for key, most in _AT_MOST.items():
        if offer.count(f"\n{key}") > most:
            raise ValueError(f"it has more than {most} {key}")
    if not _H264.search(offer):
        raise web.HTTPNotAcceptable(text="there is only H.264 here, which the offer does not have\n")
    return offer


def _with_addresses(offer: str, remote: str) -> str:
    """Return the offer with the address that the request came from in the place of hidden ones (*.local).

    Browsers hide addresses from pages. To look one up by mDNS takes a second, and multicast that works; this one is
    most likely right, and where it is not, the browser's own packets show where it is.
    """
    remote = remote.removeprefix("::ffff:").partition("%")[0]  # IPv4 on a socket for both; the interface
    return _CANDIDATE.sub(
        lambda match: f"{match[1]} {remote if match[2].endswith('.local') and remote else match[2]} ", offer
    )


def _peer_class() -> Any:
    try:
        return importlib.import_module("edge_detector.publishers.web.peer").Peer
    except ImportError as error:
        raise ConfigError(f"WebRTC needs aiortc ({error}): pip install 'edge-detector[stream]'") from error
