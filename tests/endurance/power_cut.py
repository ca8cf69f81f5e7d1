"""python tests/endurance/power_cut.py: kills the service at random points while it writes, and reads what it has left.

By SIGKILL, `--times` times; all its children too. `--images N` also cuts the power N times: the medium of a small disk
is copied while the service writes to it, without what Linux still holds in memory. That needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script from anywhere

from edge_detector.passwords import hash_password
from tests.endurance.disk import SmallDisk, keep_mounts_to_ourselves
from tests.endurance.service import DEMO_CLIP, Receivers, Service, children, settings
from tests.endurance.written import unreadable

READY_S = 60.0
PARTS = ("results.jsonl", "events.jsonl", "events.db", "snapshots", "clips", "session.key")


class Cuts:
    """A service that is killed and started again, on the same folder."""

    def __init__(self, folder: Path, outputs: Path, seed: int, detect_fps: float) -> None:
        self.wrong: list[str] = []
        self.done = 0
        self.killed_in: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self._folder, self._outputs = folder, outputs
        self._chance = random.Random(seed)
        self._wanted = settings(_cameras(), outputs, Receivers(), model="person-320", detect_fps=detect_fps)
        # More often than anybody would: a kill is to hit a change of files, the end of a clip, a commit.
        self._wanted["output"] |= {"jsonl_max_mb": 0.02}
        self._wanted["events"]["update_s"] = 1.0
        self._wanted["recordings"] |= {"max_clip_s": 2.0, "pre_roll_s": 0.5, "post_roll_s": 0.5}
        self._wanted["web"]["users"] = {"ada": _entry()}
        self._state = folder / "state"

    def cut(self) -> None:
        """Start it, and kill it a random time after it has begun to write, or while it starts."""
        if self._chance.random() < 0.3:  # so that the key is written anew
            shutil.rmtree(self._state, ignore_errors=True)
        early = self._chance.random() < 0.2
        with self.running() as service:
            if early:  # while it starts, and mends what the last kill has left
                time.sleep(self._chance.uniform(0, 3))
            else:
                self.wait_for_lines(service)
                time.sleep(self._chance.uniform(0, 4))
            _kill(service)
        self.done += 1
        self._look(service)
        wrong = unreadable(self._outputs, self._state)
        self.wrong += [f"after kill {self.done}: {text}" for text in wrong]

    def end_well(self) -> None:
        """Start it once more, and stop it by SIGTERM: what a kill has left must be gone."""
        with self.running() as service:
            self.wait_for_lines(service)
            time.sleep(2)
            code, _ = service.end()
        if code:
            self.wrong.append(f"SIGTERM in the end: {code}")
        self.wrong += [f"in the end: {text}" for text in unreadable(self._outputs, self._state, running=False)]
        for name, pattern in (("lines", "results.jsonl*"), ("events", "events.jsonl*")):
            files = self._outputs.glob(pattern)
            self.kept[name] = sum(path.read_bytes().count(b"\n") for path in files)
        self.kept["clips"] = len(list(self._outputs.glob("clips/*/*/*.mp4")))
        self.kept["snapshots"] = len(list(self._outputs.glob("snapshots/*/*/*.jpg")))

    @contextmanager
    def running(self) -> Iterator[Service]:
        self._folder.joinpath("service.log").unlink(missing_ok=True)
        service = Service(self._folder, self._wanted)
        try:
            yield service
        finally:
            _kill(service)

    def wait_for_lines(self, service: Service) -> None:
        path = self._outputs / "results.jsonl"
        before = path.stat() if path.exists() else None
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s and service.process.poll() is None:
            with suppress(FileNotFoundError):
                now = path.stat()
                if before is None or (now.st_ino, now.st_size) != (before.st_ino, before.st_size):
                    return
            time.sleep(0.02)
        self.wrong.append(f"it does not write: {service.log.read_text()[-500:]}")

    def _look(self, service: Service) -> None:
        """Count what was caught in the middle, as evidence that kills hit something, and what the start mended."""
        for path in self._outputs.glob("*.jsonl"):
            self.killed_in["half a line"] += not path.read_bytes().endswith(b"\n")
        for path in self._outputs.glob("clips/*/*/*.json"):
            with suppress(ValueError):
                self.killed_in["open clip"] += json.loads(path.read_bytes())["end_ts"] is None
        self.killed_in["temporary file"] += sum(1 for _ in self._outputs.rglob("*.part"))
        self.killed_in["database with a log"] += self._outputs.joinpath("events.db-wal").exists()
        text = service.log.read_text(errors="replace")
        self.mended["clips mended"] += text.count("was interrupted; its")
        self.mended["clips that could not be mended"] += text.count("cannot be mended")
        if "Traceback" in text:
            self.wrong.append(f"kill {self.done}: {text[text.index('Traceback') :][:1500]}")


def main() -> int:
    """Cut, read, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--detect-fps", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("power_cut"))
    given = parser.parse_args()
    keep_mounts_to_ourselves()
    folder = given.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        outputs = folder / "outputs"
        outputs.mkdir(exist_ok=True)
        cuts = Cuts(folder, outputs, given.seed, given.detect_fps)
        for number in range(given.times):
            cuts.cut()
            if number % 10 == 9:
                print(f"{number + 1} kills, {len(cuts.wrong)} defects, hit {dict(cuts.killed_in)}", flush=True)
        cuts.end_well()
        print(f"killed {cuts.done} times; hit in the middle: {dict(cuts.killed_in)}; {dict(cuts.mended)}")
        print(f"left in the end: {dict(cuts.kept)}")
        wrong = list(cuts.wrong)
        if given.images:
            wrong += cut_images(folder, given.images, given.seed, given.detect_fps, stack)
    for text in wrong:
        print(f"WRONG {text}")
    print("nothing unreadable" if not wrong else f"{len(wrong)} defects")
    return int(bool(wrong))


def cut_images(folder: Path, times: int, seed: int, detect_fps: float, stack: ExitStack) -> list[str]:
    """Let a service write to a disk of its own, cut its power, and start a service on what is there; return defects."""
    memory = Path("/dev/shm") / f"edge-detector-disk-{os.getpid()}"  # copied at once, so that few writes come between
    place = folder / "cut"
    disk = SmallDisk(folder / "disk", 160, memory)
    stack.callback(disk.close)
    if disk.kind != "ext4":
        print("no power cuts: they need root and ext4 on a loop device")
        return []
    chance = random.Random(seed)
    wrong: list[str] = []
    dirty = 0
    for one in (folder / "writer", folder / "starter", place):
        one.mkdir(exist_ok=True)
    cuts = Cuts(folder / "writer", disk.folder, seed, detect_fps)
    with cuts.running() as service:
        cuts.wait_for_lines(service)
        for number in range(1, times + 1):
            time.sleep(chance.uniform(1, 8))
            if service.process.poll() is not None:
                return [*wrong, f"the service ended by itself: {service.log.read_text()[-1000:]}"]
            # A name of its own: the loop device of the last copy may still be there, with what it remembers of that.
            copy = memory.with_suffix(f".{number}")
            stack.callback(copy.unlink, missing_ok=True)
            disk.cut(copy)
            subprocess.run(["mount", "-o", "loop", str(copy), str(place)], check=True)
            try:
                before = unreadable(place, folder / "nothing")
                dirty += bool(before)
                after = Cuts(folder / "starter", place, seed, detect_fps)
                after.end_well()
            finally:
                subprocess.run(["umount", str(place)], check=True)
                copy.unlink()
            wrong += [f"power cut {number}: {text}" for text in after.wrong]
            told = f"; before the start: {before}" if before else ""
            print(f"power cut {number}: {len(after.wrong)} defects, kept {dict(after.kept)}{told}", flush=True)
    print(f"{times} power cuts, after {dirty} of which something was unreadable until the next start")
    return wrong


def _kill(service: Service) -> None:
    for pid in (*_children(service.pid), service.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    service.process.wait()


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return children(pid)
    return []


def _cameras() -> dict[str, str]:
    return {"front": f"file://{DEMO_CLIP}?loop=1", "yard": f"file://{DEMO_CLIP}?loop=1"}


def _entry() -> str:
    return hash_password("a password of tests")


if __name__ == "__main__":
    sys.exit(main())
