"""A Debian that is booted with its own systemd, in systemd-nspawn."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PACKAGES = "systemd,systemd-sysv,dbus,udev,ca-certificates"
_FOR_PIP = tuple(name for name in os.environ if name.startswith("PIP_") and name not in ("PIP_CERT", "PIP_FIND_LINKS"))


class Machine:
    """A root file system made by debootstrap in `folder`, where `checkout` is /src and pip keeps its downloads.

    It shares the host's network. Needs root, debootstrap and systemd-container.
    """

    def __init__(self, folder: Path, suite: str, checkout: Path) -> None:
        self.root = folder / suite
        self._suite = suite
        self._checkout = checkout
        self._downloads = folder / "downloads"
        self._downloads.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def make(self) -> None:
        """Fill the folder anew."""
        kept = self.root.with_name(f"{self._suite}.base")
        if not kept.is_dir():
            command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", self._suite, str(kept)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(self.root, ignore_errors=True)
        subprocess.run(["cp", "--archive", "--reflink=auto", kept, self.root], check=True)
        (self.root / "etc/hostname").unlink(missing_ok=True)  # debootstrap took the host's

    def boot(self) -> None:
        """Start it, and wait until it has booted."""
        command = ["systemd-nspawn", f"--directory={self.root}", "--keep-unit", "--register=no", "--boot"]
        command += ["--console=pipe", "--resolv-conf=replace-host", f"--bind-ro={self._checkout}:/src"]
        command += [f"--bind={self._downloads}:/downloads", "--hostname=nspawn"]
        command += ["--system-call-filter=bpf", "--capability=CAP_BPF,CAP_PERFMON"]  # for DevicePolicy
        if certificates := os.environ.get("PIP_CERT"):
            command.append(f"--bind-ro={certificates}:/run/host-certificates")
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
            # The host still has version 1 of control groups, which newer versions of systemd refuse.
            script = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'
            command = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *command]
        log = (self.root.parent / f"{self._suite}.console").open("wb")
        with log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._leader = self.wait(self._find_leader, 30)
        self.wait(lambda: self.sh("systemctl is-system-running --wait", check=False) in ("running", "degraded"), 60)

    def _find_leader(self) -> int:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"systemd-nspawn ended, see {self._suite}.console")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        return 0

    def power_off(self) -> None:
        """Shut it down."""
        if self._process is not None:
            if self._leader:
                os.kill(self._leader, signal.SIGRTMIN + 4)  # poweroff.target
            else:
                self._process.terminate()
            self._process.wait(60)
            self._process = None

    def sh(self, command: str, *, check: bool = True, timeout_s: float = 1200) -> str:
        """Run a shell command as root inside; return what it prints, errors too."""
        environment = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
        ]
        environment += ["PIP_CACHE_DIR=/downloads", *(f"{name}={os.environ[name]}" for name in _FOR_PIP)]
        if "PIP_CERT" in os.environ:
            environment.append("PIP_CERT=/run/host-certificates")
        enter = ["nsenter", f"--target={self._leader}", "--all", "env", "-i", *environment, "sh", "-c", command]
        done = subprocess.run(enter, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False)
        text = done.stdout.decode(errors="replace").strip()
        if check and done.returncode:
            raise AssertionError(f"{command}: exit code {done.returncode}\n{text}")
        return text

    def wait(self, condition: Callable[[], T], limit_s: float) -> T:
        """Wait until `condition` is true; return it."""
        deadline_s = time.monotonic() + limit_s
        while not (value := condition()):
            if time.monotonic() > deadline_s:
                raise AssertionError(f"not within {limit_s} s")
            time.sleep(0.2)
        return value
