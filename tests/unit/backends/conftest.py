"""A real external delegate, built here, that fails on command; see tests/fixtures/fault_delegate.c."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.backends.edgetpu import EdgeTpuBackend
from edge_detector.backends.tflite import choose_runtime

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
RUNTIMES = {"litert": "ai_edge_litert", "tflite": "tflite_runtime"}


@dataclass(frozen=True)
class FaultDelegate:
    library: Path
    folder: Path

    def command(self, text: str = "") -> None:
        """Tell it what goes wrong from now on: "STEP ACTION [N]"; nothing does without `text`."""
        written = self.folder / "command.new"
        written.write_text(text)
        written.replace(self.folder / "command")

    def record(self, event: str) -> list[str]:
        """Return what followed `event` in each line that it has written so far."""
        path = self.folder / "record"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.removeprefix(f"{event} ") for line in lines if line.startswith(f"{event} ")]

    def open(self, model: str | Path = "od_api_tiny_int8", **options: Any) -> EdgeTpuBackend:
        path = model if isinstance(model, Path) else FIXTURES / f"{model}.tflite"
        return EdgeTpuBackend(path, **({"library": str(self.library), "num_threads": 1} | options))


@pytest.fixture(scope="session", autouse=True)
def runtime_is_chosen() -> None:
    """Have what is said of the runtime once per process said before tests count warnings."""
    choose_runtime("auto")


@pytest.fixture(scope="session")
def delegate_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to build the delegate that fails on command")
    library = tmp_path_factory.mktemp("delegate") / "fault_delegate.so"
    source = FIXTURES / "fault_delegate.c"
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1", "-o", library, source]
    subprocess.run(command, check=True)
    return library


@pytest.fixture
def delegate(delegate_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultDelegate:
    monkeypatch.setenv("FAULT_DELEGATE_RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("FAULT_DELEGATE_COMMAND", str(tmp_path / "command"))
    return FaultDelegate(delegate_library, tmp_path)


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(RUNTIMES[request.param]) is None:
        pytest.skip(f"{RUNTIMES[request.param]} is not installed in this environment")
    if request.param == "tflite" and np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        pytest.skip("tflite-runtime does not work with numpy 2")
    return str(request.param)


@pytest.fixture(scope="session")
def compiled() -> Callable[[Path, Path], Path]:
    """Return a function that replaces each RESHAPE of a model by "edgetpu-custom-op", which no CPU runs."""

    def compile_for_delegate(model: Path, target: Path) -> Path:
        flatbuffers = pytest.importorskip("flatbuffers")
        schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
        unpacked = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
        for code in unpacked.operatorCodes:
            if code.builtinCode == schema.BuiltinOperator.RESHAPE:
                code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
                code.customCode = "edgetpu-custom-op"
        builder = flatbuffers.Builder(1024)
        builder.Finish(unpacked.Pack(builder), b"TFL3")
        target.write_bytes(bytes(builder.Output()))
        return target

    return compile_for_delegate


def tensor_for(backend: Any, seed: int = 1) -> npt.NDArray[Any]:
    values = np.random.default_rng(seed).uniform(size=backend.input_shape)
    if backend.input_params is None:
        return values.astype(np.float32)
    stored: npt.NDArray[Any] = backend.input_params.quantize(values * 200 - 100)
    return stored


@pytest.fixture(scope="session")
def make_tensor() -> Callable[..., npt.NDArray[Any]]:
    """Return a function that makes a random input for a backend."""
    return tensor_for


@pytest.fixture(scope="session")
def open_fds() -> Callable[[], list[str]]:
    """Return a function that lists what the open file descriptors of this process belong to."""

    def list_fds() -> list[str]:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        targets = sorted(str(link.readlink()) for link in links if link.is_symlink())
        return [target for target in targets if not target.endswith("/fd")]

    return list_fds


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """Return a function that lists the living and zombie processes that this one has started."""

    def list_children() -> set[int]:
        found: set[int] = set()
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has just ended
                found.update(map(int, (task / "children").read_text().split()))
        return found

    return list_children
