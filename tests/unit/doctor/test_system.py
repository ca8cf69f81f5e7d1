"""Board, power, heat, memory, clock and service."""

from __future__ import annotations

import calendar
import time
from typing import TYPE_CHECKING

import pytest

from edge_detector.doctor import system

if TYPE_CHECKING:
    from tests.unit.doctor.conftest import Machine


def meminfo(total_mb: int, free_mb: int, swap_mb: int = 0) -> str:
    return f"MemTotal: {total_mb * 1024} kB\nMemAvailable: {free_mb * 1024} kB\nSwapTotal: {swap_mb * 1024} kB\n"


def test_board_is_named_as_the_firmware_does(machine: Machine) -> None:
    machine.write("/proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    machine.write("/etc/os-release", 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    (found,) = machine.check(system.check_board)
    assert found.found == "Raspberry Pi 5 Model B Rev 1.0, Debian GNU/Linux 12 (bookworm)"


@pytest.mark.parametrize(
    ("flags", "state", "words", "advice"),
    [
        ("0x0", "ok", "no under-voltage", None),
        ("0x1", "error", "now: under-voltage", "power supply"),
        ("0x50005", "error", "now: under-voltage, throttled", "power supply"),
        ("0x50000", "warning", "since the start: under-voltage, throttled", "power supply"),
        ("0x6", "warning", "now: frequency capped, throttled", "heat sink"),
        ("0x80008", "warning", "now: soft temperature limit", "heat sink"),
        ("0x20000", "warning", "since the start: frequency capped", "heat sink"),
    ],
)
def test_each_bit_of_get_throttled_is_told(
    machine: Machine, flags: str, state: str, words: str, advice: str | None
) -> None:
    machine.program("vcgencmd", f'[ "$1" = get_throttled ] && echo throttled={flags}')
    (found,) = machine.check(system.check_power)
    assert (found.state, found.found.partition(" (")[0].startswith(words)) == (state, True), found
    assert (found.fix is None) if advice is None else (advice in str(found.fix))


def test_vcgencmd_that_is_not_permitted_says_so(machine: Machine) -> None:
    machine.program("vcgencmd", 'echo "Can\'t open device file: /dev/vcio" >&2; exit 255')
    (found,) = machine.check(system.check_power)
    assert (found.state, found.command) == ("warning", "sudo usermod -aG video $USER")
    assert "/dev/vcio" in found.found


@pytest.mark.parametrize(("alarm", "state"), [("0", "ok"), ("1", "error")])
def test_without_vcgencmd_the_kernels_sensor_tells_of_low_voltage(machine: Machine, alarm: str, state: str) -> None:
    machine.write("/sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    machine.write("/sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    machine.write("/sys/class/hwmon/hwmon1/in0_lcrit_alarm", f"{alarm}\n")
    (found,) = machine.check(system.check_power)
    assert found.state == state


def test_without_any_sensor_of_power_and_heat_both_are_skipped(machine: Machine) -> None:
    states = [machine.check(check)[0].state for check in (system.check_power, system.check_temperature)]
    assert states == ["skipped", "skipped"]


@pytest.mark.parametrize(("millidegrees", "state"), [("48312", "ok"), ("77000", "warning"), ("84000", "error")])
def test_heat_is_told_by_sysfs(machine: Machine, millidegrees: str, state: str) -> None:
    machine.write("/sys/class/thermal/thermal_zone0/temp", f"{millidegrees}\n")
    (found,) = machine.check(system.check_temperature)
    assert found.state == state
    assert found.found.startswith(f"{int(millidegrees) / 1000:.0f} °C")


def test_heat_is_told_by_vcgencmd_where_sysfs_does_not(machine: Machine) -> None:
    machine.program("vcgencmd", 'echo "temp=83.2\'C"')
    (found,) = machine.check(system.check_temperature)
    assert (found.state, found.found[:5]) == ("error", "83 °C")


@pytest.mark.parametrize(
    ("total_mb", "free_mb", "swap_mb", "state"),
    [(4000, 3000, 0, "ok"), (4000, 150, 500, "warning"), (4000, 40, 0, "error"), (430, 300, 0, "warning")],
)
def test_little_memory_is_told(machine: Machine, total_mb: int, free_mb: int, swap_mb: int, state: str) -> None:
    machine.write("/proc/meminfo", meminfo(total_mb, free_mb, swap_mb))
    (found,) = machine.check(system.check_memory)
    assert found.state == state, found


def test_memory_that_the_running_service_has_taken_is_no_fault(machine: Machine) -> None:
    machine.write("/proc/meminfo", meminfo(1000, 150, 500))
    machine.unit()
    (found,) = machine.check(system.check_memory)
    assert found.state == "ok"


def at(text: str) -> float:
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%d")))


@pytest.mark.parametrize(
    ("answer", "now", "state"),
    [("yes", "2027-03-01", "ok"), ("no", "2027-03-01", "warning"), ("no", "1970-01-01", "error")],
)
def test_clock_is_told_by_timedatectl(machine: Machine, answer: str, now: str, state: str) -> None:
    machine.program("timedatectl", f"echo {answer}")
    (found,) = machine.check(system.check_clock, clock=lambda: at(now))
    assert (found.state, found.found.startswith(now)) == (state, True)
    assert state == "ok" or found.command == "sudo timedatectl set-ntp true"


def test_without_timedatectl_the_kernel_is_asked_for_the_clock(machine: Machine) -> None:
    machine.program("timedatectl", "echo 'System has not been booted with systemd' >&2; exit 1")
    (found,) = machine.check(system.check_clock, clock=lambda: at("2027-03-01"))
    assert found.state in ("ok", "warning")
    assert "synchronised" in found.found


@pytest.mark.parametrize(
    ("properties", "state", "words"),
    [
        ("", "ok", "active (running), 0 restarts"),
        ("NRestarts=3", "warning", "3 restarts"),
        ("ActiveState=inactive\nSubState=dead", "warning", "inactive (dead)"),
        (
            "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78",
            "error",
            "exit status 78: the settings are wrong",
        ),
        ("ActiveState=failed\nSubState=failed\nResult=watchdog\nExecMainStatus=0", "error", "; watchdog"),
        ("ActiveState=activating\nSubState=auto-restart\nExecMainStatus=66", "error", "ends again and again"),
    ],
)
def test_state_of_the_service_is_told(machine: Machine, properties: str, state: str, words: str) -> None:
    machine.unit(properties)
    (found,) = machine.check(system.check_service)
    assert (found.state, words in found.found) == (state, True), found
    assert state == "ok" or found.command


def test_service_that_is_not_installed_is_skipped(machine: Machine) -> None:
    assert machine.check(system.check_service)[0].found == "systemd does not run here"
    machine.program("systemctl", "echo LoadState=not-found")
    (machine.root / "run/systemd/system").mkdir(parents=True)
    assert machine.check(system.check_service)[0].found == "edge-detector.service is not installed"
