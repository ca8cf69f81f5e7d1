"""What systemd is told of the service: readiness, state and signs of life, as sd_notify(3) describes."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class Notifier:
    """Tells systemd, over the socket that `NOTIFY_SOCKET` names; without one, every call does nothing.

    Attributes:
        watchdog_s: seconds within which systemd waits for a sign of life; None where it does not.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self.watchdog_s: float | None = None
        if not name.startswith(("/", "@")):
            return
        self._address = "\0" + name[1:] if name.startswith("@") else name  # of the abstract namespace
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if meant and environment.get("WATCHDOG_USEC", "").isdecimal():
            self.watchdog_s = int(environment["WATCHDOG_USEC"]) / 1e6

    def ready(self, status: str) -> None:
        """The service works, or works again after `reloading`."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """How it is, in a line for people."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """It still works; see `watchdog_s`."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """New settings are taken; `ready` ends that."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """It ends."""
        self._send("STOPPING=1", f"STATUS={status}")

    def close(self) -> None:
        """Tell no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        message = "\n".join(" ".join(line.split("\n")) for line in lines)
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:  # systemd is busy or gone, which is no reason to stop working
            logger.debug("systemd cannot be told: %s", error)
