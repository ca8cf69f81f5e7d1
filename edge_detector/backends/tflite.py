"""Models on the CPU, by LiteRT (ai-edge-litert) or its predecessor tflite-runtime."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.backends import DeviceHealth, check_input
from edge_detector.errors import ConfigError, DelegateError, ModelError
from edge_detector.model_file import read_model_file
from edge_detector.quantization import QuantizationParams, QuantizedTensor, RawOutputs
from edge_detector.tflite_schema import read_tflite

logger = logging.getLogger(__name__)

_DTYPES = tuple(np.dtype(kind) for kind in (np.float32, np.int8, np.uint8, np.int16))


@dataclass(frozen=True, slots=True)
class _Runtime:
    title: str
    package: str
    module: str


_RUNTIMES = {
    "litert": _Runtime("LiteRT", "ai-edge-litert", "ai_edge_litert.interpreter"),
    "tflite": _Runtime("tflite-runtime", "tflite-runtime", "tflite_runtime.interpreter"),
}


class TfliteBackend:
    """A .tflite model on the CPU; see `Backend`.

    Raises:
        ModelError: the model cannot be loaded, or its input is no single RGB picture of fixed size.
        DelegateError: the runtime is not installed or does not work.
        ConfigError: `num_threads` or `runtime` is out of range.
    """

    health = DeviceHealth()

    def __init__(self, model: Path | bytes, num_threads: int | None = None, runtime: str = "auto") -> None:
        threads = default_threads() if num_threads is None else num_threads
        if threads < 1:
            raise ConfigError(f"num_threads must be 1 or more, got {threads}")
        title = model.name if isinstance(model, Path) else "model"
        # tflite-runtime verifies nothing: a file that is cut off would end the process.
        read_tflite(read_model_file(model) if isinstance(model, Path) else model, title)
        chosen = choose_runtime(runtime)
        interpreter_class = import_interpreter(chosen)
        source = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
        try:
            interpreter = interpreter_class(**source, num_threads=threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"{title}: {chosen.title} cannot load it ({_first_line(error)}); if it is made for another device or a "
                "newer runtime, convert it for this one, else copy it again"
            ) from error
        self.name = f"{chosen.title} {importlib.metadata.version(chosen.package)}, {threads} threads"
        input_details = interpreter.get_input_details()
        self.input_shape = input_shape_of(input_details, title)
        self.input_params = params_of(input_details[0], title)
        self._input_index: int = input_details[0]["index"]
        self._outputs = [(o["name"], o["index"], params_of(o, title)) for o in interpreter.get_output_details()]
        self._interpreter = interpreter

    def infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        """Run the model on `tensor`, shape `input_shape`, in the model's own dtype.

        Raises:
            ModelError: `tensor` has another shape or dtype, the model failed, or the backend is closed.
        """
        interpreter = self._interpreter  # another thread may close it while it runs
        if interpreter is None:
            raise ModelError("the model is closed; open it again")
        check_input(tensor, self.input_shape, self.input_params)
        interpreter.set_tensor(self._input_index, tensor)
        try:
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"the model failed: {_first_line(error)}; convert it again") from error
        # get_tensor copies.
        return {name: QuantizedTensor(interpreter.get_tensor(index), params) for name, index, params in self._outputs}

    def close(self) -> None:
        """Release the interpreter; safe to call twice."""
        self._interpreter = None


def default_threads() -> int:
    """Return the number of threads for this machine: all cores, or all but one of four and more."""
    cores = len(os.sched_getaffinity(0))
    return cores - 1 if cores >= 4 else cores


def choose_runtime(word: str) -> _Runtime:
    """Return the runtime for the config's word.

    Raises:
        ConfigError: it is no such word.
        DelegateError: none is installed.
    """
    if word in _RUNTIMES:
        return _RUNTIMES[word]
    if word != "auto":
        raise ConfigError(f"runtime {word!r} is unknown; choose one of auto, {', '.join(_RUNTIMES)}")
    if _is_installed(_RUNTIMES["litert"]):
        return _RUNTIMES["litert"]
    if _is_installed(_RUNTIMES["tflite"]):
        _warn_of_slow_runtime()
        return _RUNTIMES["tflite"]
    raise DelegateError(f"no TFLite runtime is installed; {_install_advice()}")


@functools.cache
def _warn_of_slow_runtime() -> None:
    """Say it once, however often models are loaded."""
    logger.warning("LiteRT is not installed; tflite-runtime is used, which is several times slower on int8 models")


def _is_installed(runtime: _Runtime) -> bool:
    return importlib.util.find_spec(runtime.module.partition(".")[0]) is not None


def import_interpreter(runtime: _Runtime) -> Any:
    """Return the runtime's class `Interpreter`.

    Raises:
        DelegateError: it is not installed, or does not work.
    """
    if not _is_installed(runtime):
        raise DelegateError(f"{runtime.title} is not installed; {_install_advice()}")
    if runtime is _RUNTIMES["tflite"] and np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        raise DelegateError(
            f"tflite-runtime does not work with numpy {np.__version__}; run: pip install 'numpy<2' "
            "'opencv-python-headless<=4.11.0.86'"
        )
    try:
        return importlib.import_module(runtime.module).Interpreter
    except (ImportError, AttributeError, OSError) as error:
        raise DelegateError(
            f"{runtime.title} does not work ({_first_line(error)}); "
            f"run: pip install --force-reinstall {runtime.package}"
        ) from error


def _install_advice() -> str:
    """Return what to install for this Python: LiteRT has 64-bit builds only, tflite-runtime ends at Python 3.11."""
    if sys.maxsize > 2**32:
        return "run: pip install ai-edge-litert"
    if sys.hexversion < 0x030C0000:
        return "run: pip install tflite-runtime==2.14.0 'numpy<2' 'opencv-python-headless<=4.11.0.86'"
    return "there is none for 32-bit Python 3.12 and later: use a 64-bit system, or Python 3.11"


def input_shape_of(details: list[Mapping[str, Any]], title: str) -> tuple[int, int, int, int]:
    """Return 1, height, width, 3 of the only input.

    Raises:
        ModelError: there is another, or it is no single RGB picture of fixed size.
    """
    shapes = [tuple(int(side) for side in item["shape"]) for item in details]
    dynamic = any(-1 in item["shape_signature"][1:] for item in details)
    if dynamic or len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1 or shapes[0][3] != 3:
        found = ", ".join(str(item["shape_signature"].tolist()) for item in details)
        raise ModelError(
            f"{title}: takes {found}, but one picture [1, height, width, 3] of fixed size is needed; convert it again"
        )
    _, height, width, _ = shapes[0]
    return 1, height, width, 3


def params_of(details: Mapping[str, Any], title: str) -> QuantizationParams | None:
    """Return how a tensor is quantized; None for float32.

    Raises:
        ModelError: it is of another type, or has no scale.
    """
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), details["quantization"]
    if dtype not in _DTYPES or (dtype != np.float32 and not scale > 0):
        raise ModelError(
            f"{title}: tensor {details['name']} is {dtype} with scale {scale}; "
            "float32, or int8, uint8 and int16 with a scale, are needed"
        )
    return None if dtype == np.float32 else QuantizationParams(float(scale), int(zero_point), dtype)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
