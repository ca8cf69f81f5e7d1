"""Outbox: what waits for an MQTT broker, and in which order it goes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

STREAM_MAX = 50  # detections that wait for a broker that is slow


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A message: `payload` may be a picture, (H, W, 3) uint8 RGB, which goes as JPEG; `at_s` is monotonic."""

    topic: str
    payload: bytes | npt.NDArray[np.uint8]
    at_s: float
    retain: bool = False


class Outbox:
    """Messages of three kinds, bounded; not thread safe.

    States are retained: of a topic only the newest waits. Events all go, in their order, but for the oldest of more
    than `queue_max` and those older than `max_age_s` seconds. Detections are of the moment: few wait, and none for a
    broker that is away. `dropped` counts events and detections that did not go.
    """

    def __init__(self, queue_max: int, max_age_s: float) -> None:
        self.dropped = 0
        self._queue_max = queue_max
        self._max_age_s = max_age_s
        self._states: dict[str, Message] = {}
        self._events: deque[Message] = deque()
        self._stream: deque[Message] = deque()

    def __len__(self) -> int:
        return len(self._states) + len(self._events) + len(self._stream)

    def put_state(self, message: Message) -> None:
        """Let a state wait, in place of an older one."""
        self._states.pop(message.topic, None)
        self._states[message.topic] = message

    def put_event(self, message: Message) -> None:
        """Let an event wait."""
        self._events.append(message)
        if len(self._events) > self._queue_max:
            self._events.popleft()
            self.dropped += 1

    def put_detections(self, message: Message) -> None:
        """Let detections wait."""
        self._stream.append(message)
        if len(self._stream) > STREAM_MAX:
            self._stream.popleft()
            self.dropped += 1

    def drop_detections(self) -> None:
        """Drop all detections: nobody can have them while they are of the moment."""
        self.dropped += len(self._stream)
        self._stream.clear()

    def take(self, now_s: float) -> Message | None:
        """Remove and return what goes next, None if nothing waits: states, then events, then detections."""
        if self._states:
            return self._states.pop(next(iter(self._states)))
        while self._events:
            message = self._events.popleft()
            if now_s - message.at_s <= self._max_age_s:
                return message
            self.dropped += 1
        return self._stream.popleft() if self._stream else None
