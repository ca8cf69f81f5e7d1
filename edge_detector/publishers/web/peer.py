"""Peer: one browser that gets live video by WebRTC, with aiortc."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from fractions import Fraction

import av
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from edge_detector.publishers.h264 import CLOCK_HZ
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.packets import PacketBuffer

logger = logging.getLogger(__name__)
logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells every step of every connection

CONNECT_S = 10.0  # in which a peer must have connected
SILENT_S = 6.0  # a peer that is sent pictures and reports nothing for so long has gone
LOOK_S = 0.5
CLOSE_S = 1.0
PROFILES = ("42e01f", "42001f")  # constrained baseline first, which is what we send


class PacketTrack(MediaStreamTrack):  # type: ignore[misc]  # the types of optional packages are not used
    """A track of packets that are sent as they are; they are asked for when the first is, which is once connected."""

    kind = "video"

    def __init__(self, video: LiveVideo) -> None:
        super().__init__()
        self._video = video
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
        self._buffer = PacketBuffer(video.request_keyframe, self._wake)
        self._leave: Callable[[], None] | None = None

    @property
    def dropped(self) -> int:
        """How many packets were left out because the peer was too slow."""
        return self._buffer.dropped

    async def recv(self) -> av.Packet:
        """Return the next packet."""
        if self._leave is None and self.readyState == "live":
            self._leave = self._video.subscribe(self._buffer.put)
        while (packet := self._buffer.take()) is None:
            if self.readyState != "live":
                raise MediaStreamError
            self._arrived.clear()
            await self._arrived.wait()
        sent = av.Packet(packet.data)
        sent.pts, sent.time_base = packet.pts, Fraction(1, CLOCK_HZ)
        return sent

    def stop(self) -> None:
        """Take no more."""
        if self._leave is not None:
            self._leave()
        self._arrived.set()
        super().stop()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._arrived.set)


class Peer:
    """A connection that sends the packets of `video`; `on_end` is called once, when it is over for whatever reason.

    All methods run on the server's event loop.
    """

    def __init__(self, video: LiveVideo, on_end: Callable[[], None]) -> None:
        self._video = video
        self._on_end = on_end
        # Without servers for STUN: nobody outside is asked, and viewers are in the same network.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._sender: RTCRtpSender | None = None
        self._track: PacketTrack | None = None
        self._answering: asyncio.Task[str] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ended = False

    async def answer(self, offer: str) -> str:
        """Return the answer to an offer, both SDP; from then on the peer may connect.

        Raises:
            ValueError: the offer cannot be read, or does not fit.
        """
        # To its end, also when the client has gone: sockets that aioice was just opening would stay open.
        self._answering = asyncio.create_task(self._answer(offer))
        return await asyncio.shield(self._answering)

    async def _answer(self, offer: str) -> str:
        connection = self._connection
        transceiver = connection.addTransceiver("video", direction="sendonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        wanted = [
            codec
            for profile in PROFILES
            for codec in known
            if codec.mimeType == "video/H264" and codec.parameters.get("profile-level-id") == profile
        ]
        transceiver.setCodecPreferences([*wanted, *(codec for codec in known if codec.mimeType == "video/rtx")])
        try:
            await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:
            raise ValueError(str(error) or type(error).__name__) from error
        self._sender = transceiver.sender
        # aiortc tells nobody that the peer asks for a keyframe (PLI, FIR); where this name changes, the next periodic
        # one has to do.
        self._sender._send_keyframe = self._video.request_keyframe
        self._track = PacketTrack(self._video)
        self._sender.replaceTrack(self._track)
        self._watch = asyncio.create_task(self._look_after())
        return str(connection.localDescription.sdp)

    @property
    def dropped(self) -> int:
        """Packets that were left out because it was too slow."""
        return 0 if self._track is None else self._track.dropped

    async def close(self) -> None:
        """End the connection; safe to call twice."""
        if self._ended:
            return
        self._ended = True
        self._on_end()
        if self._answering is not None:
            with contextlib.suppress(ValueError, asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._answering), CLOSE_S)
        if self._watch is not None and self._watch is not asyncio.current_task():
            self._watch.cancel()
        if self._track is not None:
            self._track.stop()
            if self._track.dropped:
                logger.info("a viewer was too slow for %d packets", self._track.dropped)
        try:
            await asyncio.wait_for(asyncio.shield(self._connection.close()), CLOSE_S)
        except Exception as error:  # noqa: BLE001 - of whatever state it is in, it is not used any more
            logger.debug("a peer did not close well: %r", error)

    async def _look_after(self) -> None:
        """Close the connection when the peer does not come, or has gone, or cannot be looked after."""
        try:
            await self._wait_for_its_end()
        except Exception as error:  # noqa: BLE001 - whatever aiortc raises, the place must become free
            logger.warning("a viewer is sent away: %r", error)
        finally:
            await self.close()

    async def _wait_for_its_end(self) -> None:
        began_s = heard_s = time.monotonic()
        heard, sent = -1, 0
        while True:
            await asyncio.sleep(LOOK_S)
            state, now_s = self._connection.connectionState, time.monotonic()
            if state in ("failed", "closed") or (state != "connected" and now_s - began_s > CONNECT_S):
                return
            if state == "connected" and self._sender is not None:
                received, packets = await _counts(self._sender)
                if received != heard or packets == sent:
                    heard_s = now_s
                heard, sent = received, packets
                if now_s - heard_s > SILENT_S:
                    return


async def _counts(sender: RTCRtpSender) -> tuple[int, int]:
    """Return how many packets came from the peer, which are its reports, and how many were sent to it."""
    received = sent = 0
    for one in (await sender.getStats()).values():
        if one.type == "transport":
            received += one.packetsReceived
        elif one.type == "outbound-rtp":
            sent += one.packetsSent
    return received, sent
