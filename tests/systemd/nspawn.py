"""Proof of the service under a real systemd: a Debian of its own gets it by install.sh, boots, and is broken.

    sudo apt install debootstrap systemd-container
    sudo python3 tests/systemd/nspawn.py [--suite trixie] [--folder /var/tmp/edge-detector-nspawn]

Takes about ten minutes and 3 GB, needs a network and nothing installed for Python. Prints what was done and what came
of it; ends with 1 at the first thing that is other than promised.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import Machine

CHECKOUT = Path(__file__).resolve().parents[2]
UNIT = "edge-detector"
COPY = (
    "rm -rf /root/new; mkdir /root/new; cd /src; cp -r edge_detector models systemd *.cfg *.toml *.md LICENSE /root/new"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


PORTS = (free_port(), free_port())


def settings(port: int = PORTS[0], more: str = "") -> str:
    return (
        f"http: 127.0.0.1:{port}\nmodel: {{path: ssd_resnet50_fpn_person_320_int8, num_threads: 1}}\n"
        'cameras: {front: {source: "synthetic://", detect_fps: 2}}\nevents: {path: events.db}\n' + more
    )


class Proof:
    """The steps, in order; each leaves the service as the next one wants it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sh = machine.sh
        self.since = ""

    def show(self, command: str) -> str:
        """Run it, and print it with what it says."""
        text = self.sh(command)
        print(f"# {command}")
        print("".join(f"    {line}\n" for line in text.splitlines()), end="", flush=True)
        return text

    def state(self, unit: str = UNIT, **wanted: str) -> bool:
        """Whether properties of the unit are so."""
        return all(self.value(name, unit) == value for name, value in wanted.items())

    def value(self, name: str, unit: str = UNIT) -> str:
        return self.sh(f"systemctl show --property={name} --value {unit}")

    def until(self, limit_s: float = 90, unit: str = UNIT, **wanted: str) -> None:
        try:
            self.machine.wait(lambda: self.state(unit, **wanted), limit_s)
        except AssertionError as error:
            raise AssertionError(
                f"{unit} is not {wanted}:\n{self.sh(f'systemctl status {unit}', check=False)}"
            ) from error

    def log(self, grep: str = "") -> str:
        """Print what the journal has of the service since its last `start`; with `grep`, only the lines with that."""
        lines = f"journalctl --no-pager --output=short --no-hostname --since='{self.since}' --unit={UNIT}"
        return self.show(f"{lines} | grep -E '{grep}'" if grep else lines)

    def start(self, text: str, drop_in: str = "", name: str = UNIT) -> None:
        """Start the service anew with these settings, and with more in its unit."""
        self.sh("systemctl stop 'edge-detector*.service'; systemctl reset-failed")
        self.put(f"/etc/edge-detector/{name}.yaml", text)
        self.put("/etc/systemd/system/edge-detector.service.d/proof.conf", f"[Service]\n{drop_in}")
        time.sleep(1)  # the journal is asked for by seconds
        self.since = self.sh(f"systemctl daemon-reload; date '+%F %T'; systemctl start --no-block {UNIT}")

    def put(self, path: str, text: str) -> None:
        inside = self.machine.root / path.lstrip("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_text(text)

    def install(self) -> None:
        """A fresh system gets the service by one command."""
        self.show("/src/systemd/install.sh --dry-run --with stream")
        assert not self.sh("ls -A /opt"), "--dry-run did something"
        self.show("/src/systemd/install.sh --no-start --with stream")
        assert "edge-detector" in self.show("edge-detector --version")
        self.show(
            "ls -ld /etc/edge-detector/* /var/lib/edge-detector /opt/edge-detector/*; id edge-detector; du -sh /opt"
        )
        assert self.sh(f"systemctl is-enabled {UNIT}") == "enabled"
        verified = self.show(f"systemd-analyze verify {UNIT}.service edge-detector@x.service 2>&1")
        assert not [line for line in verified.splitlines() if "edge-detector" in line]
        self.show("udevadm verify /usr/local/lib/udev/rules.d 2>&1 || udevadm --version")  # which 252 does not have
        self.show(f"systemd-analyze security --no-pager {UNIT} | tail -n 1")

    def boot(self) -> None:
        """It starts at boot, says how it is, and serves the page."""
        self.put("/etc/edge-detector/edge-detector.yaml", settings())
        self.machine.power_off()
        self.machine.boot()
        self.until(ActiveState="active")
        self.machine.wait(lambda: re.search(r"[1-9]\S* inferences", self.value("StatusText")), 30)
        self.show(f"systemctl status --no-pager --lines=20 {UNIT}")
        assert self.state(NRestarts="0", Result="success")
        self.show(
            f"python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{PORTS[0]}/readyz').read())\""
        )

    def sandbox(self) -> None:
        """The unit's own sandbox lets it do what it must, and nothing else."""
        self.put("/etc/edge-detector/secrets/PROBE", "a secret\n")
        self.put("/home/of-others", "x")
        self.put("/var/tmp/of-others", "x")
        self.sh("mknod -m 666 /dev/fuse-of-the-probe c 10 229; chmod 600 /etc/edge-detector/secrets/PROBE")
        probe = "/opt/edge-detector/venv/bin/python /src/tests/systemd/probe.py"
        self.start(settings(), f"Type=oneshot\nRestart=no\nExecStart=\nExecStart={probe}\n")
        self.machine.wait(lambda: self.value("ActiveState") in ("inactive", "failed"), 120)
        said = self.log("python")
        assert "allowed: run the model" in said
        assert "WRONG" not in said

    def stop(self) -> None:
        """SIGTERM ends it within 2 s, with 0."""
        self.start(settings())
        self.until(ActiveState="active")
        begun_s = time.monotonic()
        self.sh(f"systemctl stop {UNIT}")
        print(f"stopped in {time.monotonic() - begun_s:.2f} s")
        assert time.monotonic() - begun_s < 2
        assert self.state(ActiveState="inactive", Result="success", ExecMainStatus="0")

    def watchdog(self) -> None:
        """A process that stands still is killed and started again; here after 6 s instead of 60."""
        self.start(settings(), "WatchdogSec=6\n")
        self.until(ActiveState="active")
        wedged = self.value("MainPID")
        self.sh(f"kill -STOP {wedged}")
        self.until(NRestarts="1", ActiveState="active")
        log = self.log("systemd|Fatal|Thread|edge_detector/runtime")
        assert "Watchdog timeout" in log
        assert "Fatal Python error: Aborted" in log, "no traceback of what hung"
        assert self.value("MainPID") != wedged

    def crash_loop(self) -> None:
        """Who dies again and again stays down."""
        self.start(settings())
        deaths = 0
        while not self.state(ActiveState="failed"):
            if self.state(ActiveState="active"):
                self.sh(f"kill -SEGV {self.value('MainPID')}", check=False)
                deaths += 1
            assert deaths < 20
            time.sleep(0.5)
        self.show(f"systemctl show --property=ActiveState,Result,NRestarts,ExecMainStatus {UNIT}")
        log = self.log("systemd")
        assert "Start request repeated too quickly" in log
        assert deaths == 5

    def wrong_settings(self) -> None:
        """What a new start does not help is not started again: settings, model."""
        model = settings().replace("person_320_int8", "absent")
        for text, code in ((settings(more="colour: red\n"), "78"), (model, "65")):
            self.start(text)
            self.until(ActiveState="failed")
            time.sleep(7)  # RestartSec is 5
            assert self.state(ActiveState="failed", NRestarts="0", ExecMainStatus=code), self.sh(
                f"systemctl status {UNIT}"
            )
            self.show(f"systemctl show --property=ActiveState,Result,NRestarts,ExecMainStatus {UNIT}")
            self.log()

    def camera_away(self) -> None:
        """A camera that is away for a night does not use up the starts: here all is ten times as fast, for a minute."""
        away = settings().replace("synthetic://", "rtsp://127.0.0.1:9/none").replace("detect_fps: 2", "give_up_s: 6")
        self.put("/etc/systemd/system/edge-detector.service.d/limit.conf", "[Unit]\nStartLimitIntervalSec=30\n")
        self.start(away, "RestartSec=0.5\n")
        self.machine.wait(lambda: int(self.value("NRestarts")) >= 8, 150)
        assert self.state(ExecMainStatus="0") or self.value("ExecMainStatus") == "75"
        assert not self.state(ActiveState="failed")
        self.log("status=75")
        self.sh("rm /etc/systemd/system/edge-detector.service.d/limit.conf")

    def reload(self) -> None:
        """SIGHUP takes new settings without an end."""
        self.start(settings())
        self.until(ActiveState="active")
        before = self.value("MainPID")
        self.put(
            "/etc/edge-detector/edge-detector.yaml", settings(more="objects: {filters: {person: {threshold: 0.9}}}\n")
        )
        self.show(f"systemctl reload {UNIT}")
        self.machine.wait(lambda: "objects" in self.sh(f"journalctl --since='{self.since}' --unit={UNIT}"), 30)
        self.until(30, ActiveState="active", MainPID=before, NRestarts="0")
        self.log()

    def instances(self) -> None:
        """Two at the same time, each with settings and folders of its own."""
        for number, name in enumerate(("front", "back")):
            self.start(settings(PORTS[number]), name=name)
        self.sh(f"systemctl stop {UNIT}; systemctl start edge-detector@front edge-detector@back")
        for name in ("front", "back"):
            self.until(unit=f"edge-detector@{name}", ActiveState="active")
        self.machine.wait(lambda: "inferences" in self.value("StatusText", "edge-detector@back"), 30)
        self.show("systemctl status --no-pager --lines=0 edge-detector@front edge-detector@back")
        self.show("ls -l /var/lib/edge-detector/front /var/lib/edge-detector/back")
        self.sh("systemctl stop edge-detector@front edge-detector@back; cd /etc/edge-detector; rm front.yaml back.yaml")

    def upgrade(self) -> None:
        """A newer checkout takes over; settings stay; one that does not build or does not start changes nothing."""
        self.put("/etc/edge-detector/secrets/PROBE", "a secret\n")
        hook = "webhooks: {hook: {url: 'http://127.0.0.1:9/', secret: '{EDGE_DETECTOR_PROBE}'}}  # mine\n"
        self.start(settings(more=hook))
        self.until(ActiveState="active")
        running, release = self.value("MainPID"), self.sh("readlink /opt/edge-detector/venv")

        self.sh(f"{COPY}; echo 'import absent' >>/root/new/edge_detector/detector.py")
        assert "error: the new release does not work here" in self.show("/root/new/systemd/install.sh || true")
        assert self.state(ActiveState="active", MainPID=running)
        assert self.sh("readlink /opt/edge-detector/venv") == release

        self.put("/etc/edge-detector/edge-detector.yaml", settings(more=f"{hook}colour: red\n"))
        assert "the former release was not touched" in self.show("/src/systemd/install.sh 2>&1 || true")
        assert self.state(ActiveState="active", MainPID=running)
        self.put("/etc/edge-detector/edge-detector.yaml", settings(more=hook))

        broken = "def run_service(*_, **__): raise OSError(5)"  # which no check before the start sees
        self.sh(f"{COPY}; echo '{broken}' >>/root/new/edge_detector/runtime/service.py")
        assert "the former one runs again" in self.show("/root/new/systemd/install.sh 2>&1 || true")
        self.until(ActiveState="active")
        assert self.sh("readlink /opt/edge-detector/venv") == release

        self.sh(f"{COPY}; sed -i 's/^__version__ = .*/__version__ = \"99.0\"/' /root/new/edge_detector/__init__.py")
        self.show("/root/new/systemd/install.sh")
        assert "99.0" in self.show("edge-detector --version; ls /opt/edge-detector/releases")
        assert "# mine" in self.sh("cat /etc/edge-detector/edge-detector.yaml")
        assert self.sh("ls /opt/edge-detector/releases").count("\n") == 0, "former releases are left"
        assert self.sh("cat /opt/edge-detector/venv/extras") == "stream"
        assert self.state(ActiveState="active")

    def uninstall(self) -> None:
        """All of the program goes; settings and data only with --purge."""
        skipped = "'(' -path /root -o -path /src -o -path /var/log ')' -prune"
        files = f"find / -xdev {skipped} -o -name '*edge?detector*' -print -o -name '*edgetpu*' -print"
        self.show("/src/systemd/install.sh --uninstall")
        left = set(self.show(files).splitlines()) - {"/etc/systemd/system/edge-detector.service.d"}
        assert left == {"/etc/edge-detector", "/etc/edge-detector/edge-detector.yaml", "/var/lib/edge-detector"}, left
        assert self.sh("ls /var/lib/edge-detector/events.db")
        self.show("/src/systemd/install.sh --uninstall --purge")
        assert not self.show(files)
        assert "no such user" in self.sh("id edge-detector", check=False)

    STEPS: tuple[Callable[[Proof], None], ...] = (
        install, boot, sandbox, stop, watchdog, crash_loop, wrong_settings, camera_away, reload, instances, upgrade,
        uninstall,
    )  # fmt: skip


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="bookworm", help="bookworm or trixie")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/edge-detector-nspawn"))
    parser.add_argument("--only", help="names of steps, with commas, on the system that is there")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else [step.__name__ for step in Proof.STEPS]
    machine = Machine(arguments.folder.resolve(), arguments.suite, CHECKOUT)
    if "install" in wanted:
        machine.make()
    try:
        machine.boot()
        proof = Proof(machine)
        for step in Proof.STEPS:
            if step.__name__ in wanted:
                print(f"\n== {step.__name__}: {step.__doc__}", flush=True)
                step(proof)
                print(f"-- {step.__name__}: as promised", flush=True)
    finally:
        machine.power_off()
    print(f"\nall as promised, on {arguments.suite}")


if __name__ == "__main__":
    main()
