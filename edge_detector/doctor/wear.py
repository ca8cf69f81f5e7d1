"""Checks of disks: space, errors, and what wears them out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os.path import exists  # is false where we may not look, in every release of Python
from pathlib import Path

from edge_detector.doctor.context import Context
from edge_detector.doctor.finding import Finding, error, ok, skipped, warning
from edge_detector.doctor.storage import outputs_of, whole_path

_LOW_BYTES, _LITTLE_BYTES = 50 << 20, 500 << 20
# Raspberry Pi OS 13 has in the last one that the journal is kept in memory.
_CONFIG = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")
_WORN_EOL, _WORN_TENTHS = 2, 10  # JEDEC eMMC 5.0: PRE_EOL_INFO 2 is 80 % of spare blocks used; 0x0a is 90-100 % worn


def check_space(context: Context) -> Iterator[Finding]:
    """How much space is left where the settings write, or else at the root."""
    paths = {"/": "the system"}
    if context.config is not None:
        paths = {output.path: output.key for output in outputs_of(context.config)} or paths
    seen = set()
    for name, key in paths.items():
        here = whole_path(context, name)
        while not exists(context.host.path(here)) and here != here.parent:  # noqa: PTH110 - as said above
            here = here.parent
        total, _, free = context.host.disk_usage(context.host.path(here))
        if (total, free) in seen:
            continue
        seen.add((total, free))
        found = f"{_size(free)} of {_size(total)} free at {here} ({key})"
        fix = "Delete something, or lower max_mb and max_age_days in the settings. What is large:"
        command = f"sudo du -xhd2 {here} | sort -h | tail"
        if free < _LOW_BYTES:
            yield error("disk", found, fix, command)
        elif free < _LITTLE_BYTES:
            yield warning("disk", found, fix, command)
        else:
            yield ok("disk", found)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def check_root(context: Context) -> Iterator[Finding]:
    """Whether the root can be written to, and whether what is written there stays."""
    kind, options, _ = _root_mount(context)
    if kind == "overlay":
        yield warning(
            "root",
            "an overlay: all that is written is forgotten at the next start",
            "If that is not meant, turn the overlay off; else let outputs go to another disk:",
            "sudo raspi-config nonint do_overlayfs 1 && sudo reboot",
        )
    elif "ro" in options:
        yield warning(
            "root",
            "read-only: nothing can be written there",
            "If that is not meant, Linux has found errors on the disk, and it should be replaced:",
            "sudo dmesg | grep -i -e mmc -e ext4 -e 'I/O error' | tail",
        )
    else:
        yield ok("root", f"{kind or '?'}, writable")


def check_cards(context: Context) -> Iterator[Finding]:
    """What wears out an SD card, and how worn an eMMC says it is."""
    host, (_, _, device) = context.host, _root_mount(context)
    yield from _check_emmc(context)
    if not device.startswith("/dev/mmcblk"):
        yield skipped("sd card", f"the root is not on one ({device or '?'})")
        return
    hints = 0
    for output in [] if context.config is None else outputs_of(context.config):
        if output.often and _device_of(context, whole_path(context, output.path)) == device:
            hints += 1
            fix = "Let it go to a USB disk or to memory (/dev/shm)"
            fix += ", or set output.jsonl_sync_s: 60." if output.key == "output.jsonl" else "."
            yield warning("sd card", f"{output.key} writes often to it", fix)
    if _journal_is_kept(context):
        hints += 1
        yield warning(
            "sd card",
            "the journal is written to it",
            "Keep it in memory:",
            "sudo mkdir -p /etc/systemd/journald.conf.d && printf '[Journal]\\nStorage=volatile\\n' | "
            "sudo tee /etc/systemd/journald.conf.d/volatile.conf && sudo systemctl restart systemd-journald",
        )
    for line in (host.read("/proc/swaps") or "").splitlines()[1:]:
        name = line.split()[0]
        if name.startswith("/dev/mmcblk") or (name.startswith("/") and not name.startswith("/dev/")):
            hints += 1
            yield warning(
                "sd card",
                f"swap is on it ({name})",
                "Swap to compressed memory:",
                "sudo apt install zram-tools && sudo systemctl disable --now dphys-swapfile",
            )
    if not hints:
        yield ok("sd card", f"{device}: nothing of ours writes to it often, and the journal is kept in memory")


def _check_emmc(context: Context) -> Iterator[Finding]:
    for folder in context.host.glob("/sys/block/mmcblk*/device"):
        try:
            worn = max(int(word, 16) for word in (folder / "life_time").read_text().split())
            spare = int((folder / "pre_eol_info").read_text(), 16)
        except (OSError, ValueError):
            continue  # SD cards do not say
        found = f"{folder.parent.name} has used {10 * max(worn - 1, 0)} to {10 * worn} % of its life"
        if worn >= _WORN_TENTHS or spare >= _WORN_EOL:
            yield error("emmc", found, "Save what is on it, and replace it.")
        else:
            yield ok("emmc", found)


def _journal_is_kept(context: Context) -> bool:
    """Return whether systemd-journald writes to the disk, as journald.conf(5) says."""
    storage = "auto"
    mains = [path for folder in _CONFIG for path in context.host.glob(f"{folder}/journald.conf")]
    drop_ins: dict[str, Path] = {}
    for folder in reversed(_CONFIG):  # of two with one name, that of the first folder counts
        drop_ins |= {path.name: path for path in context.host.glob(f"{folder}/journald.conf.d/*.conf")}
    for path in [*mains[:1], *(drop_ins[name] for name in sorted(drop_ins))]:
        if path.is_file():
            storage = (re.findall(r"(?mi)^\s*Storage\s*=\s*(\w+)", path.read_text()) or [storage])[-1]
    if storage == "auto":
        storage = "persistent" if context.host.path("/var/log/journal").is_dir() else "volatile"
    return storage == "persistent" and _device_of(context, Path("/var/log/journal")).startswith("/dev/mmcblk")


def _mounts(context: Context) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield device, mount point, kind and options."""
    for line in (context.host.read("/proc/mounts") or "").splitlines():
        device, point, kind, options = line.split()[:4]
        yield device, point.replace("\\040", " "), kind, options.split(",")


def _root_mount(context: Context) -> tuple[str, list[str], str]:
    """Return kind, options and device of what is mounted at /."""
    found = [(kind, options, device) for device, point, kind, options in _mounts(context) if point == "/"]
    return found[-1] if found else ("", [], "")


def _device_of(context: Context, path: Path) -> str:
    """Return the device that a path is on; log2ram mounts memory at /var/log."""
    found = max(
        (mount for mount in _mounts(context) if path.is_relative_to(mount[1])), key=lambda m: len(m[1]), default=None
    )
    return "" if found is None else found[0]
