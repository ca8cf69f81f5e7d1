"""The machine as the checks see it: its files below a root, its programs, its processes and users."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Commands are for the shell that sudo was typed into.
_IS_ROOTS = Path(sys.prefix).stat().st_uid == 0 and (os.geteuid() != 0 or "SUDO_UID" in os.environ)
SUDO = "sudo " if _IS_ROOTS or not os.access(sys.prefix, os.W_OK) else ""
PIP = f"{SUDO}{sys.executable} -m pip"
# Not as a module: importing the package takes longer than most of what is tried.
_RUN_PROBE = f"import runpy; runpy.run_path({str(Path(__file__).with_name('probe.py'))!r}, run_name='__main__')"
OURS = re.compile(r"(.*/)?edge[-_]detector(\.[\w.]+)?|.*/edge_detector/__main__\.py")


class ProbeError(Exception):
    """A child process that tried something for a check has died, hung, or failed; the message says how.

    `kind` is the name of the exception that it failed with, "" if it did not end by one.
    """

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program gave back."""

    code: int
    output: str
    complaint: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a file open."""

    pid: int
    name: str
    path: str
    ours: bool  # it is an edge-detector

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with rights; `groups` are the numbers of all groups."""

    name: str
    uid: int
    groups: frozenset[int]

    def may(self, path: Path, mode: int) -> bool:
        """Return whether the permissions of one file or folder allow `mode`, as of `os.access`."""
        try:
            if self.uid == os.geteuid():
                return os.access(path, mode, effective_ids=True)  # sees access control lists and read-only mounts too
            found = path.stat()
        except OSError:
            return False
        if self.uid == 0:
            return True
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        return (found.st_mode >> shift) & mode == mode


@dataclass(frozen=True)
class Host:
    """The machine that is looked at.

    Attributes:
        root: folder that /proc, /sys, /dev and /etc are in.
        python: version of this Python.
        interpreter: program that runs it, for what is tried in a process of its own.
        bits: of its addresses.
        machine: of the kernel, as `uname -m` says.
        clock: returns the time of day.
        disk_usage: returns total, used and free bytes where a path is.
    """

    root: Path = Path("/")
    python: tuple[int, int, int] = field(default_factory=lambda: sys.version_info[:3])
    interpreter: str = sys.executable
    bits: int = 64 if sys.maxsize > 2**32 else 32
    machine: str = field(default_factory=platform.machine)
    clock: Callable[[], float] = time.time
    disk_usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage

    def path(self, name: str | Path) -> Path:
        """Return where the absolute path `name` is below the root."""
        return self.root / str(name).lstrip("/")

    def read(self, name: str) -> str | None:
        """Return the text of a file without blanks around it, or None where it cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
        except OSError:
            return None

    def words(self, folder: Path, *names: str) -> tuple[str, ...]:
        """Return the texts of files in a folder of /sys; "" for those that cannot be read."""
        return tuple(_text(folder / name) for name in names)

    def glob(self, pattern: str) -> list[Path]:
        """Return the files below the root that fit."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def memory(self) -> dict[str, int]:
        """Return /proc/meminfo in bytes."""
        lines = re.findall(r"(?m)^(\w+):\s+(\d+) kB", self.read("/proc/meminfo") or "")
        return {name: int(kilobytes) * 1024 for name, kilobytes in lines}

    def run(self, *command: str, timeout_s: float = 5.0) -> Answer | None:
        """Return what a program on PATH answers, or None where it is not installed or does not answer."""
        if shutil.which(command[0]) is None:
            return None
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return Answer(done.returncode, done.stdout.strip(), done.stderr.strip())

    def probe(self, what: str, argument: Any = None, timeout_s: float = 30.0) -> Any:
        """Return what `probe.py` answers in a process of its own, which may crash or hang.

        Raises:
            ProbeError: it did, or what was tried failed.
        """
        command = [self.interpreter, "-c", _RUN_PROBE, what, json.dumps(argument)]
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, complaint = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as late:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            raise ProbeError(f"did not answer within {timeout_s:g} s") from late
        if child.returncode < 0:
            raise ProbeError(f"crashed ({_signal_name(-child.returncode)})")
        try:
            answer = json.loads(output.splitlines()[-1])
        except (IndexError, ValueError) as broken:
            last = complaint.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
            raise ProbeError(last[0]) from broken
        if "error" in answer:
            raise ProbeError(answer["error"], answer["kind"])
        return answer["result"]

    def holders(self, paths: Iterable[Path]) -> tuple[list[Holder], bool]:
        """Return the processes that hold one of these files open, and whether all processes could be asked."""
        wanted = {os.path.realpath(path) for path in paths}
        return self._holders(lambda target: target in wanted)

    def listeners(self, port: int) -> tuple[list[Holder], bool]:
        """Return the processes that listen on a TCP port, and whether all processes could be asked."""
        inodes = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in (self.read(table) or "").splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{words[9]}]")
        return self._holders(lambda target: target in inodes)

    def _holders(self, wanted: Callable[[str], bool]) -> tuple[list[Holder], bool]:
        found, complete = [], True
        for process in self.path("/proc").glob("[0-9]*"):
            if process.name == str(os.getpid()):
                continue
            try:
                paths = sorted({target for target in _targets(process / "fd") if wanted(target)})
            except PermissionError:
                complete = False
                continue
            except OSError:  # it has ended
                continue
            with suppress(OSError):
                name = (process / "comm").read_text().strip()
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")[:3]
                ours = any(OURS.fullmatch(word) for word in words)
                found += [Holder(int(process.name), name, path, ours) for path in paths]
        return found, complete

    def user(self, name: str) -> User | None:
        """Return a user of /etc/passwd with all his groups, or None."""
        for line in (self.read("/etc/passwd") or "").splitlines():
            words = line.split(":")
            if words[0] == name and len(words) > 3:
                groups = {gid for gid, members in self.group_members().values() if name in members}
                return User(name, int(words[2]), frozenset({int(words[3]), *groups}))
        return None

    def current_user(self) -> User:
        """Return who runs this program, with the groups that he had when he logged in."""
        uid = os.geteuid()
        lines = (line.split(":") for line in (self.read("/etc/passwd") or "").splitlines())
        name = next((words[0] for words in lines if len(words) > 2 and words[2] == str(uid)), str(uid))
        return User(name, uid, frozenset({os.getegid(), *os.getgroups()}))

    def group_members(self) -> dict[str, tuple[int, list[str]]]:
        """Return number and members of each group in /etc/group."""
        lines = (line.split(":") for line in (self.read("/etc/group") or "").splitlines())
        return {words[0]: (int(words[2]), words[3].split(",")) for words in lines if len(words) == 4}

    def is_pi(self) -> bool:
        """Return whether it is a Raspberry Pi."""
        return "Raspberry Pi" in (self.read("/proc/device-tree/model") or "")


def kind_of(path: Path) -> str | None:
    """Return "folder", "file", or None where there is nothing; Python releases differ in what `Path.exists` raises.

    Raises:
        PermissionError: we may not look there.
    """
    try:
        return "folder" if stat.S_ISDIR(path.stat().st_mode) else "file"
    except PermissionError:
        raise
    except OSError:
        return None


def owned_by(path: Path, group: int) -> bool:
    """Return whether a device's node is of a group."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_gid == group and not stat.S_ISDIR(found.st_mode)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _targets(folder: Path) -> Iterator[str]:
    for link in folder.iterdir():
        with suppress(OSError):
            yield str(link.readlink())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
