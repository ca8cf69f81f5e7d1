"""Viewers of the live picture, as a program of its own: clients that read all that they are sent, as browsers do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp

MJPEG, SOCKET = "mjpeg", "socket"
PICTURE_BYTES = 1024  # that have come: the viewer watches


async def watch(url: str, kind: str, count: int) -> None:
    """Watch with so many clients, and say so when all of them have a picture; ends when the server does."""
    watching = asyncio.Semaphore(0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        clients = [asyncio.create_task(_client(session, url, kind, watching)) for _ in range(count)]
        for _ in range(count):
            await watching.acquire()
        print("watching", flush=True)
        await asyncio.gather(*clients)


async def _client(session: aiohttp.ClientSession, url: str, kind: str, watching: asyncio.Semaphore) -> None:
    told = False
    received = 0
    async for size in _stream(session, url) if kind == MJPEG else _page(session, url):
        received += size
        if not told and received > PICTURE_BYTES:
            watching.release()
            told = True


async def _stream(session: aiohttp.ClientSession, url: str) -> AsyncIterator[int]:
    async with session.get(f"{url}stream.mjpg") as answer:
        answer.raise_for_status()
        async for part in answer.content.iter_any():
            yield len(part)


async def _page(session: aiohttp.ClientSession, url: str) -> AsyncIterator[int]:
    """Ask for what the page asks for: it draws the boxes itself."""
    async with session.ws_connect(f"{url}ws?pictures=true&boxes=false", max_msg_size=0) as socket:
        async for message in socket:
            yield len(message.data)


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], sys.argv[2], int(sys.argv[3])))
