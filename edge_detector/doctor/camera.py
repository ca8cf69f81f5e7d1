"""Checks of cameras."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_detector.doctor.context import Context
from edge_detector.doctor.finding import Finding, error, ok, skipped, warning
from edge_detector.doctor.host import Holder, ProbeError

LOW_CMA_BYTES = 32 << 20
_PI_5 = re.compile(r"Raspberry Pi (5|Compute Module 5|500)\b")
_DESKTOP = ("pipewire", "wireplumber")  # hold all cameras open to offer them, and stream from none until asked to
_LOCAL = ("auto", "csi:", "v4l2:", "/dev/video")
_NODES = ("/dev/video*", "/dev/media*", "/dev/v4l-subdev*")


def check_cameras(context: Context) -> Iterator[Finding]:
    """Which cameras are connected, and whether those of the settings are among them."""
    named = [source for source in context.sources() if source.startswith(_LOCAL) or source.isdecimal()]
    try:
        connected = context.host.probe("cameras", timeout_s=40.0)
    except ProbeError as problem:
        yield error("cameras", f"they cannot be listed: {problem}", "See the check picamera2, and restart the Pi.")
        return
    for camera in connected:
        found = f"{camera['uri']}  {camera['title']}"
        if camera["problem"] is None:
            yield ok("camera", found)
        elif "another program holds it" in camera["problem"] and _is_ours(context):
            yield ok("camera", f"{found}, in use by edge-detector")
        else:
            yield error("camera", f"{found}: {camera['problem']}")
    uris = {camera["uri"] for camera in connected}
    for source in named:
        uri = f"v4l2:///dev/video{source}" if source.isdecimal() else re.sub("^(?=/dev)", "v4l2://", source)
        if source != "auto" and uri.partition("?")[0] not in uris:
            yield _missing(context, uri)
    if not connected and not named:
        yield skipped("cameras", "none connected, and none in the settings")
    elif not connected and "auto" in named:
        yield warning("cameras", "none connected", *_plug_in("csi" if context.host.is_pi() else "v4l2"))


def _is_ours(context: Context) -> bool:
    """Return whether edge-detector holds a camera; who may not ask other users' processes takes it from systemd."""
    found, complete = _holders(context)
    return any(holder.ours for holder in found) or (not complete and context.unit.get("ActiveState") == "active")


def _missing(context: Context, uri: str) -> Finding:
    if uri.startswith("csi"):
        try:
            context.host.probe("import", "picamera2")
        except ProbeError:
            return error("camera", f"{uri}: picamera2, which it needs, does not work", "See the check picamera2.")
    return error("camera", f"{uri}: in the settings, but not connected", *_plug_in(uri))


def _plug_in(uri: str) -> tuple[str, str]:
    if uri.startswith("csi"):
        return (
            "Put the ribbon cable in with the power off, at both ends the right way round; then look:",
            "rpicam-hello --list-cameras",
        )
    return "Plug one in. What the kernel says of it:", "sudo dmesg | grep -i -e usb -e uvc | tail"


def check_holders(context: Context) -> Iterator[Finding]:
    """Which processes hold a camera."""
    if not any(context.host.glob(pattern) for pattern in _NODES):
        yield skipped("camera in use", "no /dev/video*")
        return
    found, complete = _holders(context)
    by_process: dict[int, list[str]] = {}
    for holder in found:
        by_process.setdefault(holder.pid, []).append(holder.path)
    for holder in {holder.pid: holder for holder in found}.values():
        held = f"{', '.join(by_process[holder.pid])} by {holder}"
        if holder.ours:
            yield ok("camera in use", held)
        elif holder.name in _DESKTOP:
            yield ok("camera in use", f"{held}, of the desktop, which leaves it to others")
        else:
            yield warning(
                "camera in use",
                held,
                "If edge-detector cannot open the camera, stop that program:",
                f"sudo kill {holder.pid}",
            )
    if not complete:
        yield skipped("camera in use", "processes of other users were not permitted to be asked; run it with sudo")
    elif not found:
        yield ok("camera in use", "by nobody")


def _holders(context: Context) -> tuple[list[Holder], bool]:
    return context.host.holders(node for pattern in _NODES for node in context.host.glob(pattern))


def check_memory(context: Context) -> Iterator[Finding]:
    """How much memory for camera buffers is free."""
    memory = context.host.memory()
    if not memory.get("CmaTotal"):
        yield skipped("camera memory", "the kernel sets none aside (CMA)")
        return
    if _PI_5.search(context.host.read("/proc/device-tree/model") or ""):
        yield skipped("camera memory", "cameras of a Pi 5 need none that is set aside (CMA)")
        return
    free, total = memory.get("CmaFree", 0), memory["CmaTotal"]
    found = f"{free >> 20} of {total >> 20} MB free (CMA)"
    if free >= LOW_CMA_BYTES:
        yield ok("camera memory", found)
    else:
        yield warning(
            "camera memory",
            f"{found}: a CSI camera may fail with `Cannot allocate memory`",
            "Ask for smaller pictures (size in the settings), or set more aside: in /boot/firmware/config.txt write "
            "dtoverlay=vc4-kms-v3d,cma-256 in place of dtoverlay=vc4-kms-v3d, and restart.",
        )
