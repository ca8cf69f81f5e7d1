"""`edge-detector run` on the first camera that is found, else on the demo clip, watched for a while as a user would.

EDGE_DETECTOR_ACCEPTANCE_S is how long: 5 seconds, or 60 in `make pi-acceptance`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import cv2
import numpy as np
import pi_machine
import pytest

DURATION_S = float(os.environ.get("EDGE_DETECTOR_ACCEPTANCE_S", "5"))
START_LIMIT_S = float(os.environ.get("EDGE_DETECTOR_ACCEPTANCE_START_S", "60"))
MODEL = os.environ.get("EDGE_DETECTOR_ACCEPTANCE_MODEL")  # None: the default one
ENDS_WITHIN_S = 2.0
MEMORY_GROWTH_MB_AT_MOST = 60.0  # caches fill, viewers come; a leak of pictures is far more
HOT_C = 80.0  # from here on a Raspberry Pi slows itself down
JPEG_START = b"\xff\xd8"


@dataclass
class Watched:
    """What was seen of the service; `samples` are (RSS in MB, temperature in Celsius or None, MHz or None)."""

    url: str
    ready_line: str
    started_in_s: float
    samples: list[tuple[float, float | None, float | None]] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    open_fds: list[int] = field(default_factory=list)
    throttled: tuple[int | None, int | None] = (None, None)
    status: dict[str, Any] = field(default_factory=dict)
    healths: set[int] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "edge_detector", "run", "--http", "127.0.0.1:0"]
    command += ["--model", MODEL] if MODEL else []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def service(process: subprocess.Popen[str]) -> Iterator[Watched]:
    """The service after it was watched for `DURATION_S`; it still runs."""
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(map(str.rstrip, process.stderr)))  # type: ignore[arg-type]
    start_s = time.monotonic()
    reader.start()
    try:
        ready = _wait_until_ready(process, lines, start_s)
        url = re.search(r"http://127\.0\.0\.1:\d+/", ready)
        assert url is not None, ready
        watched = Watched(url[0], ready, time.monotonic() - start_s, lines=lines)
        _wait_for_inference(watched, start_s)
        before = pi_machine.throttled()
        end_s = time.monotonic() + DURATION_S
        while time.monotonic() < end_s:
            _sample(watched)
            time.sleep(min(1.0, DURATION_S / 5))
        watched.throttled = before, pi_machine.throttled()
        yield watched
    finally:
        process.kill()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


def test_pictures_come_and_are_searched(service: Watched, figure: Any) -> None:
    figure("shown", service.ready_line.partition(" -> ")[0].split()[-1])
    figure("ready after", f"{service.started_in_s:.1f} s")
    (camera,) = service.status["cameras"].values()
    figure("pictures", f"{camera['fps'].get('capture', 0):.1f} per second")
    figure("searched", f"{camera['fps'].get('inference', 0):.2f} per second")
    if camera["latency_p50_s"] is not None:
        p50_ms, p95_ms = camera["latency_p50_s"] * 1e3, camera["latency_p95_s"] * 1e3
        figure("picture to detection", f"{p50_ms:.0f} ms (p95 {p95_ms:.0f})")
    assert camera["state"] == "live"
    assert camera["stats"]["captured"] > 0
    assert camera["stats"]["inferred"] > 0
    assert service.healths == {200}, "it was not healthy all the time"
    assert not [line for line in service.lines if "Traceback" in line or " ERROR " in line], service.lines


def test_memory_threads_and_files_stay(service: Watched, figure: Any) -> None:
    memory_mb = np.array([sample[0] for sample in service.samples])
    third = max(1, len(memory_mb) // 3)
    growth_mb = float(np.median(memory_mb[-third:]) - np.median(memory_mb[:third]))
    figure("memory", f"{memory_mb[-1]:.0f} MB, at most {memory_mb.max():.0f}, grown by {growth_mb:+.1f}")
    figure("threads", f"{min(service.threads)} to {max(service.threads)}")
    figure("open files", f"{min(service.open_fds)} to {max(service.open_fds)}")
    assert growth_mb < MEMORY_GROWTH_MB_AT_MOST
    half = len(service.open_fds) // 2
    assert max(service.open_fds[half:]) <= max(service.open_fds[:half]) + 5, service.open_fds


def test_stays_cool(service: Watched, figure: Any) -> None:
    temperatures_c = [celsius for _, celsius, _ in service.samples if celsius is not None]
    clocks_mhz = [mhz for _, _, mhz in service.samples if mhz is not None]
    if clocks_mhz:
        figure("clock rate", f"{min(clocks_mhz):.0f} to {max(clocks_mhz):.0f} MHz")
    if not temperatures_c:
        pytest.skip("this machine does not say its temperature (/sys/class/thermal/thermal_zone0)")
    figure("temperature", f"{temperatures_c[0]:.0f} to {max(temperatures_c):.0f} °C")
    assert max(temperatures_c) < HOT_C, "it slows itself down from here on: give it a heat sink or a fan"


def test_is_not_throttled(service: Watched, figure: Any) -> None:
    before, after = service.throttled
    if before is None or after is None:
        pytest.skip("no Raspberry Pi firmware here that says so (vcgencmd get_throttled)")
    since_boot = pi_machine.throttling_words(after >> 16)
    figure("throttling", f"{before:#x} before, {after:#x} after; since the start: {', '.join(since_boot) or 'none'}")
    # What happened meanwhile is seen in the sticky bits, if it is over; what was before it, in the present ones.
    during = pi_machine.throttling_words(after | (after & ~before) >> 16)
    assert not during, "under-voltage: use the Pi's own power supply; else see to its cooling"


def test_pages_and_interfaces_answer(service: Watched, figure: Any) -> None:
    assert b"<html" in _get(service, "").lower()
    _get(service, "healthz")  # an answer other than 200 raises
    _get(service, "readyz")
    assert b"edge_detector_" in _get(service, "metrics")
    assert json.loads(_get(service, "openapi.json"))["openapi"].startswith("3.")
    picture = cv2.imdecode(np.frombuffer(_get(service, "snapshot.jpg"), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    figure("picture", f"{picture.shape[1]}x{picture.shape[0]}")
    newest = json.loads(_get(service, "api/detections"))
    figure("found in the newest", f"{len(newest['detections'])}")
    assert (newest["width"], newest["height"]) == picture.shape[1::-1]
    with urllib.request.urlopen(f"{service.url}stream.mjpg", timeout=10) as stream:
        assert stream.headers["Content-Type"].startswith("multipart/x-mixed-replace")
        assert JPEG_START in stream.read(4096)


def test_results_come_over_the_websocket(service: Watched) -> None:
    async def receive() -> list[Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{service.url}ws", timeout=aiohttp.ClientWSTimeout(ws_close=5)) as socket,
        ):
            return [json.loads((await socket.receive(START_LIMIT_S)).data) for _ in range(3)]

    for message in asyncio.run(receive()):
        assert {"frame_id", "detections"} <= set(message), message


def test_sigterm_ends_it_in_time(service: Watched, process: subprocess.Popen[str], figure: Any) -> None:
    start_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(30)
    took_s = time.monotonic() - start_s
    figure("ended after", f"{took_s:.2f} s")
    assert code == 0, service.lines
    assert took_s < ENDS_WITHIN_S


def _wait_until_ready(process: subprocess.Popen[str], lines: list[str], start_s: float) -> str:
    while time.monotonic() - start_s < START_LIMIT_S:
        ready = next((line for line in list(lines) if " -> " in line), None)
        if ready is not None:
            return ready
        assert process.poll() is None, lines
        time.sleep(0.05)
    raise AssertionError(f"not ready after {START_LIMIT_S:g} s: {lines}")


def _wait_for_inference(watched: Watched, start_s: float) -> None:
    while time.monotonic() - start_s < START_LIMIT_S:
        cameras = json.loads(_get(watched, "api/status"))["service"]["cameras"]
        if all(camera["stats"]["inferred"] for camera in cameras.values()):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing searched after {START_LIMIT_S:g} s: {watched.lines}")


def _sample(watched: Watched) -> None:
    with urllib.request.urlopen(f"{watched.url}healthz", timeout=10) as response:
        watched.healths.add(response.status)
    watched.status = json.loads(_get(watched, "api/status"))["service"]
    used = watched.status["process"]
    watched.samples.append((used["rss_bytes"] / 1e6, used["temperature_c"], pi_machine.frequency_mhz()))
    watched.threads.append(used["threads"])
    watched.open_fds.append(used["open_fds"])


def _get(watched: Watched, path: str) -> bytes:
    with urllib.request.urlopen(watched.url + path, timeout=10) as response:
        content: bytes = response.read()
        return content
