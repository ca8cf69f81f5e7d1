"""Runs the service on a looping RTSP stream, breaks something at random times, and shows what that did.

    python tests/integration/soak.py --minutes 30 --output soak/

Not a test: it takes as long as it is told to. Writes log, samples (CSV) and a table; exits with 1 if the service ended.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # for what conftest imports
EVERY_S = 20.0
SAMPLE_S = 1.0
WARM_UP_S = 120.0  # of which memory and threads do not count


def conftest() -> Any:
    spec = importlib.util.spec_from_file_location("rtsp", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_pictures(folder: Path) -> Path:
    """Write the demo clip as pictures, for a server that repeats them."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = cv2.VideoCapture(str(REPOSITORY / "edge_detector" / "assets" / "demo.mp4"))
    for number in range(250):
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), clip.read()[1])
    clip.release()
    return folder


class Faults:
    """What can go wrong between a camera and us; each takes its time and is over when it returns."""

    def __init__(self, server: Any, relay: Any) -> None:
        self._server, self._relay = server, relay
        self.all: dict[str, Callable[[], None]] = {
            "server restarted": self.restart,
            "server stands still": self.stand_still,
            "packets dropped": self.drop,
            "connections cut": self.cut,
            "resolution changed": self.resize,
        }

    def restart(self) -> None:
        self._server.stop()
        time.sleep(random.uniform(0, 4))
        self._server.start()

    def stand_still(self) -> None:
        self._server.pause()
        time.sleep(random.uniform(2, 9))
        self._server.resume()

    def drop(self) -> None:
        self._relay.dropping = True
        time.sleep(random.uniform(2, 9))
        self._relay.dropping = False

    def cut(self) -> None:
        self._relay.cut = True

    def resize(self) -> None:
        self._server.resize(*random.choice([(640, 480), (320, 240), (800, 600)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--output", type=Path, default=Path("soak"))
    parser.add_argument("--model", default="person-320")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    rtsp = conftest()
    server = rtsp.RtspServer(write_pictures(arguments.output / "pictures"))
    relay = rtsp.Relay(server.port)
    log_path = arguments.output / "service.log"
    with log_path.open("w") as log:
        uri = f"rtsp://user:secret@127.0.0.1:{relay.port}/camera"
        service = subprocess.Popen(
            [
                *(sys.executable, "-m", "edge_detector", "run", "--source", uri),
                *("--model", arguments.model, "--http", "127.0.0.1:0"),
            ],
            cwd=REPOSITORY,
            stderr=log,
        )
        try:
            samples, away = soak(service, log_path, Faults(server, relay), 60 * arguments.minutes)
        finally:
            service.terminate()
            start_s = time.monotonic()
            code = service.wait(30)
            print(f"ended with {code}, {time.monotonic() - start_s:.2f} s after SIGTERM")
            relay.close()
            server.stop()
    with (arguments.output / "samples.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, samples[0])
        writer.writeheader()
        writer.writerows(samples)
    show(samples, away)
    return int(code != 0)


def soak(
    service: subprocess.Popen[bytes], log_path: Path, faults: Faults, duration_s: float
) -> tuple[list[dict[str, float]], dict[str, list[float]]]:
    """Return samples of the process, and per fault the seconds that detection was away."""
    url = ""
    while not url:
        time.sleep(0.2)
        assert service.poll() is None, log_path.read_text()
        match = re.search(r"http://127\.0\.0\.1:\d+/", log_path.read_text())
        url = match[0] if match else ""
    samples: list[dict[str, float]] = []
    away: dict[str, list[float]] = {kind: [] for kind in faults.all}
    start_s = time.monotonic()
    next_s = start_s + EVERY_S
    while (now_s := time.monotonic()) - start_s < duration_s:
        assert service.poll() is None, f"the service ended: {log_path.read_text()[-2000:]}"
        samples.append(sample(url, now_s - start_s))
        if now_s >= next_s:
            kind = random.choice(list(faults.all))
            before = samples[-1]["inferred"]
            faults.all[kind]()
            away[kind].append(wait_for_detection(url, now_s, before))
            next_s = now_s + EVERY_S
        time.sleep(SAMPLE_S)
    return samples, away


def wait_for_detection(url: str, since_s: float, before: float) -> float:
    """Return the longest time from `since_s` on in which nothing was detected, once it goes on steadily."""
    last_s, longest_s, steady = since_s, 0.0, 0
    while steady < 20:
        time.sleep(0.1)
        inferred = sample(url, 0)["inferred"]
        now_s = time.monotonic()
        if inferred > before:
            longest_s = max(longest_s, now_s - last_s)
            before, last_s, steady = inferred, now_s, steady + 1
        elif now_s - last_s > 0.5:
            steady = 0
        assert now_s - since_s < 120, "detection did not come back"
    return longest_s


def sample(url: str, at_s: float) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}api/status", timeout=10) as response:
        service = json.loads(response.read())["service"]
    camera, process = service["cameras"]["camera"], service["process"]
    return {
        "s": round(at_s, 1),
        "rss_mb": process["rss_bytes"] / 1e6,
        "threads": process["threads"],
        "fds": process["open_fds"],
        "abandoned": process["abandoned"],
        "inferred": camera["stats"]["inferred"],
        **{name: camera["recovery"][name] for name in ("reopened", "recreated", "freezes")},
    }


def show(samples: list[dict[str, float]], away: dict[str, list[float]]) -> None:
    print(f"{'fault':22}{'times':>6}{'away s, median':>16}{'longest':>9}")
    for kind, times_s in away.items():
        if times_s:
            print(f"{kind:22}{len(times_s):6}{statistics.median(times_s):16.1f}{max(times_s):9.1f}")
    settled = [row for row in samples if row["s"] >= min(WARM_UP_S, samples[-1]["s"] / 2)]
    hours = np.array([row["s"] for row in settled]) / 3600
    slope = np.polyfit(hours, [row["rss_mb"] for row in settled], 1)[0]
    first, last = settled[0], settled[-1]
    thirds = [row["rss_mb"] for row in settled[len(settled) * 2 // 3 :]]
    slope_at_the_end = np.polyfit(hours[-len(thirds) :], thirds, 1)[0]
    print(
        f"RSS {first['rss_mb']:.1f} -> {last['rss_mb']:.1f} MB, slope {slope:+.1f} MB/h, "
        f"over the last third {slope_at_the_end:+.1f} MB/h"
    )
    for name in ("threads", "fds"):
        values = [int(row[name]) for row in settled]
        print(f"{name}: {values[0]} -> {values[-1]}, between {min(values)} and {max(values)}")
    counts = {name: int(last[name]) for name in ("inferred", "reopened", "recreated", "freezes", "abandoned")}
    print(f"over {last['s'] / 60:.1f} minutes: {counts}")


if __name__ == "__main__":
    sys.exit(main())
