"""Run by the unit in place of the program: tries what the sandbox must allow and what it must refuse, a line each."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

STATE = os.environ["STATE_DIRECTORY"]


def write(path: str) -> None:
    Path(path, "probe").write_text("x")


def executable_memory() -> None:
    """Memory that is written to and executed, as a compiler at run time wants it."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def new_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")


def child() -> None:
    """As the Edge TPU's process is started."""
    script = "import mmap, os; file = os.memfd_create('x'); os.ftruncate(file, 4096); mmap.mmap(file, 4096)"
    subprocess.run([sys.executable, "-c", script], check=True)


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.connect(path)


def inference() -> None:
    from edge_detector.detector import Detector
    from edge_detector.sources import open_source

    frame = open_source("synthetic://").read(timeout_s=10.0)
    assert frame is not None
    Detector.open("ssd_resnet50_fpn_person_320_int8", num_threads=2).detect(frame)


def h264() -> None:
    import av
    import numpy as np

    with tempfile.NamedTemporaryFile(suffix=".mp4") as file, av.open(file.name, "w") as clip:
        stream = clip.add_stream("libx264", rate=10)
        for _ in range(3):
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")))
        clip.mux(stream.encode())


ALLOWED: dict[str, Callable[[], object]] = {
    "write its state": lambda: write(STATE),
    "write its run-time folder": lambda: write(os.environ["RUNTIME_DIRECTORY"]),
    "write /tmp of its own": lambda: write("/tmp"),
    "write /dev/shm": lambda: write("/dev/shm"),
    "read its settings": lambda: Path("/etc/edge-detector/edge-detector.yaml").read_text(),
    "read its secret": lambda: Path(os.environ["CREDENTIALS_DIRECTORY"], "EDGE_DETECTOR_PROBE").read_text(),
    "read /proc/cpuinfo": lambda: Path("/proc/cpuinfo").read_text(),
    "read /proc/meminfo": lambda: Path("/proc/meminfo").read_text(),
    "read /sys/class": lambda: list(Path("/sys/class").iterdir()),
    "reach the journal": lambda: connect("/run/systemd/journal/socket"),
    "hear of devices by netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15).bind((0, 2)),
    "listen on TCP": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    "start a process": child,
    "run the model": inference,
    "encode H.264": h264,
    "have a callback from C": lambda: ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)(),
}
REFUSED: dict[str, Callable[[], object]] = {
    "write /etc": lambda: write("/etc"),
    "write its settings": lambda: write("/etc/edge-detector"),
    "write /usr": lambda: write("/usr"),
    "write its own program": lambda: write("/opt/edge-detector/venv"),
    "write /var/tmp of others": lambda: Path("/var/tmp/of-others").read_text(),
    "write /home": lambda: write("/home"),
    "see what is in /home": lambda: Path("/home/of-others").read_text(),
    "read the file of the secret": lambda: Path("/etc/edge-detector/secrets/PROBE").read_text(),
    "read the kernel's log": lambda: Path("/dev/kmsg").read_text(),
    "write a kernel setting": lambda: Path("/proc/sys/vm/swappiness").write_text("60"),
    "become root": lambda: os.setuid(0),
    "make a name space": new_namespace,
    "have memory written and executed": executable_memory,
    "open a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "open another device": lambda: Path("/dev/fuse-of-the-probe").read_bytes(),
    "see processes of others": lambda: Path("/proc/1/status").read_text(),
    "make a setuid program": lambda: (write(STATE), Path(STATE, "probe").chmod(0o4755)),
}


def main() -> int:
    """Return 1 if anything is other than it must be."""
    wrong = 0
    print(
        f"user {os.getuid()}, groups {sorted(os.getgroups())}, home {os.environ['HOME']}, in {Path.cwd()}", flush=True
    )
    for must, attempts in (("allowed", ALLOWED), ("refused", REFUSED)):
        for what, attempt in attempts.items():
            try:
                attempt()
                outcome, detail = "allowed", ""
            except Exception as error:  # noqa: BLE001 - whatever refuses it
                outcome, detail = "refused", f" ({type(error).__name__}: {error})"
            wrong += outcome != must
            print(f"{'' if outcome == must else 'WRONG: '}{outcome}: {what}{detail}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
