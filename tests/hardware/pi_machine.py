"""What machine this is: for the report of the acceptance."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "edge-detector",
    "ai-edge-litert",
    "tflite-runtime",
    "numpy",
    "opencv-python-headless",
    "picamera2",
    "aiohttp",
    "av",
)
# Bits of the firmware's get_throttled; the same 16 bits higher: since the machine was started.
THROTTLING = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_GET_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_CORAL_IDS = {("1a6e", "089a"), ("18d1", "9302")}  # before and after its firmware is loaded


def describe() -> dict[str, str]:
    """Return what the machine is and what is installed, in the order to show it in."""
    facts = {
        "machine": model(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "memory": _memory(),
        "system": _system(),
        "kernel": platform.release(),
        "Python": f"{platform.python_version()}, {64 if sys.maxsize > 2**32 else 32} bit",
        "C library": " ".join(platform.libc_ver()),
        "libcamera": _answer("libcamera-hello", "--version") or _answer("rpicam-hello", "--version") or "no",
        "libedgetpu": ctypes.util.find_library("edgetpu") or "no",
        "Edge TPU": ", ".join(corals()) or "no",
        "commit": _answer("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty") or "unknown",
    }
    return facts | {name: version for name in PACKAGES if (version := installed(name)) is not None}


def model() -> str:
    """Return the name of the board, such as "Raspberry Pi 5 Model B Rev 1.0", or of the PC's processor."""
    tree = Path("/proc/device-tree/model")
    if tree.exists():
        return tree.read_text().strip("\0\n ")
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return f"a PC, {line.partition(':')[2].strip()}"
    return f"unknown, {platform.machine()}"


def installed(package: str) -> str | None:
    """Return the version of a Python package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def throttled() -> int | None:
    """Return the firmware's throttling bits, see `THROTTLING`; None where there is no such firmware."""
    text = "".join(_lines(_GET_THROTTLED)[:1]) or (_answer("vcgencmd", "get_throttled") or "").partition("=")[2]
    try:
        return int(text, 16)
    except ValueError:
        return None


def throttling_words(bits: int) -> list[str]:
    """Return the names of the bits that are set, of the lower half only."""
    return [name for bit, name in THROTTLING.items() if bits >> bit & 1]


def frequency_mhz() -> float | None:
    """Return the present clock rate of the first core; None where the kernel does not say."""
    lines = _lines(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"))
    return int(lines[0]) / 1000 if lines else None


def corals() -> list[str]:
    """Return where Edge TPUs are: "USB 2-1 (5000 Mbit/s)", "/dev/apex_0"."""
    found = []
    for device in sorted(Path("/sys/bus/usb/devices").glob("*")):
        ids = tuple("".join(_lines(device / name)[:1]) for name in ("idVendor", "idProduct"))
        if ids in _CORAL_IDS:
            found.append(f"USB {device.name} ({''.join(_lines(device / 'speed')[:1])} Mbit/s)")
    return found + sorted(map(str, Path("/dev").glob("apex_*")))


def _memory() -> str:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemTotal:"):
            return f"{int(line.split()[1]) / 1024:.0f} MB"
    return "unknown"


def _system() -> str:
    release = dict(line.partition("=")[::2] for line in _lines(Path("/etc/os-release")))
    name = release.get("PRETTY_NAME", "unknown").strip('"')
    return f"{name} (Raspberry Pi OS)" if Path("/etc/rpi-issue").exists() else name


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _answer(*command: str) -> str | None:
    """Return the first line that a command prints; None if there is no such command or it fails."""
    if shutil.which(command[0]) is None:
        return None
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    lines = result.stdout.strip().splitlines()
    return lines[0] if result.returncode == 0 and lines else None
