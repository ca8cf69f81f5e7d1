"""A Coral Edge TPU, USB or PCIe, with a model that was compiled for it (no compiled model is shipped).

EDGE_DETECTOR_EDGETPU_MODEL names what edgetpu_compiler made, MODEL_edgetpu.tflite; MODEL.tflite lies beside it, or
EDGE_DETECTOR_EDGETPU_TWIN names it. EDGE_DETECTOR_EDGETPU_LIBRARY names another delegate than libedgetpu.so.1, and then
no stick is looked for.
"""

from __future__ import annotations

import ctypes.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pi_machine
import pytest

from edge_detector.backends import Backend, DeviceOptions
from edge_detector.backends.edgetpu import LIBRARY, EdgeTpuBackend
from edge_detector.backends.failover import FailoverBackend, open_device
from edge_detector.backends.tflite import TfliteBackend
from edge_detector.detector import Detector
from edge_detector.frame import Frame
from edge_detector.postprocess.boxes import pairwise_iou
from edge_detector.preprocess.normalize import Normalizer, prepare

pytestmark = pytest.mark.coral

INVOCATIONS = 50
COSINE_AT_LEAST = 0.98  # of each output: the accelerator's kernels round otherwise, also inside the network
SURE = 0.5
SCORE_DIFFERENCE_AT_MOST = 0.1
# In a process of its own, as conventions say: a library that was built for another runtime may crash it.
_VERSION = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.edgetpu_version.restype = ctypes.c_char_p
print(library.edgetpu_version().decode())
"""


@pytest.fixture(scope="module")
def library() -> str:
    """The delegate's library; skips where there is none, or no stick."""
    named = os.environ.get("EDGE_DETECTOR_EDGETPU_LIBRARY")
    if named:
        return named
    if not pi_machine.corals():
        pytest.skip("no Coral: neither on USB (1a6e:089a, 18d1:9302) nor /dev/apex_*")
    if ctypes.util.find_library("edgetpu") is None:
        pytest.skip(f"no {LIBRARY}: install libedgetpu1-std")
    return LIBRARY


@pytest.fixture(scope="module")
def models(library: str) -> tuple[Path, Path]:
    """The compiled model and its twin for the CPU."""
    named = os.environ.get("EDGE_DETECTOR_EDGETPU_MODEL")
    if not named:
        pytest.skip("no compiled model: make pi-acceptance EDGETPU_MODEL=model_edgetpu.tflite")
    compiled = Path(named)
    beside = compiled.with_name(compiled.name.replace("_edgetpu", ""))
    twin = Path(os.environ.get("EDGE_DETECTOR_EDGETPU_TWIN") or beside)
    assert compiled.is_file(), compiled
    assert twin.is_file(), f"{twin}: name the model for the CPU in EDGE_DETECTOR_EDGETPU_TWIN"
    assert twin != compiled, "the model for the CPU is to be another file"
    return compiled, twin


@pytest.fixture
def options(library: str, models: tuple[Path, Path]) -> DeviceOptions:
    return DeviceOptions("edgetpu", models[0], fallback=False, library=library)


def test_stick_and_library_are_there(library: str, figure: Any) -> None:
    figure("devices", ", ".join(pi_machine.corals()) or "none that is known")
    if library != LIBRARY:
        pytest.skip(f"{library} is no libedgetpu")
    result = subprocess.run([sys.executable, "-c", _VERSION, library], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, f"{library} cannot be loaded: {result.stderr}"
    figure("library", result.stdout.strip())


def test_outputs_are_those_of_the_cpu(
    models: tuple[Path, Path], options: DeviceOptions, photo: Frame, figure: Any
) -> None:
    with closing(Detector.open(str(models[1]))) as cpu:
        tensor, _ = prepare(photo.image, Normalizer(cpu.manifest.input, cpu.backend.input_params))
        wanted = cpu.backend.infer(tensor)
    with closing(open_device(models[1], options)) as accelerator:
        found = accelerator.infer(tensor)
        assert accelerator.health.running == "edgetpu"
    assert set(found) == set(wanted)
    cosines = {name: cosine(wanted[name].values, found[name].values) for name in wanted}
    steps = max(largest_step(wanted[name].values, found[name].values) for name in wanted)
    figure("least cosine of an output", f"{min(cosines.values()):.4f}")
    figure("largest difference", f"{steps:g} steps")
    assert min(cosines.values()) >= COSINE_AT_LEAST, cosines


def test_finds_what_the_cpu_finds(models: tuple[Path, Path], options: DeviceOptions, photo: Frame, figure: Any) -> None:
    with closing(Detector.open(str(models[1]), threshold=0.3)) as cpu:
        wanted = cpu.detect(photo)
    with closing(Detector.open(str(models[1]), threshold=0.3, device=options)) as accelerator:
        found = accelerator.detect(photo)
        assert accelerator.device == "edgetpu"
    figure("detections", f"{len(found)}, of the CPU {len(wanted)}")
    for ours, theirs in ((wanted, found), (found, wanted)):
        sure = ours[ours.confidence >= SURE]
        alike = pairwise_iou(sure.xyxy, theirs.xyxy) >= 0.7
        alike &= np.abs(sure.confidence[:, None] - theirs.confidence) <= SCORE_DIFFERENCE_AT_MOST
        assert alike.any(axis=1).all(), (wanted, found)


def test_time_of_an_inference(models: tuple[Path, Path], options: DeviceOptions, figure: Any) -> None:
    medians_ms = {}
    for title, device in ("CPU", DeviceOptions("cpu")), ("Edge TPU", options):
        with closing(open_device(models[1], device)) as backend:
            tensor = np.zeros(backend.input_shape, tensor_dtype(backend))
            backend.infer(tensor)
            times_ms = []
            for _ in range(INVOCATIONS):
                start_s = time.perf_counter()
                backend.infer(tensor)
                times_ms.append((time.perf_counter() - start_s) * 1e3)
        medians_ms[title] = float(np.median(times_ms))
        figure(title, f"{medians_ms[title]:.1f} ms (p95 {np.percentile(times_ms, 95):.1f})")
    assert all(medians_ms.values())


def test_crash_of_its_process_is_answered_by_the_cpu_and_it_comes_back(
    models: tuple[Path, Path], library: str, figure: Any
) -> None:
    children = set(child_processes())
    with closing(failover(models, library)) as backend:
        tensor = np.zeros(backend.input_shape, tensor_dtype(backend))
        backend.infer(tensor)
        assert backend.health.running == "edgetpu", backend.health
        (worker,) = set(child_processes()) - children
        os.kill(worker, signal.SIGKILL)
        backend.infer(tensor)  # answered all the same
        assert backend.health.running == "cpu", backend.health
        figure("said", str(backend.health.error))
        start_s = time.monotonic()
        wait_for(backend, tensor, "edgetpu", 60)
        figure("used again after", f"{time.monotonic() - start_s:.1f} s")


def test_unplugged_stick_is_answered_by_the_cpu_and_it_comes_back(
    models: tuple[Path, Path], library: str, ask: Callable[[str], None], tell: Callable[[str], None], figure: Any
) -> None:
    """Interactive; USB only."""
    if not any(device.startswith("USB") for device in pi_machine.corals()):
        pytest.skip("only a USB stick may be unplugged while the machine is on")
    ask("Next, the Coral is to be unplugged and plugged in again. Have it at hand")
    with closing(failover(models, library)) as backend:
        tensor = np.zeros(backend.input_shape, tensor_dtype(backend))
        backend.infer(tensor)
        tell("Unplug it now")
        wait_for(backend, tensor, "cpu", 60)
        tell("The CPU has taken over. Plug it in again now")
        start_s = time.monotonic()
        wait_for(backend, tensor, "edgetpu", 120)
        figure("used again after", f"{time.monotonic() - start_s:.1f} s, with the time of the hand")


def failover(models: tuple[Path, Path], library: str) -> FailoverBackend:
    return FailoverBackend(
        lambda stopped: EdgeTpuBackend(models[0], library=library, stopped=stopped),
        lambda: TfliteBackend(models[1]),
        retry_s=1.0,
        retry_max_s=5.0,
    )


def wait_for(backend: FailoverBackend, tensor: npt.NDArray[Any], device: str, limit_s: float) -> None:
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        backend.infer(tensor)
        if backend.health.running == device:
            return
        time.sleep(0.05)
    raise AssertionError(f"not on {device} after {limit_s:g} s: {backend.health}")


def tensor_dtype(backend: Backend) -> np.dtype[Any]:
    return np.dtype(np.float32) if backend.input_params is None else backend.input_params.dtype


def cosine(wanted: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    ours, theirs = (values.astype(np.float64).ravel() for values in (wanted, found))
    scale = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(ours @ theirs) / scale if scale else float(np.array_equal(ours, theirs))


def largest_step(wanted: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    return float(np.abs(wanted.astype(np.float64) - found.astype(np.float64)).max(initial=0))


def child_processes() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(number) for task in tasks for number in (task / "children").read_text().split()]
