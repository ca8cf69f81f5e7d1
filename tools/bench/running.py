"""`edge-detector run` as a child process, what it says of itself, and what the kernel says of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from prometheus_client.parser import text_string_to_metric_families

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")
_URL = re.compile(r"http://127\.0\.0\.1:\d+/")


@dataclass(frozen=True)
class Reading:
    """One moment of the service.

    Attributes:
        inferred: inferences so far, by /metrics.
        inferred_s: when the newest of them ended, on the service's own clock.
        encoded: JPEGs made for viewers so far, by /metrics.
        missed: pictures that viewers were too slow for so far, by /metrics.
        cpu_s: processor time of its threads, by the kernel.
        at_s: monotonic time.
    """

    inferred: float
    inferred_s: float
    encoded: float
    missed: float
    cpu_s: float
    at_s: float


class RunningService:
    """`edge-detector run --config`, its lines of JSON on a pipe; use it as a context manager.

    Attributes:
        url: where its page is.
        opened_s: seconds from its start until all was open.
        first_detection_s: seconds from its start until the first line about an inference was read.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        """Start it and wait for the first detection.

        Raises:
            RuntimeError: it ended, or no detection came.
        """
        config = folder / "settings.yaml"
        config.write_text(json.dumps({**settings, "http": "127.0.0.1:0", "output": {"jsonl": "-"}}))
        self._latencies: list[tuple[float, float]] = []  # when a line came, and how old its inference's picture was
        self._first = threading.Event()
        start_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge_detector", "run", "--config", str(config)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )
        self.pid = self._process.pid
        self._said: list[str] = []
        self._opened = threading.Event()
        reads = ((self._read_lines, self._process.stdout), (self._read_log, self._process.stderr))
        self._readers = [threading.Thread(target=work, args=(pipe,), daemon=True) for work, pipe in reads]
        for reader in self._readers:
            reader.start()
        self._wait(self._opened)
        self.opened_s = time.monotonic() - start_s
        self._wait(self._first)
        self.first_detection_s = self._latencies[0][0] - start_s

    def __enter__(self) -> RunningService:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        self._kill()

    def read(self) -> Reading:
        """Ask the service and the kernel."""
        with urllib.request.urlopen(f"{self.url}metrics", timeout=10) as answer:
            text = answer.read().decode()
        values: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("queue", "viewers") == "viewers":
                    values[sample.name.removeprefix("edge_detector_")] = sample.value
        return Reading(
            inferred=values["inferred_total"],
            inferred_s=values["uptime_seconds"] - values["inference_age_seconds"],
            encoded=values["pictures_encoded_total"],
            missed=values["queue_dropped_total"],
            cpu_s=cpu_s(self.pid),
            at_s=time.monotonic(),
        )

    def latencies_s(self, start_s: float, end_s: float) -> list[float]:
        """Return for each line that came in this time how long before its inference's picture had been taken."""
        return [latency_s for came_s, latency_s in list(self._latencies) if start_s <= came_s <= end_s]

    def memory_mb(self) -> dict[str, float]:
        """Return "rss", its "anonymous" part and that of "files", and the "peak" so far, in 10^6 bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        keys = {"rss": "VmRSS", "anonymous": "RssAnon", "files": "RssFile", "peak": "VmHWM"}
        found = {name: re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE) for name, key in keys.items()}
        return {name: int(match[1]) * 1024 / 1e6 for name, match in found.items() if match}

    def _wait(self, event: threading.Event) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not event.wait(0.2):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._kill()
                raise RuntimeError(f"the service does not work: {''.join(self._said)[-2000:]}")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()

    def _read_lines(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                came_s, now = time.monotonic(), time.time()
                result = json.loads(line)
                self._latencies.append((came_s, now - result["ts"] + result["age_ms"] / 1e3))
                self._first.set()

    def _read_log(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self._said.append(line)
                if not self._opened.is_set() and (match := _URL.search(line)):
                    self.url = match[0]
                    self._opened.set()


def child_environment() -> dict[str, str]:
    """Return the environment of a child: it compiles its modules once, as an installed program is."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def cpu_s(pid: int) -> float:
    """Return the processor time of a process and its threads so far, by the kernel's account."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def bare_invoke(model: Path, threads: int, seconds: float) -> dict[str, float]:
    """Return "fps" and "cores" of a loop of nothing but inferences, in a process of its own."""
    command = [sys.executable, "-m", "tools.bench.invoke", str(model), str(threads), str(seconds)]
    done = subprocess.run(command, cwd=REPOSITORY, env=child_environment(), capture_output=True, text=True, check=True)
    return cast(dict[str, float], json.loads(done.stdout))


@contextmanager
def viewers(url: str, kind: str, count: int) -> Iterator[None]:
    """Let so many clients watch; see `tools.bench.viewers`.

    Raises:
        RuntimeError: they get no pictures.
    """
    if not count:
        yield
        return
    command = [sys.executable, "-m", "tools.bench.viewers", url, kind, str(count)]
    watching = subprocess.Popen(command, cwd=REPOSITORY, env=child_environment(), stdout=subprocess.PIPE, text=True)
    with watching:
        try:
            if cast(IO[str], watching.stdout).readline() != "watching\n":
                raise RuntimeError(f"{count} viewers ({kind}) get no pictures from {url}")
            yield
        finally:
            watching.kill()
