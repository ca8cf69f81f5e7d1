"""Cameras: which are there, who holds them, memory for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_detector.doctor import camera
from edge_detector.doctor.context import Context
from edge_detector.doctor.host import Host

if TYPE_CHECKING:
    from tests.unit.doctor.conftest import Machine

FAKES = Path(__file__).resolve().parents[2] / "fakes"
HOLD = "import sys; held = open(sys.argv[1]); print(flush=True); sys.stdin.read()"


def plug_in_csi(machine: Machine, more: str = "") -> None:
    for name in ("picamera2.py", "libcamera.py"):
        machine.module(name, (FAKES / name).read_text() + (more if name == "picamera2.py" else ""))


def test_connected_camera_is_listed(machine: Machine) -> None:
    plug_in_csi(machine)
    (found,) = machine.check(camera.check_cameras)
    assert (found.state, found.found.startswith("csi://0  ")) == ("ok", True)


@pytest.mark.parametrize(
    ("source", "uri"),
    [("csi://1?size=640x480", "csi://1"), ("/dev/video9", "v4l2:///dev/video9"), ("9", "/dev/video9")],
)
def test_camera_of_the_settings_that_is_not_connected_is_told(machine: Machine, source: str, uri: str) -> None:
    plug_in_csi(machine)
    *_, found = machine.check(camera.check_cameras, f'source: "{source}"')
    assert (found.state, uri in found.found) == ("error", True), found
    assert found.command


def test_no_camera_is_a_warning_only_where_one_is_looked_for(machine: Machine) -> None:
    assert machine.check(camera.check_cameras)[0].state == "warning"
    assert machine.check(camera.check_cameras, "source: demo")[0].state == "skipped"


def test_camera_that_cannot_be_used_is_told_with_the_reason(machine: Machine) -> None:
    plug_in_csi(
        machine, "\n\ndef refuse(*_): raise RuntimeError('Camera __init__: device busy')\nPicamera2.__init__ = refuse\n"
    )
    (found,) = machine.check(camera.check_cameras, "source: csi://0")
    assert (found.state, "another program holds it" in found.found) == ("error", True), found


def test_listing_that_crashes_is_told(machine: Machine) -> None:
    plug_in_csi(machine, "\n\nimport os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    (found,) = machine.check(camera.check_cameras)
    assert (found.state, "crashed (SIGSEGV)" in found.found) == ("error", True), found


@pytest.mark.parametrize(("active", "state"), [("active", "ok"), ("inactive", "error")])
def test_camera_of_the_running_service_is_no_fault_to_who_may_not_see_its_files(
    seen_by_nobody: tuple[Machine, Callable], monkeypatch: pytest.MonkeyPatch, active: str, state: str
) -> None:
    machine, as_nobody = seen_by_nobody
    machine.write("/dev/video0")
    machine.real_processes()
    machine.unit(f"ActiveState={active}")
    listed = '{"result": [{"uri": "csi://0", "title": "imx708", "problem": "busy: another program holds it"}]}'
    machine.program("python", f"echo '{listed}'")
    host = Host(root=machine.root, interpreter=str(machine.programs / "python"))
    monkeypatch.setenv("PATH", str(machine.programs))
    with as_nobody():
        found = [*camera.check_cameras(Context(host, None))]
    assert [one.state for one in found] == [state], found


def test_process_that_holds_the_camera_is_named(machine: Machine, start: Callable) -> None:
    device = machine.write("/dev/video0")
    machine.real_processes()
    assert machine.check(camera.check_holders)[-1].state in ("ok", "skipped")
    process = start("-c", HOLD, str(device))
    found = machine.check(camera.check_holders)[0]
    assert (found.state, f"({process.pid})" in found.found, str(device) in found.found) == ("warning", True, True), (
        found
    )
    assert found.command == f"sudo kill {process.pid}"


def test_desktop_may_hold_the_camera(machine: Machine, start: Callable) -> None:
    device = machine.write("/dev/video0")
    machine.real_processes()
    start("-c", f"open('/proc/self/comm', 'w').write('wireplumber')\n{HOLD}", str(device))
    found = machine.check(camera.check_holders)[0]
    assert (found.state, found.command) == ("ok", None), found
    assert "wireplumber" in found.found


def test_our_own_process_may_hold_the_camera(machine: Machine, start: Callable, tmp_path: Path) -> None:
    device = machine.write("/dev/video0")
    machine.real_processes()
    script = tmp_path / "edge-detector"
    script.write_text(HOLD)
    start(str(script), str(device))
    found = machine.check(camera.check_holders)[0]
    assert (found.state, str(device) in found.found) == ("ok", True), found


def test_processes_that_may_not_be_asked_are_said_to_be(seen_by_nobody: tuple[Machine, Callable]) -> None:
    machine, as_nobody = seen_by_nobody
    machine.write("/dev/video0")
    machine.real_processes()
    with as_nobody():
        found = [*camera.check_holders(Context(Host(root=machine.root), None))]
    assert [one.state for one in found] == ["skipped"]
    assert "run it with sudo" in found[0].found


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("MemTotal: 1 kB\n", "skipped"),
        ("CmaTotal: 524288 kB\nCmaFree: 400000 kB\n", "ok"),
        ("CmaTotal: 65536 kB\nCmaFree: 9000 kB\n", "warning"),
    ],
)
def test_little_memory_for_cameras_is_told(machine: Machine, text: str, state: str) -> None:
    machine.write("/proc/meminfo", text)
    (found,) = machine.check(camera.check_memory)
    assert found.state == state
    assert state != "warning" or "cma-256" in str(found.fix)


@pytest.mark.parametrize("model", ["Raspberry Pi 5 Model B Rev 1.0", "Raspberry Pi Compute Module 5 Rev 1.0"])
def test_cameras_of_a_pi_5_need_no_memory_set_aside(machine: Machine, model: str) -> None:
    machine.write("/proc/meminfo", "CmaTotal: 65536 kB\nCmaFree: 9000 kB\n")
    machine.write("/proc/device-tree/model", f"{model}\0")
    assert [found.state for found in machine.check(camera.check_memory)] == ["skipped"]
