"""FrameHub: the newest result, encoded once however many look, and not at all when nobody does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from edge_detector.frame import FrameResult
from edge_detector.runtime.metrics import StageMeters

# Sizes that pictures are scaled to: few, so that viewers share them.
WIDTHS = (320, 480, 640, 960, 1280, 1920)


class HubClosed(Exception):  # noqa: N818 - control flow like StopIteration, not an error
    """Raised to those who wait for a picture when the server stops."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture is wanted: with its boxes or as the camera gave it; not wider than `width` pixels."""

    boxes: bool = True
    width: int | None = None

    @classmethod
    def of(cls, boxes: bool = True, width: int | None = None) -> Look:
        """Return the look for a wanted width, rounded up to one of `WIDTHS`."""
        return cls(boxes, None if width is None else next((side for side in WIDTHS if side >= width), None))


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture and what it shows; `serial` counts results from 1, gaps are results that nobody looked at."""

    jpeg: bytes
    serial: int
    result: FrameResult


Encode = Callable[[FrameResult, Look], bytes]
USUAL = Look()


class FrameHub:
    """Hands the newest result to any number of viewers. All methods run on the server's event loop, but `announce`.

    While nobody waits for a result, announcing one does not wake the loop. `encode` draws and compresses a result; it
    runs on `executor`, one call at a time, and only on request, once for all who want the same look.

    Attributes:
        encoded: pictures that were encoded.
        closed: whether everybody was sent away.
        stages: of a picture: "overlay" (drawing) and "encode" (JPEG).
    """

    def __init__(self, encode: Encode, executor: Executor) -> None:
        self.encoded = 0
        self.stages = StageMeters()
        self._encode = encode
        self._executor = executor
        self._newest: tuple[int, FrameResult | None, float] = 0, None, 0.0  # its serial, and when it came
        self._changed = asyncio.Event()
        self._waiting = 0  # who wait for it to change,
        self._loop: asyncio.AbstractEventLoop | None = None  # and where
        self._waking = False  # the loop has been told
        self.closed = False
        self._encodings: dict[Look, tuple[int, asyncio.Task[Picture]]] = {}  # the newest, with their results' serials

    @property
    def result(self) -> FrameResult | None:
        """The newest, or None before the first."""
        return self._newest[1]

    @property
    def silent_s(self) -> float:
        """Seconds since the newest result came."""
        return time.monotonic() - self._newest[2]

    def announce(self, result: FrameResult) -> None:
        """Make `result` the newest and wake all who wait; from one thread at a time, any."""
        self._newest = self._newest[0] + 1, result, time.monotonic()
        # In this order, as who waits says so first and looks then: one of the two sees the other.
        if self._waiting and not self._waking and self._loop is not None:
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Send everybody away."""
        self.closed = True
        self._wake()

    async def newest(self, after: int = 0) -> tuple[int, FrameResult]:
        """Return the newest result with its serial, which is above `after`, waiting for it if need be.

        Raises:
            HubClosed: the server stops.
        """
        self._loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            while self._newest[0] <= after and not self.closed:
                await self._changed.wait()
        finally:
            self._waiting -= 1
        serial, result, _ = self._newest
        if self.closed or result is None:
            raise HubClosed
        return serial, result

    async def picture(self, after: int = 0, look: Look = USUAL) -> Picture:
        """Return the newest picture with a serial above `after`, waiting for it if need be.

        Raises:
            HubClosed: the server stops.
        """
        newest, result = await self.newest(after)
        serial, encoding = self._encodings.get(look, (0, None))
        if encoding is None or (encoding.done() and serial < newest):
            encoding = asyncio.create_task(self._encoded(result, newest, look))
            others = ((key, one) for key, one in self._encodings.items() if one[0] == newest or not one[1].done())
            self._encodings = {**dict(others), look: (newest, encoding)}
        return await asyncio.shield(encoding)  # a viewer who leaves does not take the picture from the others

    async def _encoded(self, result: FrameResult, serial: int, look: Look) -> Picture:
        jpeg = await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, result, look)
        self.encoded += 1
        return Picture(jpeg, serial, result)

    def _wake(self) -> None:
        self._waking = False
        self._changed.set()
        self._changed = asyncio.Event()
