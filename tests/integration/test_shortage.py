"""The service while the system gives it no more threads, as systemd does beyond TasksMax."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.services import Service

CGROUPS = Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")  # version 1, version 2


@pytest.fixture
def threads_limit() -> Iterator[Path]:
    """A group of processes whose number of threads can be limited, by the file pids.max."""
    for parent in CGROUPS:
        folder = parent / f"edge-detector-test-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            if (folder / "pids.max").exists():
                break
            folder.rmdir()
    else:
        pytest.skip("needs root and a cgroup of the pids controller")
    yield folder
    folder.rmdir()


def pictures(status: dict[str, Any]) -> int:
    taken: int = status["cameras"]["here"]["stats"]["captured"]
    return taken


def recreated(status: dict[str, Any]) -> int:
    tries: int = status["cameras"]["away"]["recovery"]["recreated"]
    return tries


def test_service_without_room_for_a_thread_waits_for_it(tmp_path: Path, threads_limit: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        away = f"rtsp://127.0.0.1:{nobody.getsockname()[1]}/camera"  # from now on nobody listens there
    settings = {"cameras": {"away": {"source": away}, "here": {"source": "synthetic://?width=320&height=240&fps=20"}}}
    service = Service(tmp_path, settings)
    try:
        service.wait_for_state("live", "here")
        (threads_limit / "cgroup.procs").write_text(str(service.process.pid))
        (threads_limit / "pids.max").write_text("1")
        service.wait_for_line("can't start new thread")
        service.write(settings | {"model": {"path": str(tmp_path / "none.tflite")}})
        service.process.send_signal(signal.SIGHUP)
        service.wait_for_line("the new settings are not taken yet: can't start new thread")
        taken = pictures(service.wait_for_state("live", "here"))
        service.wait_for_status(lambda status: pictures(status) > taken)
        tries = recreated(service.wait_for_state("live", "here"))
        (threads_limit / "pids.max").write_text("max")
        service.wait_for_line("the new settings are not taken, all stays as it was")
        service.wait_for_status(lambda status: recreated(status) > tries)
        assert service.end() == 0
    finally:
        service.kill()


def test_service_without_room_for_a_thread_ends_well(tmp_path: Path, threads_limit: Path) -> None:
    settings = {"cameras": {"here": {"source": "synthetic://?width=320&height=240&fps=20"}}}
    service = Service(tmp_path, settings | {"output": {"jsonl": str(tmp_path / "results.jsonl")}})
    try:
        service.wait_for_state("live", "here")
        (threads_limit / "cgroup.procs").write_text(str(service.process.pid))
        (threads_limit / "pids.max").write_text("1")
        assert service.end() == 0
    finally:
        service.kill()
