"""One-slot hand-over between threads: the newest item wins."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from edge_detector.errors import EndOfStream

Item = TypeVar("Item")


class LatestFrame(Generic[Item]):
    """Hands the newest item from one thread to another; what the reader was too slow for is replaced and counted.

    Attributes:
        replaced: items that were overwritten before anybody took them.
    """

    def __init__(self) -> None:
        self.replaced = 0
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._end: BaseException | None = None

    def put(self, item: Item) -> None:
        """Store `item` in place of an older one; ignored after `close`."""
        with self._changed:
            if self._end is not None:
                return
            self.replaced += self._item is not None
            self._item = item
            self._changed.notify_all()

    def get(self, timeout_s: float) -> Item | None:
        """Take the item, or return None if none came within `timeout_s` seconds.

        Raises:
            EndOfStream: the hand-over was closed and nothing is left in it.
            BaseException: the error that it was closed with, once nothing is left in it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._end is not None, timeout_s)
            item, self._item = self._item, None
            if item is None and self._end is not None:
                raise self._end
            return item

    def close(self, error: BaseException | None = None) -> None:
        """End the hand-over; readers get `error`, by default `EndOfStream`. Only the first call counts."""
        with self._changed:
            if self._end is None:
                self._end = error if error is not None else EndOfStream()
            self._changed.notify_all()
