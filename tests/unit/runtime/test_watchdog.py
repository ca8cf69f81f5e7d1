"""What systemd is told, on a real socket of the kind that it gives."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_detector.runtime import watchdog as watchdog_module
from edge_detector.runtime.metrics import DetectorStatus, ProcessStatus, ServiceStatus
from edge_detector.runtime.notify import Notifier
from edge_detector.runtime.watchdog import Watchdog, describe

STATUS = ServiceStatus(DetectorStatus("tiny", "litert"), ProcessStatus(1.0, 1, 1, 1, 0))


class Systemd:
    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path.replace("@", "\0"))
        self._socket.setblocking(False)

    def told(self) -> list[str]:
        """Return all that was told since the last time."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with closing(Systemd(str(tmp_path / "notify"))) as listening:
        yield listening


@pytest.fixture
def notifier(tmp_path: Path, systemd: Systemd) -> Iterator[Notifier]:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
    with closing(Notifier(environment)) as opened:
        yield opened


def test_messages_are_those_of_sd_notify(notifier: Notifier, systemd: Systemd) -> None:
    assert notifier.watchdog_s == 0.6
    notifier.ready("2 cameras")
    notifier.status("a line\nand WATCHDOG=1 in it")
    notifier.alive()
    before_us = time.monotonic_ns() // 1000
    notifier.reloading()
    notifier.stopping("bye")
    told = systemd.told()
    assert told[:3] == ["READY=1\nSTATUS=2 cameras", "STATUS=a line and WATCHDOG=1 in it", "WATCHDOG=1"]
    reloading, _, stamp = told[3].partition("\nMONOTONIC_USEC=")
    assert reloading == "RELOADING=1"
    assert before_us <= int(stamp) <= time.monotonic_ns() // 1000
    assert told[4] == "STOPPING=1\nSTATUS=bye"


def test_name_in_the_abstract_namespace(tmp_path: Path) -> None:
    name = f"@edge_detector/{tmp_path}"
    with closing(Systemd(name)) as systemd, closing(Notifier({"NOTIFY_SOCKET": name})) as notifier:
        notifier.alive()
        assert systemd.told() == ["WATCHDOG=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_nobody_listens(environment: dict[str, str]) -> None:
    with closing(Notifier(environment)) as notifier:
        assert notifier.watchdog_s is None
        notifier.ready("works")
        notifier.alive()


def test_watchdog_of_another_process_is_not_ours(tmp_path: Path, systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000", "WATCHDOG_PID": "1"}
    with closing(Notifier(environment)) as notifier:
        assert notifier.watchdog_s is None


def test_full_socket_does_not_hold_up(notifier: Notifier, systemd: Systemd) -> None:
    for _ in range(10_000):
        notifier.alive()
    assert 0 < len(systemd.told()) < 10_000


def test_sign_of_life_only_while_all_stages_work(
    notifier: Notifier, systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    beats = {"camera front": time.monotonic(), "inference": time.monotonic()}
    working = {"camera front", "inference"}
    watchdog = Watchdog(notifier, lambda: beats, lambda: STATUS)

    def look_for(seconds: float) -> list[str]:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            beats.update(dict.fromkeys(working, time.monotonic()))
            watchdog.look(ready=True)
            time.sleep(0.02)
        return systemd.told()

    told = look_for(1.0)
    assert told[0] == "WATCHDOG=1"
    assert told[1].startswith("READY=1\nSTATUS=0 of 0 cameras live")
    assert told.count("WATCHDOG=1") >= 3
    assert not caplog.messages
    working.remove("inference")
    look_for(0.5)
    assert look_for(0.7).count("WATCHDOG=1") == 0
    assert caplog.messages == ["inference has completed nothing for 0 s; it hangs"]
    working.add("inference")
    assert look_for(0.5).count("WATCHDOG=1") >= 1
    assert caplog.messages[1:] == ["inference goes on"]


def test_process_that_was_stopped_as_a_whole_gets_its_time_again(
    notifier: Notifier, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog_module, "STOOD_STILL_S", 0.3)
    began_s = time.monotonic()
    watchdog = Watchdog(notifier, lambda: {"inference": began_s}, lambda: STATUS)
    watchdog.look(ready=True)
    time.sleep(0.5)  # as by SIGSTOP
    systemd.told()
    watchdog.look(ready=True)
    assert "WATCHDOG=1" in systemd.told()
    assert not caplog.messages


def test_ready_is_said_once_and_the_state_when_it_changes(
    notifier: Notifier, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "STATUS_S", 0.0)
    now = [STATUS]
    watchdog = Watchdog(notifier, dict, lambda: now[0])
    watchdog.reloading()
    watchdog.look(ready=False)
    watchdog.look(ready=False)
    watchdog.look(ready=True)
    watchdog.look(ready=True)
    now[0] = ServiceStatus(DetectorStatus("tiny", "x", "edgetpu", "cpu", "fallback"), STATUS.process)
    watchdog.look(ready=True)
    line = "0 of 0 cameras live, 0.0 pictures/s, 0.0 inferences/s on cpu"
    watchdog.reloading()
    watchdog.look(ready=False)
    watchdog.look(ready=True)
    told = [message.partition("\nMONOTONIC")[0] for message in systemd.told() if message != "WATCHDOG=1"]
    assert told[:3] == [f"STATUS={line}", f"READY=1\nSTATUS={line}", f"STATUS={line} in place of edgetpu"]
    assert told[3:] == ["RELOADING=1", f"READY=1\nSTATUS={line} in place of edgetpu"]
    assert describe(now[0]).endswith("in place of edgetpu")
