"""Python and its packages; what is missing or broken is so in the child process that tries it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_detector.doctor import software
from edge_detector.doctor.host import Host, ProbeError

if TYPE_CHECKING:
    from tests.unit.doctor.conftest import Machine

REPOSITORY = Path(__file__).resolve().parents[3]
FAKES = REPOSITORY / "tests" / "fakes"
NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"
DIST_PACKAGES = "/usr/lib/python3/dist-packages"


@pytest.fixture
def python_without(tmp_path: Path) -> Callable[..., str]:
    """Return a function that makes a virtual environment with all packages of this one but some."""

    def make(*left_out: str) -> str:
        folder = tmp_path / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        for name in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for entry in Path(name).iterdir():
                if not entry.name.startswith(left_out) and not (packages / entry.name).exists():
                    (packages / entry.name).symlink_to(entry)
        return str(folder / "bin" / "python")

    return make


@pytest.mark.parametrize(
    ("python", "bits", "machine_name", "state", "words"),
    [
        ((3, 11, 2), 64, "aarch64", "ok", "3.11.2, 64 bit, on aarch64"),
        ((3, 11, 2), 32, "armv7l", "ok", "32 bit"),
        ((3, 9, 2), 64, "aarch64", "error", "too old"),
        ((3, 13, 1), 32, "armv7l", "error", "too new"),
        ((3, 14, 0), 64, "aarch64", "warning", "newer than it was tested with"),
        ((3, 11, 2), 32, "aarch64", "error", "32-bit Python on a 64-bit kernel"),
    ],
)
def test_python_and_bits_that_do_not_fit_are_told(
    machine: Machine, python: tuple[int, int, int], bits: int, machine_name: str, state: str, words: str
) -> None:
    (found,) = machine.check(software.check_python, python=python, bits=bits, machine=machine_name)
    assert (found.state, words in found.found) == (state, True), found
    assert state != "error" or found.fix


def test_runtime_of_this_environment_works(machine: Machine) -> None:
    found = machine.check(software.check_runtime)[0]
    assert found.state in ("ok", "warning")
    assert f"with numpy {np.__version__}" in found.found


def break_tflite(machine: Machine, fault: str) -> None:
    machine.package("tflite-runtime", "2.14.0", "tflite_runtime")
    machine.module("tflite_runtime/__init__.py", "")
    machine.module(
        "tflite_runtime/interpreter.py", f"class Interpreter:\n    def __init__(self, **_):\n        {fault}\n"
    )


@pytest.mark.skipif(not NUMPY_2, reason="this environment has numpy 1, with which tflite-runtime works")
@pytest.mark.parametrize(("config", "state"), [("model: {runtime: tflite}", "error"), (None, "warning")])
def test_tflite_runtime_with_numpy_2_is_told(machine: Machine, config: str | None, state: str) -> None:
    break_tflite(machine, "raise SystemError('<built-in> returned NULL without setting an exception')")
    *_, found = machine.check(software.check_runtime, config)
    assert found.state == state
    assert f"tflite-runtime 2.14.0 with numpy {np.__version__} does not work" in found.found
    assert ("'numpy<2'" in str(found.command)) == (state == "error")


def test_runtime_that_fails_is_told_with_its_words(machine: Machine) -> None:
    break_tflite(machine, "raise OSError('GLIBC_2.34 not found')")
    *_, found = machine.check(software.check_runtime, "model: {runtime: tflite}")
    assert (found.state, "GLIBC_2.34 not found" in found.found) == ("error", True) or NUMPY_2


def test_no_runtime_at_all_is_told(machine: Machine, python_without: Callable[..., str]) -> None:
    interpreter = python_without("ai_edge_litert", "tflite_runtime")
    (found,) = machine.check(software.check_runtime, interpreter=interpreter)
    assert (found.state, found.found) == ("error", "no TFLite runtime is installed")
    assert "install ai-edge-litert" in str(found.command)


def test_opencv_is_found_with_its_package(machine: Machine) -> None:
    (found,) = machine.check(software.check_opencv)
    assert (found.state, found.found.startswith("opencv-python-headless ")) == ("ok", True)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')", "for desktops"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("raise ModuleNotFoundError(\"No module named 'cv2'\")", "No module named 'cv2'"),
    ],
)
def test_opencv_that_cannot_be_imported_is_told(machine: Machine, fault: str, words: str) -> None:
    machine.module("cv2.py", fault)
    (found,) = machine.check(software.check_opencv)
    assert (found.state, words in found.found) == ("error", True), found
    assert str(found.command).endswith("install opencv-python-headless")


def test_two_opencvs_are_told(machine: Machine) -> None:
    machine.package("opencv-python", "4.11.0.86", "cv2")
    machine.package("opencv-python-headless", "4.11.0.86", "cv2")
    machine.module("cv2.py", "__version__ = '4.11.0'")
    (found,) = machine.check(software.check_opencv)
    assert (found.state, "overwrite each other" in found.found) == ("warning", True), found


def test_picamera2_that_works_is_found(machine: Machine) -> None:
    for name in ("picamera2.py", "libcamera.py"):
        machine.module(name, (FAKES / name).read_text())
    (found,) = machine.check(software.check_picamera2)
    assert found.state == "ok"


CSI = "source: csi://0"


@pytest.mark.parametrize(
    ("board", "config", "state"), [("", None, "skipped"), ("Raspberry Pi 4", None, "warning"), ("", CSI, "error")]
)
def test_picamera2_that_is_missing_is_told_where_it_is_needed(
    machine: Machine, python_without: Callable[..., str], board: str, config: str | None, state: str
) -> None:
    machine.write("/proc/device-tree/model", board)
    (found,) = machine.check(software.check_picamera2, config, interpreter=python_without("picamera2", "libcamera"))
    assert found.state == state
    assert state == "skipped" or found.command == "sudo apt install python3-picamera2"


@pytest.mark.parametrize(
    ("tag", "words", "command"),
    [
        ("cpython-311", "does not see the system's packages", "sed -i 's/\\(include-system-site-packages = \\)false"),
        ("cpython-313", "for another Python (cpython-313)", "/usr/bin/python3 -m venv --system-site-packages"),
    ],
)
def test_apts_libcamera_that_this_environment_does_not_see_is_told(
    machine: Machine, python_without: Callable[..., str], tag: str, words: str, command: str
) -> None:
    machine.write(f"{DIST_PACKAGES}/picamera2/__init__.py")
    machine.write(f"{DIST_PACKAGES}/libcamera/_libcamera.{tag}-aarch64-linux-gnu.so")
    interpreter = python_without("picamera2", "libcamera")
    (found,) = machine.check(software.check_picamera2, CSI, interpreter=interpreter, python=(3, 11, 2))
    assert (found.state, words in found.found) == ("error", True), found
    assert str(found.command).startswith(command)


@pytest.mark.parametrize(
    ("fault", "words", "command"),
    [
        ("raise ValueError('numpy.dtype size changed, may indicate binary incompatibility')", "numpy 1", "'numpy<2'"),
        ("raise ImportError('libcamera.so.0.3: undefined symbol: _ZN9libcamera')", "do not fit", "apt full-upgrade"),
        ("raise OSError('odd')", "odd", "--reinstall"),
    ],
)
def test_picamera2_that_does_not_fit_is_told(machine: Machine, fault: str, words: str, command: str) -> None:
    machine.module("libcamera.py", "")
    machine.module("picamera2.py", fault)
    (found,) = machine.check(software.check_picamera2, CSI)
    assert (found.state, words in found.found, command in str(found.command)) == ("error", True, True), found


def test_recordings_without_pyav_are_told(machine: Machine, python_without: Callable[..., str]) -> None:
    config = "recordings: {path: /clips}"
    (found,) = machine.check(software.check_video, config, interpreter=python_without("av"))
    assert (found.state, found.found.startswith("recordings: ")) == ("error", True)
    assert machine.check(software.check_video, "")[0].state == "skipped"


def test_child_that_hangs_is_ended(machine: Machine) -> None:
    machine.module("cv2.py", "import time; time.sleep(600)")
    with pytest.raises(ProbeError, match=r"did not answer within 0\.5 s"):
        Host().probe("import", "cv2", timeout_s=0.5)
