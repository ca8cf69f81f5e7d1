"""What this process uses, from /proc and /sys."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from pathlib import Path

import cv2

from edge_detector.abandoned import count_abandoned
from edge_detector.runtime.metrics import ProcessStatus

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SYS = Path("/sys")
# Bits of the firmware's answer, the same as of `vcgencmd get_throttled`.
_THROTTLED = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
_LIBC = ctypes.CDLL(None)
_M_ARENA_MAX = -8  # in glibc's malloc.h
_ARENAS = 2


def share_heaps() -> None:
    """Let all threads share two heaps of the C library; see `return_memory`.

    glibc would give each thread its own, and in months pictures leave holes in all of them that nothing fits into.
    """
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_ARENA_MAX, _ARENAS)


def share_processors() -> None:
    """Let OpenCV work on the thread that calls it: the pipeline's threads and the interpreter's fill the processors.

    Its own threads would wake up for parts of pictures that take less time than waking up does.
    """
    cv2.setNumThreads(1)


def return_memory() -> None:
    """Collect what refers to itself, and give free pages back to the system; takes a few ms, the first time 0.1 s.

    What is there the first time, which is modules most of all, counts as needed for ever and is not looked at again.
    Other C libraries than glibc give pages back by themselves.
    """
    gc.collect()
    if gc.get_freeze_count() == 0:
        gc.freeze()
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def process_status(started_s: float) -> ProcessStatus:
    """Return what the process uses now; `started_s` is the monotonic time of its start."""
    return ProcessStatus(
        uptime_s=time.monotonic() - started_s,
        threads=threading.active_count(),
        open_fds=_open_fds(),
        rss_bytes=_rss_bytes(),
        abandoned=count_abandoned(),
        temperature_c=_temperature_c(),
        cpu_s=time.process_time(),
        throttled=throttled(),
    )


def _open_fds() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    except OSError:
        return None


def _rss_bytes() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return None


def throttled(sys: Path = _SYS) -> dict[str, bool]:
    """Return what the Raspberry Pi's firmware says of power and heat now; nothing on other machines."""
    try:
        bits = int((sys / "devices/platform/soc/soc:firmware/get_throttled").read_text(), 16)
    except (OSError, ValueError):
        return {}
    return {name: bool(bits >> bit & 1) for bit, name in enumerate(_THROTTLED)}


def _temperature_c() -> float | None:
    try:
        return int((_SYS / "class/thermal/thermal_zone0/temp").read_text()) / 1000
    except (OSError, ValueError):
        return None
