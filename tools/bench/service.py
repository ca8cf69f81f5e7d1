"""`edge-detector run` against bare inference: throughput, latency, what viewers cost, start and memory.

    python -m tools.bench.service --model person-320 --model person-640 --rounds 3

Every window of the service follows one of bare inference, and all kinds of windows take turns in every round. Rates and
counts are those of the service's /metrics, latencies those of the lines of JSON that it writes, as they are read from
its pipe; processor time and memory are the kernel's. Viewers are clients in another process on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_detector.backends.tflite import default_threads
from edge_detector.registry import resolve_model
from tools.bench.running import RunningService, bare_invoke, viewers
from tools.bench.viewers import MJPEG, SOCKET

SIZE_WH = 1280, 720
CAMERA_FPS = 30.0, 240.0  # at least, at most; between, twice what the model can do
PACED_CAMERA_FPS, PACED_DETECT_FPS = 30.0, 1.0  # so slow that inference is the same whoever watches
WATCHED = ((MJPEG, 0), (MJPEG, 1), (SOCKET, 1), (MJPEG, 10), (SOCKET, 10))
STARTS = 5
MEMORY_AFTER_S = 60.0
# What is wanted. Throughput: with one viewer, of bare inference, by the canvas's side; else at most.
THROUGHPUT = {320: 0.90, 640: 0.95}
QUIET = 0.9
TEN_VIEWERS, ABOVE_MODEL_MB, FIRST_DETECTION_S = 1.3, 130.0, 1.5


@dataclass(frozen=True)
class Spread:
    """Median, least and most of what the rounds gave."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize what the rounds gave."""
        return cls(float(np.median(values)), float(min(values)), float(max(values)))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g}-{self.most:.3g})"


@dataclass(frozen=True)
class Load:
    """The service at full speed, or paced, while `viewers` watch by `kind`.

    Attributes:
        viewers: how many.
        kind: "mjpeg" or "socket", which is what the page uses.
        fps: inferences per second.
        share: that of the window of bare inference before it, 0..1; None where it is paced.
        p50_ms, p95_ms: from taking a picture to reading the line about what was found in it.
        cores: processors that the service's process took.
        cpu_ms: its processor time per inference, all that it does between two of them included.
        pictures_per_s: JPEGs made, once for all viewers.
        missed_per_s: pictures per second that viewers were too slow for, all together.
    """

    viewers: int
    kind: str
    fps: Spread
    share: Spread | None
    p50_ms: Spread
    p95_ms: Spread
    cores: Spread
    cpu_ms: Spread
    pictures_per_s: Spread
    missed_per_s: Spread

    @classmethod
    def of(cls, kind: str, count: int, windows: Sequence[_Window]) -> Load:
        """Summarize the windows of all rounds."""

        def spread(name: str) -> Spread:
            return Spread.of([getattr(window, name) for window in windows])

        shares = [window.fps / window.bare_fps for window in windows if window.bare_fps is not None]
        names = ("p50_ms", "p95_ms", "cores", "cpu_ms", "pictures_per_s", "missed_per_s")
        rest = {name: spread(name) for name in names}
        return cls(count, kind, spread("fps"), Spread.of(shares) if shares else None, **rest)


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6 bytes) of the service after a minute with one viewer; `above_model`: `rss` without the file."""

    model: float
    rss: float
    anonymous: float
    files: float
    peak: float
    above_model: float


@dataclass(frozen=True)
class Target:
    """What is wanted of a figure, what it is, and whether that is enough; None: others kept the machine busy."""

    name: str
    wanted: float
    found: float
    met: bool | None


@dataclass(frozen=True)
class ServiceRow:
    """All of one model.

    Attributes:
        model: its file's name, without .tflite.
        threads: of the interpreter.
        machine: architecture and cores.
        quiet: whether the bare loop got its processors, at least `QUIET` of them; else times and rates say little.
        rounds, window_s: how often and how long each was measured.
        bare_fps: inferences per second of the bare loop.
        bare_cores: the processors that it took.
        bare_cpu_ms: its processor time per inference.
        full_speed: with a camera of twice the model's rate.
        paced: with `PACED_CAMERA_FPS` and `PACED_DETECT_FPS`, to compare what viewers cost.
        opened_s: seconds from starting the program until all was open.
        first_detection_s: seconds from starting the program until the first result was read.
        memory_mb: see `Memory`.
        targets: what is wanted, and whether it is so.
    """

    model: str
    threads: int
    machine: str
    quiet: bool
    rounds: int
    window_s: float
    bare_fps: Spread
    bare_cores: Spread
    bare_cpu_ms: Spread
    full_speed: tuple[Load, ...]
    paced: tuple[Load, ...]
    opened_s: Spread
    first_detection_s: Spread
    memory_mb: Memory
    targets: tuple[Target, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Window:
    bare_fps: float | None
    fps: float
    p50_ms: float
    p95_ms: float
    cores: float
    pictures_per_s: float
    missed_per_s: float

    @property
    def cpu_ms(self) -> float:
        return 1e3 * self.cores / self.fps


def measure_service(
    model: Path, rounds: int = 3, window_s: float = 8.0, on_progress: Callable[[str], None] = lambda step: None
) -> ServiceRow:
    """Measure the service with this model; takes about three minutes a round.

    Raises:
        RuntimeError: the service does not work.
    """
    threads = default_threads()
    bare: list[dict[str, float]] = []
    full: dict[tuple[str, int], list[_Window]] = {one: [] for one in WATCHED}
    paced: dict[tuple[str, int], list[_Window]] = {one: [] for one in WATCHED}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starts = _starts(model, threads, folder)
        for number in range(rounds):
            order = [*WATCHED[number % len(WATCHED) :], *WATCHED[: number % len(WATCHED)]]
            for kind, count in order:
                on_progress(f"{model.stem}: round {number + 1} of {rounds}, full speed, {count} viewers ({kind})")
                bare.append(bare_invoke(model, threads, window_s))
                camera_fps = float(np.clip(2 * bare[-1]["fps"], *CAMERA_FPS))
                with RunningService(_settings(model, threads, camera_fps), folder) as service:
                    full[kind, count].append(_window(service, kind, count, window_s, bare[-1]["fps"]))
            on_progress(f"{model.stem}: round {number + 1} of {rounds}, paced")
            with RunningService(_settings(model, threads, PACED_CAMERA_FPS, PACED_DETECT_FPS), folder) as service:
                for kind, count in order:
                    paced[kind, count].append(_window(service, kind, count, window_s))
        on_progress(f"{model.stem}: memory")
        memory = _memory(model, threads, folder)
    full_speed = tuple(Load.of(*one, windows) for one, windows in full.items())
    streaming = tuple(Load.of(*one, windows) for one, windows in paced.items())
    first_detection_s = Spread.of([first_s for _, first_s in starts])
    bare_cores = Spread.of([one["cores"] for one in bare])
    quiet = bare_cores.median >= QUIET * threads
    return ServiceRow(
        model=model.stem,
        threads=threads,
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        quiet=quiet,
        rounds=rounds,
        window_s=window_s,
        bare_fps=Spread.of([one["fps"] for one in bare]),
        bare_cores=bare_cores,
        bare_cpu_ms=Spread.of([1e3 * one["cores"] / one["fps"] for one in bare]),
        full_speed=full_speed,
        paced=streaming,
        opened_s=Spread.of([opened_s for opened_s, _ in starts]),
        first_detection_s=first_detection_s,
        memory_mb=memory,
        targets=tuple(_targets(model, quiet, full_speed, streaming, first_detection_s, memory)),
    )


def _settings(model: Path, threads: int, camera_fps: float, detect_fps: float | None = None) -> dict[str, Any]:
    width, height = SIZE_WH
    source = f"synthetic://?width={width}&height={height}&fps={camera_fps:.2f}"
    camera = {"source": source, "detect_fps": detect_fps}
    return {"model": {"path": str(model), "num_threads": threads}, "cameras": {"camera": camera}}


def _starts(model: Path, threads: int, folder: Path) -> list[tuple[float, float]]:
    """Return the seconds until all was open and until the first result; one start before fills the page cache."""
    found = []
    for _ in range(STARTS + 1):
        with RunningService(_settings(model, threads, CAMERA_FPS[0]), folder) as service:
            found.append((service.opened_s, service.first_detection_s))
    return found[1:]


def _window(service: RunningService, kind: str, count: int, window_s: float, bare_fps: float | None = None) -> _Window:
    with viewers(service.url, kind, count):
        time.sleep(1.0)  # after the viewers' start
        first = service.read()
        time.sleep(window_s)
        last = service.read()
    took_s = last.at_s - first.at_s
    latencies_ms = 1e3 * np.array(service.latencies_s(first.at_s, last.at_s))
    p50_ms, p95_ms = np.percentile(latencies_ms, (50, 95)) if len(latencies_ms) else (np.nan, np.nan)
    return _Window(
        bare_fps=bare_fps,
        fps=(last.inferred - first.inferred) / (last.inferred_s - first.inferred_s),
        p50_ms=float(p50_ms),
        p95_ms=float(p95_ms),
        cores=(last.cpu_s - first.cpu_s) / took_s,
        pictures_per_s=(last.encoded - first.encoded) / took_s,
        missed_per_s=(last.missed - first.missed) / took_s,
    )


def _memory(model: Path, threads: int, folder: Path) -> Memory:
    with (
        RunningService(_settings(model, threads, PACED_CAMERA_FPS), folder) as service,
        viewers(service.url, SOCKET, 1),
    ):
        time.sleep(MEMORY_AFTER_S)
        found = service.memory_mb()
    file_mb = model.stat().st_size / 1e6
    return Memory(model=file_mb, above_model=found["rss"] - file_mb, **found)


def _targets(
    model: Path,
    quiet: bool,
    full_speed: Sequence[Load],
    paced: Sequence[Load],
    first_detection_s: Spread,
    memory: Memory,
) -> list[Target]:
    found = []
    wanted = next((share for side, share in THROUGHPUT.items() if f"_{side}_" in model.stem), None)
    for load in full_speed:
        if load.viewers == 1 and load.share is not None and wanted is not None:
            share = load.share.median
            found.append(
                Target(f"inferences of bare, 1 viewer, {load.kind}", wanted, share, share >= wanted if quiet else None)
            )
    for kind in (MJPEG, SOCKET):
        one, ten = (next(load for load in paced if (load.kind, load.viewers) == (kind, n)) for n in (1, 10))
        ratio = ten.cores.median / one.cores.median
        found.append(Target(f"CPU of 10 viewers to that of 1, {kind}", TEN_VIEWERS, ratio, ratio <= TEN_VIEWERS))
    found.append(
        Target("MB of memory above the model", ABOVE_MODEL_MB, memory.above_model, memory.above_model <= ABOVE_MODEL_MB)
    )
    start_s = first_detection_s.median
    in_time = start_s <= FIRST_DETECTION_S
    found.append(
        Target("seconds to the first result", FIRST_DETECTION_S, start_s, in_time if quiet else in_time or None)
    )
    return found


_VERDICTS = {True: "met    ", False: "MISSED ", None: "unknown"}


def to_text(row: ServiceRow) -> str:
    """Return a table for people."""
    lines = [
        f"{row.model}, {row.threads} threads, {row.machine}; {row.rounds} rounds of {row.window_s:g} s, "
        "median (least-most)" + ("" if row.quiet else "; OTHERS KEPT THE MACHINE BUSY: times and rates are rough"),
        f"bare inference: {row.bare_fps} fps, {row.bare_cores} cores, {row.bare_cpu_ms} ms of CPU each",
    ]
    for title, loads in (("full speed", row.full_speed), ("paced", row.paced)):
        quiet = next(load for load in loads if not load.viewers).cores.median
        for load in loads:
            share = "" if load.share is None else f", of bare {load.share}"
            above = "" if not load.viewers else f", {load.cores.median - quiet:+.3f} by viewers"
            lines.append(
                f"{title}, {load.viewers:2} {load.kind:6}: {load.fps} fps{share}, p50 {load.p50_ms} ms, "
                f"p95 {load.p95_ms} ms, {load.cores} cores{above}, {load.cpu_ms} ms of CPU per inference, "
                f"{load.pictures_per_s.median:.1f} pictures/s, "
                f"{load.missed_per_s.median:.1f} missed/s"
            )
    memory = ", ".join(f"{name} {value:.1f}" for name, value in asdict(row.memory_mb).items())
    lines += [
        f"start: open after {row.opened_s} s, first result after {row.first_detection_s} s",
        f"memory in MB after {MEMORY_AFTER_S:g} s: {memory}",
        *(
            f"{_VERDICTS[target.met]} {target.name}: {target.found:.3g}, wanted {target.wanted:g}"
            for target in row.targets
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", metavar="NAME|PATH", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a window")
    parser.add_argument("--json", action="store_true", help="print one JSON object per model")
    given = parser.parse_args()
    for name in given.model:
        row = measure_service(
            resolve_model(name), given.rounds, given.seconds, lambda step: print(step, file=sys.stderr, flush=True)
        )
        print(json.dumps(row.to_json()) if given.json else to_text(row), flush=True)


if __name__ == "__main__":
    main()
