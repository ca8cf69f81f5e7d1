"""Checks of board, power, heat, memory, clock and service."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Iterator

from edge_detector.doctor.context import SERVICE, Context
from edge_detector.doctor.finding import Finding, error, ok, skipped, warning

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
_UNDER_VOLTAGE, _CAPPED, _THROTTLED, _SOFT_LIMIT = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_BEFORE = 16  # by so many bits higher: it has been so since the start
_WORDS = {
    _UNDER_VOLTAGE: "under-voltage",
    _CAPPED: "frequency capped",
    _THROTTLED: "throttled",
    _SOFT_LIMIT: "soft temperature limit",
}
_WARM_C, _HOT_C = 75.0, 82.0  # a Raspberry Pi is slowed down from 80 °C on
_LOW_BYTES, _LITTLE_BYTES = 60 << 20, 200 << 20
_SMALL_BYTES = 1 << 30
_OLDEST_YEAR = 2026
_EXIT_CODES = {
    65: "the model cannot be used",
    66: "a camera or file cannot be read",
    69: "the runtime or accelerator does not work",
    73: "an output cannot be written",
    75: "all cameras were lost",
    78: "the settings are wrong",
    203: "the program of the unit cannot be started",  # from here on systemd's own
    216: "a group of the unit does not exist",
    217: "the user of the unit does not exist",
    226: "the sandbox of the unit cannot be set up",
    243: "its secrets cannot be read (/etc/edge-detector/secrets)",
}
_POWER = "Use the power supply made for this Pi (5 V 3 A; Pi 5: 5 V 5 A) and a short cable; unplug what it feeds."
_COOLING = "Give it a heat sink or a fan, and air; or lower detect_fps in the settings."
_ADJTIMEX_ERROR = 5  # TIME_ERROR: not synchronised


def check_board(context: Context) -> Iterator[Finding]:
    """Which machine it is."""
    model = context.host.read("/proc/device-tree/model")
    system = re.search(r'(?m)^PRETTY_NAME="?([^"\n]*)', context.host.read("/etc/os-release") or "")
    yield ok("machine", f"{model or context.host.machine}{f', {system[1]}' if system else ''}")


def check_power(context: Context) -> Iterator[Finding]:
    """Whether the voltage was too low, or the processor slowed down."""
    answer = context.host.run("vcgencmd", "get_throttled")
    flags = None if answer is None else re.search(r"throttled=(0x[0-9a-fA-F]+)", answer.output)
    if flags is not None:
        yield _explain_throttled(int(flags[1], 16))
        return
    sensors = [
        context.host.words(folder, "name", "in0_lcrit_alarm") for folder in context.host.glob("/sys/class/hwmon/*")
    ]
    alarms = [alarm for name, alarm in sensors if name == "rpi_volt"]
    if alarms:
        low = "1" in alarms
        yield error("power", "under-voltage now", _POWER) if low else ok("power", "the voltage is high enough")
    elif answer is not None:
        why = answer.complaint or answer.output
        yield warning(
            "power", f"vcgencmd: {why}", "Join the group video, and log in again:", "sudo usermod -aG video $USER"
        )
    else:
        yield skipped("power", "no vcgencmd, and no sensor of the voltage")


def _explain_throttled(flags: int) -> Finding:
    now = [word for bit, word in _WORDS.items() if flags & bit]
    before = [word for bit, word in _WORDS.items() if flags & bit << _BEFORE and not flags & bit]
    found = "; ".join([f"now: {', '.join(now)}"] * bool(now) + [f"since the start: {', '.join(before)}"] * bool(before))
    if not found:
        return ok("power", "no under-voltage, not slowed down (throttled=0x0)")
    low = flags & (_UNDER_VOLTAGE | _UNDER_VOLTAGE << _BEFORE)
    fix = _POWER if low else _COOLING
    return (error if flags & _UNDER_VOLTAGE else warning)("power", f"{found} (throttled={flags:#x})", fix)


def check_temperature(context: Context) -> Iterator[Finding]:
    """How hot the processor is."""
    temperature = context.host.read("/sys/class/thermal/thermal_zone0/temp") or ""
    celsius = int(temperature) / 1000 if temperature.lstrip("-").isdecimal() else None
    if celsius is None:
        answer = context.host.run("vcgencmd", "measure_temp")
        told = None if answer is None else re.search(r"temp=([\d.]+)", answer.output)
        celsius = None if told is None else float(told[1])
    if celsius is None:
        yield skipped("temperature", "no sensor")
    elif celsius >= _HOT_C:
        yield error("temperature", f"{celsius:.0f} °C: so hot that it is slowed down", _COOLING)
    elif celsius >= _WARM_C:
        yield warning("temperature", f"{celsius:.0f} °C: a Pi is slowed down from 80 °C on", _COOLING)
    else:
        yield ok("temperature", f"{celsius:.0f} °C")


def check_memory(context: Context) -> Iterator[Finding]:
    """How much memory is free."""
    memory = context.host.memory()
    if "MemAvailable" not in memory:
        yield skipped("memory", "no /proc/meminfo")
        return
    free, total, swap = memory["MemAvailable"], memory["MemTotal"], memory.get("SwapTotal", 0)
    found = f"{free >> 20} of {total >> 20} MB free, {swap >> 20} MB swap"
    running = context.unit.get("ActiveState") == "active"
    if free < (_LOW_BYTES if running else _LITTLE_BYTES):
        fix = "Stop other programs, do without a desktop, or take the model ssd_resnet50_fpn_person_320_int8."
        needed = "" if running else ": the service needs about 200 MB"
        yield (error if free < _LOW_BYTES else warning)("memory", f"{found}{needed}", fix)
    elif total < _SMALL_BYTES and not swap:
        yield warning(
            "memory", f"{found}: little, and no swap", "Compressed swap in memory:", "sudo apt install zram-tools"
        )
    else:
        yield ok("memory", found)


def check_clock(context: Context) -> Iterator[Finding]:
    """Whether the time of day is right; certificates, file names and rules with hours depend on it."""
    now = time.gmtime(context.host.clock())
    said = time.strftime("%Y-%m-%d %H:%M UTC", now)
    answer = context.host.run("timedatectl", "show", "--property=NTPSynchronized", "--value")
    known = answer is not None and answer.code == 0 and answer.output in ("yes", "no")
    synchronised = answer is not None and answer.output == "yes" if known else _kernel_says_synchronised()
    fix = "sudo timedatectl set-ntp true"
    if now.tm_year < _OLDEST_YEAR:
        yield error("clock", f"{said}: wrong", "A Pi without a battery gets the time from the network:", fix)
    elif synchronised:
        yield ok("clock", f"{said}, synchronised")
    else:
        yield warning("clock", f"{said}, not synchronised", command=fix)


def _kernel_says_synchronised() -> bool:
    timex = (ctypes.c_long * 64)()  # modes = 0: read only
    return ctypes.CDLL(None).adjtimex(timex) not in (-1, _ADJTIMEX_ERROR)


def check_service(context: Context) -> Iterator[Finding]:
    """How the installed service is."""
    unit = context.unit
    if not unit:
        booted = context.host.path("/run/systemd/system").exists()
        yield skipped("service", f"{SERVICE}.service is not installed" if booted else "systemd does not run here")
        return
    state, restarts = unit.get("ActiveState", "?"), int(unit.get("NRestarts") or 0)
    status = int(unit.get("ExecMainStatus") or 0)
    found = f"{state} ({unit.get('SubState', '?')}), {restarts} restarts"
    log = f"journalctl -u {SERVICE} -n 50 --no-pager"
    meaning = f", exit status {status}" + (f": {_EXIT_CODES[status]}" if status in _EXIT_CODES else "")
    if state == "failed":
        last = f"{found}; {unit.get('Result', '?')}{meaning if status else ''}"
        yield error("service", last, f"Put that right, then: sudo systemctl restart {SERVICE}. Its log:", log)
    elif unit.get("SubState") == "auto-restart":
        yield error("service", f"{found}: it ends again and again{meaning if status else ''}", "Its log:", log)
    elif state != "active":
        yield warning("service", found, command=f"sudo systemctl enable --now {SERVICE}")
    elif restarts:
        yield warning("service", found, "Why it was started again:", log)
    else:
        yield ok("service", found)
