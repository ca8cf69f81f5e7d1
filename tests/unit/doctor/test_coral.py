"""Coral: sticks and cards as sysfs shows them, real libraries, a real delegate that fails on command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_detector.doctor import coral

if TYPE_CHECKING:
    from tests.unit.doctor.conftest import Machine

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DELEGATE = FIXTURES / "fault_delegate.c"


def plug_in(machine: Machine, ids: tuple[str, str], speed: str, mode: int = 0o666) -> None:
    keys = ("idVendor", "idProduct", "speed", "busnum", "devnum")
    for key, value in zip(keys, (*ids, speed, "2", "3"), strict=True):
        machine.write(f"/sys/bus/usb/devices/2-1/{key}", f"{value}\n")
    machine.write("/dev/bus/usb/002/003").chmod(mode)
    machine.write("/etc/passwd", "edge-detector:x:4242:4242::/:/usr/sbin/nologin\n")


@pytest.mark.parametrize(
    ("ids", "speed", "state", "words"),
    [
        (("18d1", "9302"), "5000", "ok", "running"),
        (("1a6e", "089a"), "5000", "ok", "not used since it was plugged in"),
        (("18d1", "9302"), "480", "warning", "not USB 3"),
        (("1a6e", "089a"), "480", "warning", "not USB 3"),
    ],
)
def test_stick_and_its_speed_are_told(
    machine: Machine, ids: tuple[str, str], speed: str, state: str, words: str
) -> None:
    plug_in(machine, ids, speed)
    (found,) = machine.check(coral.check_usb)
    assert (found.state, words in found.found, f"{speed} Mbit/s" in found.found) == (state, True, True), found


def test_stick_that_the_service_may_not_use_is_told(machine: Machine) -> None:
    plug_in(machine, ("18d1", "9302"), "5000", mode=0o660)
    *_, found = machine.check(coral.check_usb)
    assert (found.state, found.found) == ("error", "edge-detector may not use it (/dev/bus/usb/002/003)")
    assert "99-edgetpu.rules" in str(found.command)
    machine.write("/etc/group", f"plugdev:x:{os.getgid()}:edge-detector\n")
    assert machine.check(coral.check_usb)[-1].state == "ok"


def test_missing_stick_is_an_error_only_where_it_is_wanted(machine: Machine) -> None:
    machine.write("/sys/bus/usb/devices/1-1/idVendor", "046d\n")
    assert machine.check(coral.check_usb)[0].state == "skipped"
    assert machine.check(coral.check_usb, "model: {device: edgetpu:usb:0}")[0].state == "error"


def insert_card(machine: Machine) -> None:
    machine.write("/sys/bus/pci/devices/0000:01:00.0/vendor", "0x1ac1\n")
    machine.write("/sys/bus/pci/devices/0000:01:00.0/device", "0x089a\n")


def test_card_without_driver_is_told(machine: Machine) -> None:
    assert machine.check(coral.check_pcie)[0].state == "skipped"
    insert_card(machine)
    (found,) = machine.check(coral.check_pcie)
    assert (found.state, found.command) == ("error", "sudo modprobe apex")


@pytest.mark.parametrize(
    ("mode", "temperature", "state", "words"),
    [(0o666, "45000", "ok", "45 °C"), (0o666, "91000", "warning", "hot"), (0o600, "45000", "error", "may not use it")],
)
def test_card_is_told_with_its_heat_and_rights(
    machine: Machine, mode: int, temperature: str, state: str, words: str
) -> None:
    insert_card(machine)
    machine.write("/etc/passwd", "edge-detector:x:4242:4242::/:/usr/sbin/nologin\n")
    machine.write("/dev/apex_0").chmod(mode)
    machine.write("/sys/class/apex/apex_0/temp", temperature)
    (found,) = machine.check(coral.check_pcie)
    assert (found.state, words in found.found) == (state, True), found


def test_library_is_looked_for_only_where_there_is_a_use(machine: Machine) -> None:
    (found,) = machine.check(coral.check_library)
    assert found.state == "skipped"


@pytest.mark.parametrize(
    ("config", "state"), [("model: {device: edgetpu, delegate_library: libnone.so.1}", "error"), (None, "warning")]
)
def test_missing_library_is_told(machine: Machine, config: str | None, state: str) -> None:
    plug_in(machine, ("18d1", "9302"), "5000")
    (found,) = machine.check(coral.check_library, config)
    if config is None and found.state == "ok":
        pytest.skip("libedgetpu is installed here")
    assert (found.state, "cannot be loaded" in found.found) == (state, True), found


@pytest.fixture
def settings(build_library: Callable[[Path], Path], machine: Machine, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FAULT_DELEGATE_RECORD", str(machine.root / "record"))
    monkeypatch.setenv("FAULT_DELEGATE_COMMAND", str(machine.root / "command"))
    model = FIXTURES / "od_api_tiny_int8.tflite"
    library = build_library(DELEGATE)
    return f"model: {{device: edgetpu, edgetpu_path: {model}, delegate_library: {library}, path: {model}}}"


def test_accelerator_that_works_has_run_the_model(machine: Machine, settings: str) -> None:
    library, device = machine.check(coral.check_library, settings)
    assert (library.state, device.state) == ("ok", "ok")
    assert "od_api_tiny_int8.tflite" in device.found
    assert "invoke" in (machine.root / "record").read_text()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("create segfault", "SIGSEGV"),  # an old library under a new runtime
        ("create fail", "open the device"),  # no stick
        ("invoke fail", "run the model"),
        ("invoke abort", "SIGABRT"),
    ],
)
def test_accelerator_that_fails_is_told(machine: Machine, settings: str, command: str, words: str) -> None:
    machine.write("command", command)
    _, found = machine.check(coral.check_library, settings)
    assert (found.state, words in found.found) == ("error", True), found


def test_version_of_the_library_is_told(
    machine: Machine, build_library: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = tmp_path / "libedgetpu.c"
    source.write_text('const char* edgetpu_version(void) { return "BuildLabel(16.0), RuntimeVersion(14)"; }\n')
    config = f"model: {{device: edgetpu, delegate_library: {build_library(source)}}}"
    found, device = machine.check(coral.check_library, config)
    assert (found.state, found.found.endswith("RuntimeVersion(14)")) == ("ok", True)
    assert device.state == "error"  # it is no delegate
