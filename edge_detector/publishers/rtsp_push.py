"""RtspPush: live video to an RTSP server that takes it (ANNOUNCE, RECORD), such as MediaMTX; RTP over the one TCP."""

from __future__ import annotations

import logging
import math
import threading
import time
from urllib.parse import urlsplit

from edge_detector.abandoned import leave_behind
from edge_detector.errors import PublishError
from edge_detector.publishers.h264 import VideoPacket
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.packets import PacketBuffer
from edge_detector.publishers.rtp import RtpStream, describe
from edge_detector.publishers.rtsp_client import RtspClient
from edge_detector.runtime.metrics import SinkStatus, sink_status

logger = logging.getLogger(__name__)

IO_S = 3.0  # that the server may take for an answer, or take nothing for
RETRY_S = 1.0  # doubles with each failure,
STAY_S = 30.0  # until a connection has lasted so long
SURE_S = 10.0  # so long it must last to be told of: some servers take a connection and close it at once
RETRY_MAX_S = 30.0
POLL_S = 0.5
CLOSE_S = 0.5
REPORT_S = 5.0
_RTP, _RTCP = 0, 1  # channels


class RtspPush:
    """Sends the packets of a `LiveVideo`, as they are, on a thread of its own; connects again with growing pauses.

    Video is encoded for it while there is a connection, and one picture per try. `sent` counts packets.
    """

    def __init__(self, video: LiveVideo, uri: str) -> None:
        self.name = f"rtsp push to {_without_secrets(uri)}"
        self.sent = 0
        self._video = video
        self._uri = uri
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._away = False
        self._trouble: tuple[float, str] | None = time.monotonic(), "not connected yet"
        self._failed = self._dropped = 0
        self._buffer: PacketBuffer | None = None
        self._began_s = math.inf  # when the server began to take what is sent
        self._client: RtspClient | None = None
        self._thread = threading.Thread(target=self._run, name=f"publish {self.name}", daemon=True)
        self._thread.start()

    def status(self) -> SinkStatus:
        """Return how the server is; from any thread."""
        buffer = self._buffer
        return sink_status(
            failing=self._trouble,
            busy_since=None,  # a server that takes nothing is left after a few seconds
            queued=0 if buffer is None else len(buffer),
            dropped=self._dropped + (0 if buffer is None else buffer.dropped),
            failed=self._failed,
            written=self.sent,
        )

    def close(self) -> None:
        """Say goodbye and end the thread; safe to call twice. One that hangs in a call is left behind."""
        self._closed.set()
        self._changed.set()
        self._thread.join(CLOSE_S / 2)
        client = self._client
        if client is not None:
            client.abort()
        self._thread.join(CLOSE_S / 2)
        if self._thread.is_alive():
            leave_behind(self._thread)

    def _run(self) -> None:
        retry_s = RETRY_S
        while not self._closed.is_set():
            self._began_s = math.inf
            try:
                self._push()
            except Exception as error:  # noqa: BLE001 - whatever the server says: video is not what the service is for
                self._failed += 1
                self._trouble = (time.monotonic() if self._trouble is None else self._trouble[0]), _reason(error)
                if not self._away and not self._closed.is_set():
                    self._away = True
                    logger.warning("%s: %s; it is tried again", self.name, _reason(error))
            stayed = time.monotonic() - self._began_s > STAY_S
            retry_s = RETRY_S if stayed else min(2 * retry_s, RETRY_MAX_S)
            self._closed.wait(retry_s)

    def _push(self) -> None:
        """Connect and send until that fails or this is closed."""
        buffer = PacketBuffer(self._video.request_keyframe, self._changed.set)
        self._buffer = buffer
        leave = self._video.subscribe(buffer.put)
        try:
            first = self._next(buffer)
            if first is not None:
                self._send(first, buffer)
        finally:
            leave()
            self._buffer = None
            self._dropped += buffer.dropped
            if buffer.dropped:
                logger.info("%s: %d packets dropped because it was too slow", self.name, buffer.dropped)

    def _send(self, first: VideoPacket, buffer: PacketBuffer) -> None:
        client = RtspClient(self._uri, IO_S)
        self._client = client
        try:
            client.record(describe(first))
            self._began_s = time.monotonic()
            stream, reported_s = RtpStream(), -math.inf
            packet: VideoPacket | None = first
            while packet is not None:
                packets = [(_RTP, one) for one in stream.packets(packet)]
                if time.monotonic() - reported_s > REPORT_S:
                    reported_s = time.monotonic()
                    packets.insert(0, (_RTCP, stream.report(packet.pts, time.time())))
                client.send(packets)
                self.sent += 1
                if self._away and time.monotonic() - self._began_s > SURE_S:
                    self._away = False
                    logger.info("%s: the server is there again", self.name)
                if not self._away:
                    self._trouble = None
                packet = self._next(buffer, client)
        finally:
            self._client = None
            client.close()

    def _next(self, buffer: PacketBuffer, client: RtspClient | None = None) -> VideoPacket | None:
        """Wait for a packet, as long as the server stays; return None when closing."""
        while not self._closed.is_set():
            self._changed.clear()
            packet = buffer.take()
            if packet is not None:
                return packet
            if not self._changed.wait(POLL_S) and client is not None:
                client.check()
        return None


def _without_secrets(uri: str) -> str:
    """Return scheme, host, port and path."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _reason(error: Exception) -> str:
    """Return what is wrong, without the address."""
    if isinstance(error, PublishError):
        return str(error)
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
