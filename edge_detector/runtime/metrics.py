"""What the pipeline measures about itself: rates and counters."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

_WINDOW = 30  # events


class RateMeter:
    """Events per second over the last 30 events; sinks towards 0 when no more come. One thread ticks, any may read."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=_WINDOW)

    def tick(self) -> None:
        """Count one event, now."""
        self._times_s.append(time.monotonic())

    @property
    def per_second(self) -> float:
        """The rate; 0 before the second event."""
        times_s = list(self._times_s)
        count = len(times_s)
        if count < 2:
            return 0.0
        between_first_and_last = times_s[-1] - times_s[0]
        # The pause since the last event counts as soon as it is longer than the mean interval.
        with_pause = (time.monotonic() - times_s[0]) * (count - 1) / count
        return (count - 1) / max(between_first_and_last, with_pause, 1e-9)


@dataclass(slots=True)
class PipelineStats:
    """Counters of one run; each is written by one thread only.

    Attributes:
        captured: frames read from the source.
        dropped: frames that no inference saw because a newer one came first (live sources only).
        inferred: frames that detections were computed on.
        published: results handed to the publishers.
        unreadable: pictures that could not be decoded and were skipped.
        publish_errors: results that a publisher failed to take.
    """

    captured: int = 0
    dropped: int = 0
    inferred: int = 0
    published: int = 0
    unreadable: int = 0
    publish_errors: int = 0
