"""Results over UDP, each inference as a datagram of JSON, schema 1."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Sequence
from typing import Any

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.publishers.jsonl import Lines
from edge_detector.publishers.worker import QueuedPublisher
from edge_detector.sink_config import UdpConfig, parse_address

logger = logging.getLogger(__name__)

LOOK_UP_S = 60.0  # a name may come to mean another address
RETRY_S = 5.0  # until a name that meant nothing is looked up again


def open_udp(settings: UdpConfig, labels: Sequence[str], model_name: str) -> QueuedPublisher:
    """Return a publisher that sends one datagram per inference; what cannot be sent is dropped, and said."""
    return QueuedPublisher(_UdpSink(settings, Lines(labels, model_name)), goes_on=True)


class _UdpSink:
    uses_image = False

    def __init__(self, settings: UdpConfig, lines: Lines) -> None:
        self.name = f"udp://{settings.address}"
        self._host, self._port = parse_address(settings.address or "")
        self._lines = lines
        self._socket: socket.socket | None = None
        self._to: tuple[Any, ...] = ()
        self._again_s = 0.0  # when the name is looked up again
        self._fault = ""
        self._too_large = 0

    def write(self, result: FrameResult) -> bool:
        document = self._lines.line(result).rstrip(b"\n")
        if not document:
            return False
        try:
            self._found().sendto(document, self._to)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise PublishError(f"{self.name}: {error.strerror or error}") from error
            self._too_large += 1
            if self._too_large == 1:
                logger.warning(
                    "%s: %d bytes do not fit into a datagram and are dropped; want fewer objects",
                    self.name,
                    len(document),
                )
        return True

    def finish(self, complete: bool) -> None:
        """Close the socket, and say how many were too large."""
        if self._too_large:
            logger.warning("%s: %d results were too large in all", self.name, self._too_large)
        if self._socket is not None:
            self._socket.close()

    def _found(self) -> socket.socket:
        """Return a socket of the receiver's family, whose address is looked up if it is time."""
        now_s = time.monotonic()
        if now_s >= self._again_s:
            self._again_s = now_s + RETRY_S
            try:
                self._look_up()
            except (socket.gaierror, UnicodeError) as error:
                self._fault = f"the name is not known: {error}"
            except OSError as error:
                self._fault = str(error)
            else:
                self._again_s = now_s + LOOK_UP_S
        if self._socket is None:  # else the address that was known will do
            raise PublishError(f"{self.name}: {self._fault}")
        return self._socket

    def _look_up(self) -> None:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, to = found[0]
        if self._socket is None or self._socket.family != family:
            made = socket.socket(family, kind, protocol)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if self._socket is not None:
                self._socket.close()
            self._socket = made
        self._to = to
