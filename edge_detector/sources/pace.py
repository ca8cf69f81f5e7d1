"""Hands out recorded or made pictures at the rate of a camera."""

from __future__ import annotations

import time


class Pacer:
    """Beats once per period; a late beat is never caught up by a burst.

    Attributes:
        beat_s: monotonic time of the newest beat.
    """

    def __init__(self, period_s: float) -> None:
        self.beat_s = 0.0
        self._period_s = period_s
        self._due_s = time.monotonic()

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the next beat; return False if that is not within `timeout_s` seconds."""
        now_s = time.monotonic()
        pause_s = self._due_s - now_s
        if pause_s > timeout_s:
            time.sleep(max(0.0, timeout_s))
            return False
        if pause_s > 0:
            time.sleep(pause_s)
        self.beat_s = max(self._due_s, now_s)
        self._due_s = self.beat_s + self._period_s
        return True
