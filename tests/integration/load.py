"""What viewers cost the service: python tests/integration/load.py [--seconds 20].

Runs the demo clip as a camera, then adds viewers of /stream.mjpg, some of which read slowly, and WebSockets; prints the
processor time of the service, its detection rate as a ratio to that without viewers, and its memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

REPOSITORY = Path(__file__).resolve().parents[2]
SETTLE_S = 4.0
CASES = (
    ("nobody", 0, 0, 0, 0),
    ("1 viewer", 1, 0, 0, 0),
    ("10 viewers", 10, 0, 0, 0),
    ("50 viewers", 50, 0, 0, 0),
    ("45 viewers and 5 slow ones", 45, 5, 0, 0),
    ("50 WebSockets of JSON", 0, 0, 50, 0),
    ("10 WebSockets with pictures", 0, 0, 0, 10),
    ("nobody again", 0, 0, 0, 0),
)


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--model", default="person-320")
    parser.add_argument("--detect-fps", type=float, default=5)
    arguments = parser.parse_args()
    demo = REPOSITORY / "edge_detector" / "assets" / "demo.mp4"
    settings = {
        "cameras": {"yard": {"source": f"file://{demo}?loop=1", "detect_fps": arguments.detect_fps}},
        "model": {"path": arguments.model},
        "motion": {"enabled": False},
        "http": "127.0.0.1:0",
        "web": {"max_viewers": 60},
    }
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder) / "settings.yaml", Path(folder) / "log"
        config.write_text(json.dumps(settings))
        with log.open("w") as errors:
            command = [sys.executable, "-m", "edge_detector", "run", "--config", str(config)]
            service = subprocess.Popen(command, cwd=REPOSITORY, stderr=errors)
        try:
            url = _url(service, log)
            time.sleep(SETTLE_S)
            asyncio.run(measure(service.pid, url, arguments.seconds))
        finally:
            service.terminate()
            print(f"ended with {service.wait(30)}")


def _url(service: subprocess.Popen[bytes], log: Path) -> str:
    while not (match := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())):
        assert service.poll() is None, log.read_text()
        time.sleep(0.1)
    return match[0]


async def measure(pid: int, url: str, seconds: float) -> None:
    """Print a row for each case."""
    first = 0.0
    for name, fast, slow, told, shown in CASES:
        async with AsyncExitStack() as stack:
            got = [0]
            for kind, count in ((_watch, fast), (_dawdle, slow), (_listen, told), (_listen_and_see, shown)):
                for _ in range(count):
                    await stack.enter_async_context(_running(kind(url, got)))
            await asyncio.sleep(SETTLE_S)
            before, got[0] = _used(pid), 0
            await asyncio.sleep(seconds)
            after = _used(pid)
            status = await asyncio.to_thread(_status, url)
        cpu = (after[0] - before[0]) / seconds
        rate = status["service"]["cameras"]["yard"]["fps"]["inference"]
        first = first or rate
        print(
            f"{name:30}{cpu:7.1%} of a core, detection {rate:5.2f}/s ({rate / first:.2f}), "
            f"{after[1] / 1e6:4.0f} MB, {status['viewers']} viewers, {status['sockets']} sockets, "
            f"{got[0] / seconds / 1e6:5.1f} MB/s taken",
            flush=True,
        )


@asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _watch(url: str, got: list[int]) -> None:
    async with aiohttp.ClientSession() as session, session.get(url + "stream.mjpg", timeout=None) as answer:
        async for part in answer.content.iter_any():
            got[0] += len(part)


async def _dawdle(url: str, got: list[int]) -> None:
    """Read 20 kB a second."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=20000)
    writer.write(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while part := await reader.read(20000):
        got[0] += len(part)
        await asyncio.sleep(1)


async def _listen(url: str, got: list[int], query: str = "") -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}ws{query}", max_msg_size=0) as socket,
    ):
        async for message in socket:
            got[0] += len(message.data)


async def _listen_and_see(url: str, got: list[int]) -> None:
    await _listen(url, got, "?pictures=true")


def _used(pid: int) -> tuple[float, int]:
    """Return the seconds of processor time, and the bytes of memory, of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return ticks / os.sysconf("SC_CLK_TCK"), resident * os.sysconf("SC_PAGE_SIZE")


def _status(url: str) -> Any:
    with urllib.request.urlopen(url + "api/status", timeout=10) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
