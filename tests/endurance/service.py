"""The service as a child process: its settings, its clock, its limit of memory, and what it uses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.endurance.receivers import PREFIX

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO_CLIP = REPOSITORY / "edge_detector" / "assets" / "demo.mp4"
CGROUPS = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True)
class Receivers:
    """Where the service is to send: ports on this machine, 0 where nothing is wanted."""

    broker: int = 0
    webhook: int = 0
    udp: int = 0


def settings(cameras: Mapping[str, str], folder: Path, to: Receivers, *, model: str, detect_fps: float) -> Any:
    """Return settings with all sinks on, and limits so small that files turn over and go all the time."""
    small = {"max_mb": 8, "labels": ["person"]}
    wanted: dict[str, Any] = {
        "cameras": {name: {"source": uri, "detect_fps": detect_fps} for name, uri in cameras.items()},
        "model": {"path": model, "num_threads": 1, "score_threshold": 0.35},
        "http": "127.0.0.1:0",
        "web": {"max_viewers": 40},
        "motion": {"enabled": False},
        "zones": {"left": {"coordinates": "0,0,0.5,0,0.5,1,0,1"}},
        "rules": {"somebody": {"label": "person", "cooldown_s": 5.0}},
        "output": {"jsonl": str(folder / "results.jsonl"), "jsonl_max_mb": 0.3, "jsonl_keep": 2},
        "events": {
            "path": str(folder / "events.db"),
            "jsonl": str(folder / "events.jsonl"),
            "max_mb": 3.0,
            "update_s": 2.0,
        },
        "snapshots": {"path": str(folder / "snapshots"), **small, "max_mb": 4},
        "recordings": {
            "path": str(folder / "clips"),
            **small,
            "pre_roll_s": 1.0,
            "post_roll_s": 1.0,
            "max_clip_s": 4.0,
            "fps": 5.0,
            "max_width": 640,
        },
        "overlay": {"zones": True},
    }
    if to.broker:
        wanted["mqtt"] = {"host": "127.0.0.1", "port": to.broker, "topic_prefix": PREFIX, "stats_interval": 10.0}
    if to.webhook:
        url = f"http://127.0.0.1:{to.webhook}/hook"
        wanted["webhooks"] = {"here": {"url": url, "kinds": ["new", "update", "end", "alert"], "timeout_s": 2.0}}
    if to.udp:
        wanted["udp"] = {"address": f"127.0.0.1:{to.udp}"}
    return wanted


class Clock:
    """The wall clock of the service alone, which can be set; `environment` is {} without gcc."""

    def __init__(self, folder: Path) -> None:
        self.environment: dict[str, str] = {}
        self._offset = folder / "clock.offset"
        self._offset.write_bytes(bytes(8))
        library = folder / "wall_clock.so"
        command = ["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(Path(__file__).with_name("wall_clock.c"))]
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(command, check=True, capture_output=True)
            self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(self._offset)}

    def set(self, days: float) -> None:
        """Set it ahead by so many days, or back."""
        with self._offset.open("r+b") as file:
            file.write(int(days * 86400).to_bytes(8, sys.byteorder, signed=True))


class MemoryLimit:
    """A cgroup (version 1) for the service; `folder` is None where there is none."""

    def __init__(self) -> None:
        self.folder: Path | None = CGROUPS / f"edge-detector-endurance-{os.getpid()}"
        try:
            self.folder.mkdir()
            # What finds no memory waits for it, instead of being killed.
            (self.folder / "memory.oom_control").write_text("1")
        except OSError:
            with suppress(OSError):
                self.folder.rmdir()
            self.folder = None

    def put(self, pid: int) -> None:
        """Put a process there that has just been started: what it has taken before does not count."""
        if self.folder is not None:
            (self.folder / "cgroup.procs").write_text(str(pid))

    def squeeze(self) -> int:
        """Take away all that the kernel can reclaim; return the bytes that are left."""
        assert self.folder is not None
        limit = self.folder / "memory.limit_in_bytes"
        bytes_left = int((self.folder / "memory.usage_in_bytes").read_text())
        with suppress(OSError):  # busy: nothing more can be taken
            while bytes_left > 0:
                limit.write_text(str(bytes_left - 2 * 1024 * 1024))
                bytes_left -= 2 * 1024 * 1024
        return bytes_left

    def relax(self) -> None:
        assert self.folder is not None
        (self.folder / "memory.limit_in_bytes").write_text("-1")

    def close(self) -> None:
        if self.folder is not None:
            for _ in range(50):
                with suppress(OSError):
                    self.folder.rmdir()
                    return
                time.sleep(0.1)


class Service:
    """`edge-detector run --config`, which is killed when whoever started it dies."""

    def __init__(self, folder: Path, wanted: Any, clock: Clock | None = None, limit: MemoryLimit | None = None) -> None:
        self.wanted = wanted
        self.log = folder / "service.log"
        self._config = folder / "settings.yaml"
        self.write_settings()
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PYTHONFAULTHANDLER": "1"}
        environment |= {} if clock is None else clock.environment
        tied = [] if shutil.which("setpriv") is None else ["setpriv", "--pdeathsig", "KILL"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*tied, sys.executable, "-m", "edge_detector", "run", "--config", str(self._config)],
                cwd=REPOSITORY,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        if limit is not None:
            limit.put(self.process.pid)
        self.pid = self.process.pid

    def write_settings(self) -> None:
        """Write the settings; the service reads them at its start, and on SIGHUP."""
        self._config.write_text(json.dumps(self.wanted, indent=1))

    def wait_for_url(self, timeout_s: float = 60.0) -> str:
        """Return the address of the page once it is said, with a slash at its end."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s and self.process.poll() is None:
            if match := re.search(r"http://127\.0\.0\.1:\d+/", self.log.read_text(errors="replace")):
                return match[0]
            time.sleep(0.1)
        raise RuntimeError(f"the service did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def end(self) -> tuple[int, float]:
        """Stop it by SIGTERM; return its exit code and how long that took."""
        started_s = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
        self.process.terminate()
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return code, time.monotonic() - started_s


def get(url: str, timeout_s: float = 10.0) -> Any:
    """Return the JSON at an address."""
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return json.load(answer)


def usage(pid: int) -> dict[str, float]:
    """Return what a process uses, by the kernel's account; `fds` without clips, of which some are open at times."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    fds = clips = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            name = os.readlink(link)  # noqa: PTH115 - may be no path
            fds += 1
            clips += name.endswith(".mp4") and "/clips/" in name

    def megabytes(key: str) -> float:
        found = re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 / 1e6 if found else 0.0

    return {
        "rss_mb": round(megabytes("VmRSS"), 2),
        "anonymous_mb": round(megabytes("RssAnon"), 2),
        "threads": float(re.search(r"^Threads:\s+(\d+)", status, re.MULTILINE)[1]),  # type: ignore[index]
        "fds": float(fds - clips),
        "clips_open": float(clips),
        "cpu_s": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
    }


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found
