"""What a run was measured on and with: without it figures cannot be compared."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_detector.doctor.host import Host
from edge_detector.runtime.process import process_status
from tools.environments import REPOSITORY


@dataclass(frozen=True)
class Machine:
    """The machine, as it says itself; "" is what it does not say.

    Attributes:
        board: of a board that knows its name, such as a Raspberry Pi.
        cpu: model of the processor.
        cores: that this process may use.
        governors: who chooses the cores' frequency.
        memory_mb: of the machine.
        kernel, system, architecture: of the operating system.
    """

    board: str
    cpu: str
    cores: int
    governors: str
    memory_mb: int
    kernel: str
    system: str
    architecture: str

    @classmethod
    def read(cls, host: Host | None = None) -> Machine:
        """Look at this machine, or at `host`."""
        host = host or Host()
        policies = [host.read(f"/{path.relative_to(host.root)}") for path in host.glob(_GOVERNORS)]
        return cls(
            board=host.read("/proc/device-tree/model") or "",
            cpu=_cpu(host.read("/proc/cpuinfo") or ""),
            cores=len(os.sched_getaffinity(0)),
            governors=", ".join(sorted({name for name in policies if name})),
            memory_mb=host.memory().get("MemTotal", 0) // 10**6,
            kernel=platform.release(),
            system=_field(host.read("/etc/os-release") or "", r'^PRETTY_NAME="?([^"\n]+)'),
            architecture=host.machine,
        )


_GOVERNORS = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"


@dataclass(frozen=True)
class Moment:
    """How the machine is before and after a run: others' work and heat make figures worse.

    Attributes:
        wall_time: ISO 8601, UTC.
        load: average of the last minute.
        temperature_c: of the processor, None where nothing tells it.
        throttled: what a Raspberry Pi's firmware complains of.
    """

    wall_time: str
    load: float
    temperature_c: float | None
    throttled: tuple[str, ...]

    @classmethod
    def now(cls) -> Moment:
        """Look at the machine."""
        status = process_status(0.0)
        return cls(
            wall_time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            load=os.getloadavg()[0],
            temperature_c=status.temperature_c,
            throttled=tuple(name for name, active in status.throttled.items() if active),
        )


def sha256_of(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files, by their names."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def git_commit() -> str:
    """Return the checkout's commit, with "+" behind it where files differ; "" without git."""
    git = shutil.which("git")
    if git is None or not (REPOSITORY / ".git").exists():
        return ""

    def said(*words: str) -> str:
        command = [git, "-C", str(REPOSITORY), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return said("rev-parse", "--short=12", "HEAD") + ("+" if said("status", "--porcelain", "-uno") else "")


def _cpu(cpuinfo: str) -> str:
    """Return the processor's model; ARM's kernels give a part number in place of it."""
    named = _field(cpuinfo, r"^(?:model name|Hardware)\s*:\s*(.+)")
    part = _field(cpuinfo, r"^CPU part\s*:\s*(0x\w+)").lower()
    return named or _ARM_PARTS.get(part, f"ARM part {part}" if part else "")


_ARM_PARTS = {"0xd03": "Cortex-A53", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76", "0xd04": "Cortex-A35"}


def _field(text: str, pattern: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1].strip() if match else ""
