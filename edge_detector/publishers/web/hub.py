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
    """Hands the newest result to any number of viewers. All methods run on the server's event loop.

    `encode` draws and compresses a result; it runs on `executor`, one call at a time, and only on request, once for all
    who want the same look.

    Attributes:
        result: the newest, or None before the first.
        encoded: pictures that were encoded.
        closed: whether everybody was sent away.
        stages: of a picture: "overlay" (drawing) and "encode" (JPEG).
    """

    def __init__(self, encode: Encode, executor: Executor) -> None:
        self.result: FrameResult | None = None
        self.encoded = 0
        self.stages = StageMeters()
        self._encode = encode
        self._executor = executor
        self._serial = 0
        self._arrived_at = 0.0
        self._changed = asyncio.Event()
        self.closed = False
        self._encodings: dict[
            Look, tuple[int, asyncio.Task[Picture]]
        ] = {}  # those of the newest result, with its serial

    @property
    def silent_s(self) -> float:
        """Seconds since the newest result came."""
        return time.monotonic() - self._arrived_at

    def announce(self, result: FrameResult) -> None:
        """Make `result` the newest and wake all who wait."""
        self.result = result
        self._serial += 1
        self._arrived_at = time.monotonic()
        self._encodings = {look: one for look, one in self._encodings.items() if not one[1].done()}
        self._wake()

    def close(self) -> None:
        """Send everybody away."""
        self.closed = True
        self._wake()

    async def newest(self, after: int = 0) -> tuple[int, FrameResult]:
        """Return the newest result with its serial, which is above `after`, waiting for it if need be.

        Raises:
            HubClosed: the server stops.
        """
        while (self.result is None or self._serial <= after) and not self.closed:
            await self._changed.wait()
        if self.closed or self.result is None:
            raise HubClosed
        return self._serial, self.result

    async def picture(self, after: int = 0, look: Look = USUAL) -> Picture:
        """Return the newest picture with a serial above `after`, waiting for it if need be.

        Raises:
            HubClosed: the server stops.
        """
        newest, result = await self.newest(after)
        serial, encoding = self._encodings.get(look, (0, None))
        if encoding is None or (encoding.done() and serial < newest):
            encoding = asyncio.create_task(self._encoded(result, newest, look))
            self._encodings[look] = newest, encoding
        return await asyncio.shield(encoding)  # a viewer who leaves does not take the picture from the others

    async def _encoded(self, result: FrameResult, serial: int, look: Look) -> Picture:
        jpeg = await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, result, look)
        self.encoded += 1
        return Picture(jpeg, serial, result)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
