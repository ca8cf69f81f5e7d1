"""PacketBuffer: encoded video on its way to one taker."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from edge_detector.publishers.h264 import VideoPacket

CAPACITY = 30  # two seconds at the usual rate: more would only be shown late


class PacketBuffer:
    """Hands packets from the thread that encodes to the one that sends.

    What is taken can be decoded: it begins with a keyframe, and when the taker is too slow, all is dropped up to the
    next keyframe, which `ask_keyframe` is called for. `on_packet` is called after each packet that was put.
    """

    def __init__(
        self, ask_keyframe: Callable[[], None], on_packet: Callable[[], None], *, capacity: int | None = None
    ) -> None:
        self.dropped = 0
        self._ask_keyframe = ask_keyframe
        self._on_packet = on_packet
        self._capacity = capacity or CAPACITY
        self._packets: deque[VideoPacket] = deque()
        self._broken = True  # what comes next cannot be decoded unless it is a keyframe
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._packets)

    def put(self, packet: VideoPacket) -> None:
        """Add a packet; returns at once."""
        with self._lock:
            full = len(self._packets) >= self._capacity
            if full:
                self.dropped += len(self._packets)
                self._packets.clear()
            self._broken = (self._broken or full) and not packet.keyframe
            if self._broken:
                self.dropped += 1
            else:
                self._packets.append(packet)
        if full and not packet.keyframe:
            self._ask_keyframe()
        self._on_packet()

    def take(self) -> VideoPacket | None:
        """Return the oldest packet, or None if there is none."""
        with self._lock:
            return self._packets.popleft() if self._packets else None
