"""FrameHub: the newest result, encoded once however many look, and not at all when nobody does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from edge_detector.frame import FrameResult


class HubClosed(Exception):  # noqa: N818 - control flow like StopIteration, not an error
    """Raised to those who wait for a picture when the server stops."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture; `serial` counts results from 1, gaps are results that nobody looked at."""

    jpeg: bytes
    serial: int


class FrameHub:
    """Hands the newest result to any number of viewers. All methods run on the server's event loop.

    `encode` draws and compresses a result; it runs on `executor`, one call at a time, and only on request.
    """

    def __init__(self, encode: Callable[[FrameResult], bytes], executor: Executor) -> None:
        self.result: FrameResult | None = None
        self.encoded = 0
        self._encode = encode
        self._executor = executor
        self._serial = 0
        self._arrived_at = 0.0
        self._changed = asyncio.Event()
        self._closed = False
        self._encoding: asyncio.Task[Picture] | None = None
        self._encoding_serial = 0

    @property
    def silent_s(self) -> float:
        """Seconds since the newest result came."""
        return time.monotonic() - self._arrived_at

    def announce(self, result: FrameResult) -> None:
        """Make `result` the newest and wake all who wait."""
        self.result = result
        self._serial += 1
        self._arrived_at = time.monotonic()
        self._wake()

    def close(self) -> None:
        """Send everybody away."""
        self._closed = True
        self._wake()

    async def picture(self, after: int = 0) -> Picture:
        """Return the newest picture with a serial above `after`, waiting for it if need be.

        Raises:
            HubClosed: the server stops.
        """
        while (self.result is None or self._serial <= after) and not self._closed:
            await self._changed.wait()
        if self._closed or self.result is None:
            raise HubClosed
        if self._encoding is None or (self._encoding.done() and self._encoding_serial < self._serial):
            self._encoding_serial = self._serial
            self._encoding = asyncio.create_task(self._encoded(self.result, self._serial))
        return await asyncio.shield(self._encoding)  # a viewer who leaves does not take the picture from the others

    async def _encoded(self, result: FrameResult, serial: int) -> Picture:
        jpeg = await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, result)
        self.encoded += 1
        return Picture(jpeg, serial)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
