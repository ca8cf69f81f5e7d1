"""Deliveries: what has arrived outside of the service, by sink."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping


class Deliveries:
    """Counts what arrives of each sink; `needed` says how many of it show that the sink works. Safe on any thread."""

    def __init__(self, needed: Mapping[str, int]) -> None:
        self.needed = dict(needed)
        self.ended: dict[str, set[str]] = {}  # ids of objects that a sink has told the end of
        self.defects: list[str] = []  # what arrived and is not right
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._since: Counter[str] = Counter()
        self._armed_s = 0.0
        self._recovered_s: dict[str, float] = {}

    def note(self, name: str, count: int = 1) -> None:
        """Count what has arrived; a name that is not known is ignored."""
        if name not in self.needed:
            return
        with self._lock:
            self._counts[name] += count
            self._since[name] += count
            if self._since[name] >= self.needed[name]:
                self._recovered_s.setdefault(name, time.monotonic() - self._armed_s)

    def note_end(self, sink: str, object_id: str) -> None:
        """Take note that a sink has told the end of an object."""
        with self._lock:
            self.ended.setdefault(sink, set()).add(object_id)

    def defect(self, text: str) -> None:
        """Take note of something that is not right."""
        with self._lock:
            if len(self.defects) < 100:
                self.defects.append(text)

    def arm(self) -> None:
        """From now on wait for each sink to deliver again."""
        with self._lock:
            self._since.clear()
            self._recovered_s.clear()
            self._armed_s = time.monotonic()

    def wait(self, bound_s: float) -> tuple[dict[str, float], list[str]]:
        """Return the seconds from `arm` until each sink delivered again, and the sinks that have not in time."""
        while True:
            with self._lock:
                recovered = dict(self._recovered_s)
                passed_s = time.monotonic() - self._armed_s
            missing = [name for name in self.needed if name not in recovered]
            if not missing or passed_s > bound_s:
                return recovered, missing
            time.sleep(0.1)

    def counts(self) -> dict[str, int]:
        """Return what has arrived so far."""
        with self._lock:
            return {name: self._counts[name] for name in self.needed}
