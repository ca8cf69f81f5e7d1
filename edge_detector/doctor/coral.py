"""Checks of Coral Edge TPUs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from edge_detector.config import ModelConfig
from edge_detector.doctor.context import SERVICE, Context
from edge_detector.doctor.finding import Finding, error, ok, skipped, warning
from edge_detector.doctor.host import ProbeError
from edge_detector.errors import EdgeDetectorError
from edge_detector.registry import list_models, resolve_model

_FRESH, _RUNNING = ("1a6e", "089a"), ("18d1", "9302")  # before and after the firmware is loaded into it
_PCI = ("0x1ac1", "0x089a")
_USB3_MBIT = 5000
_HOT_C = 85.0
_USB_RULE = 'SUBSYSTEM=="usb", ATTR{idVendor}=="1a6e|18d1", ATTR{idProduct}=="089a|9302", MODE="0660", GROUP="plugdev"'
_APEX_RULE = 'SUBSYSTEM=="apex", MODE="0660", GROUP="plugdev"'


def check_usb(context: Context) -> Iterator[Finding]:
    """Whether a USB Accelerator is connected, how fast, and whether the service may use it."""
    sticks = list(_sticks(context))
    for folder, ids in sticks:
        speed, bus, number = (int(float(word or 0)) for word in context.host.words(folder, "speed", "busnum", "devnum"))
        state = "not used since it was plugged in" if ids == _FRESH else "running"
        found = f"USB Accelerator at {folder.name}, {speed} Mbit/s, {state}"
        if speed < _USB3_MBIT:
            yield warning(
                "coral usb",
                f"{found}: not USB 3, which makes inference slower",
                "Plug it into a blue port, with the cable that came with it.",
            )
        else:
            yield ok("coral usb", found)
        node = context.host.path(f"/dev/bus/usb/{bus:03}/{number:03}")
        if node.exists() and not context.runs_as.may(node, 6):
            yield error(
                "coral usb",
                f"{context.runs_as.name} may not use it (/dev/bus/usb/{bus:03}/{number:03})",
                "Install the rule that gives it to the group plugdev, join that, and plug it in again:",
                f"echo '{_USB_RULE}' | sudo tee /etc/udev/rules.d/99-edgetpu.rules && sudo udevadm control --reload && "
                f"sudo usermod -aG plugdev {context.runs_as.name}",
            )
    if not sticks:
        wanted = context.config is not None and context.config.model.device.startswith("edgetpu:usb")
        if wanted:
            yield error(
                "coral usb", "not connected, though the settings want it", "Plug it in, at a port with enough power."
            )
        else:
            yield skipped("coral usb", "no USB Accelerator connected")


def check_pcie(context: Context) -> Iterator[Finding]:
    """Whether a PCIe or M.2 accelerator has its driver, and whether the service may use it."""
    host = context.host
    cards = [folder for folder in host.glob("/sys/bus/pci/devices/*") if host.words(folder, "vendor", "device") == _PCI]
    nodes = host.glob("/dev/apex_*")
    if cards and not nodes:
        yield error(
            "coral pcie",
            f"a card at {cards[0].name}, but no /dev/apex_0: its driver is not loaded",
            "Install Coral's gasket-dkms (which must be built for this kernel), then:",
            "sudo modprobe apex",
        )
    for node in nodes:
        temperature = host.read(f"/sys/class/apex/{node.name}/temp") or ""
        celsius = int(temperature) / 1000 if temperature.lstrip("-").isdecimal() else None
        found = f"/dev/{node.name}" + ("" if celsius is None else f", {celsius:.0f} °C")
        if not context.runs_as.may(node, 6):
            yield error(
                "coral pcie",
                f"{found}: {context.runs_as.name} may not use it",
                "Give it to the group plugdev, join that, and restart:",
                f"echo '{_APEX_RULE}' | sudo tee /etc/udev/rules.d/99-apex.rules && "
                f"sudo usermod -aG plugdev {context.runs_as.name}",
            )
        elif celsius is not None and celsius >= _HOT_C:
            yield warning("coral pcie", f"{found}: hot, it slows down", "Cool it.")
        else:
            yield ok("coral pcie", found)
    if not cards and not nodes:
        yield skipped("coral pcie", "no card")


def check_library(context: Context) -> Iterator[Finding]:
    """Whether the delegate's library can be loaded, and works with this runtime."""
    model = ModelConfig() if context.config is None else context.config.model
    library = model.delegate_library
    needed = model.device.startswith("edgetpu") or model.edgetpu_path is not None
    connected = any(_sticks(context)) or bool(context.host.glob("/dev/apex_*"))
    if not needed and not connected:
        yield skipped("libedgetpu", "no Edge TPU connected, and none in the settings")
        return
    try:
        version = context.host.probe("library", library)
    except ProbeError as problem:
        yield (error if needed else warning)(
            "libedgetpu",
            f"cannot be loaded: {str(problem).removeprefix('OSError: ')}",
            "Install libedgetpu1-std from Coral's repository, or a newer build that fits this runtime.",
        )
        return
    yield ok("libedgetpu", f"{library} {version}".strip())
    if needed and context.unit.get("ActiveState") == "active":
        yield skipped("edge tpu", f"the running service has it; to try it: sudo systemctl stop {SERVICE}")
    else:
        yield from _try_device(model, needed)


def _try_device(model: ModelConfig, needed: bool) -> Iterator[Finding]:
    """Open the device as the program does, in a process of its own: an old library can crash under a new runtime."""
    cpu = resolve_model(model.path) if model.edgetpu_path is not None else min(list_models().values())
    path = Path(model.edgetpu_path or cpu)
    beside = resolve_model(model.path)
    twin = beside.with_name(f"{beside.stem}_edgetpu.tflite")
    path = twin if model.edgetpu_path is None and twin.is_file() else path
    backend = importlib.import_module("edge_detector.backends.edgetpu")
    try:
        _, unit = backend.split_device(model.device)
        opened = backend.EdgeTpuBackend(
            path, unit, library=model.delegate_library, num_threads=1, runtime=model.runtime, start_timeout_s=60.0
        )
    except EdgeDetectorError as problem:
        yield (error if needed else warning)("edge tpu", str(problem))
        return
    with closing(opened):
        yield ok("edge tpu", f"ran {path.name} on {opened.name}")


def _sticks(context: Context) -> Iterator[tuple[Path, tuple[str, ...]]]:
    for folder in context.host.glob("/sys/bus/usb/devices/*"):
        ids = context.host.words(folder, "idVendor", "idProduct")
        if ids in (_FRESH, _RUNNING):
            yield folder, ids
