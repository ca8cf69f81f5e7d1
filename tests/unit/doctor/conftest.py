"""A machine in a folder: /proc, /sys, /dev and /etc as files, programs on PATH; all that is asked of it is real."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_detector.doctor.context import Context
from edge_detector.doctor.finding import Finding
from edge_detector.doctor.host import Host

REPOSITORY = Path(__file__).resolve().parents[3]
UNIT = "LoadState=loaded\nActiveState=active\nSubState=running\nNRestarts=0\nExecMainStatus=0\n"


class Machine:
    """The folder, and the checks' view of it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.programs = folder / "bin"
        self.modules = folder / "modules"  # on the PYTHONPATH of child processes
        for one in (self.root, self.programs, self.modules):
            one.mkdir()

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def module(self, name: str, text: str) -> None:
        path = self.modules / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def package(self, name: str, version: str, module: str) -> None:
        """Have pip's notes say that a package is installed."""
        folder = f"{name.replace('-', '_')}-{version}.dist-info"
        self.module(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        self.module(f"{folder}/top_level.txt", f"{module}\n")

    def unit(self, text: str = "") -> None:
        """Have systemd know the service, with these properties more."""
        self.program("systemctl", f"/bin/cat <<'END'\n{UNIT}{text}\nEND")

    def real_processes(self) -> None:
        (self.root / "proc").symlink_to("/proc")

    def check(
        self, check: Callable[[Context], Iterator[Finding]], config: str | None = None, **host: Any
    ) -> list[Finding]:
        """Return what a check finds; `config` is the text of the settings."""
        path = None if config is None else self.write("settings.yaml", config)
        return list(check(Context(Host(root=self.root, **host), path)))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(made.programs))
    monkeypatch.setenv("PYTHONPATH", f"{made.modules}:{REPOSITORY}")
    return made


@pytest.fixture
def seen_by_nobody() -> Iterator[tuple[Machine, Callable[[], AbstractContextManager[None]]]]:
    """A machine that everybody may look at, and what makes this process nobody for a while."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody who may not look at what is root's")

    @contextmanager
    def as_nobody() -> Iterator[None]:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield Machine(folder), as_nobody
    shutil.rmtree(folder)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a Python with these arguments and waits until it has printed a line."""
    started = []

    def start_python(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start_python
    for process in started:
        process.communicate("")


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture
def wait_for_port() -> Callable[[int], None]:
    def wait(port: int) -> None:
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(f"nobody listens on port {port}")

    return wait


@pytest.fixture
def build_library(tmp_path: Path) -> Callable[[Path], Path]:
    """Return a function that compiles a C file to a shared library."""
    compiler = next((path for path in ("/usr/bin/gcc", "/usr/bin/cc") if os.access(path, os.X_OK)), None)
    if compiler is None:
        pytest.skip("needs a C compiler, gcc")

    def build(source: Path) -> Path:
        library = tmp_path / f"{source.stem}.so"
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, source]
        subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin"})
        return library

    return build
