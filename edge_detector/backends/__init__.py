"""Stage 3: tensor -> raw outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edge_detector.errors import ModelError
from edge_detector.quantization import QuantizationParams, RawOutputs

# File ending -> "module:class", called with the path, num_threads and runtime.
_BACKENDS = {".tflite": "edge_detector.backends.tflite:TfliteBackend"}


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """Which device runs a model.

    Attributes:
        wanted: the one that was asked for: "cpu", "edgetpu:usb:0".
        running: the one that runs it now.
        state: "ok"; "fallback" while another stands in for the one that was asked for; "retrying" while that is tried.
        since: monotonic time of the state's beginning.
        failures: times that the wanted one failed.
        error: why it failed last, until it runs again.
        left_behind: processes that could not be ended.
        causes: the failures by what they were: "crash", "hang" or "error".
    """

    wanted: str = "cpu"
    running: str = "cpu"
    state: Literal["ok", "fallback", "retrying"] = "ok"
    since: float = 0.0
    failures: int = 0
    error: str | None = None
    left_behind: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Which device shall run a model.

    Attributes:
        device: "auto", "cpu", "edgetpu", "edgetpu:usb:0", "edgetpu:pci:0".
        edgetpu_model: the model compiled for the Edge TPU; None: `<name>_edgetpu.tflite` beside the other.
        fallback: the CPU stands in while the device is away.
        library: the delegate's shared library.
        invoke_timeout_s: an inference that takes longer hangs.
    """

    device: str = "auto"
    edgetpu_model: Path | None = None
    fallback: bool = True
    library: str = "libedgetpu.so.1"
    invoke_timeout_s: float = 5.0


class Backend(Protocol):
    """A loaded model on one runtime. Used by one thread only, but for `health`.

    `input_params` is None where the model takes real numbers (float32).
    """

    name: str  # such as "LiteRT 2.3.0, 2 threads"
    input_shape: tuple[int, int, int, int]  # 1, height, width, 3
    input_params: QuantizationParams | None

    @property
    def health(self) -> DeviceHealth:
        """The device that runs it; safe to read from any thread."""
        ...

    def infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        """Run the model on `tensor`, shape `input_shape`, in the model's own dtype.

        Raises:
            ModelError: `tensor` has another shape or dtype, the model failed, or the backend is closed.
        """
        ...

    def close(self) -> None:
        """Release the interpreter; safe to call twice."""
        ...


def open_backend(path: Path, num_threads: int | None = None, runtime: str = "auto") -> Backend:
    """Load the model file `path` on the backend for its kind; `runtime` is "auto", "litert" or "tflite".

    Raises:
        ModelError: no backend runs this kind of file, or the file cannot be used.
        DelegateError: the runtime is not installed or does not work.
        ConfigError: `num_threads` or `runtime` is out of range.
    """
    target = _BACKENDS.get(path.suffix)
    if target is None:
        raise ModelError(f"{path}: no backend for this kind of file; give one that ends in {', '.join(_BACKENDS)}")
    module, _, attribute = target.partition(":")
    backend: Backend = getattr(import_module(module), attribute)(path, num_threads=num_threads, runtime=runtime)
    return backend


def check_input(tensor: npt.NDArray[Any], shape: tuple[int, int, int, int], params: QuantizationParams | None) -> None:
    """Check that `tensor` is what a model takes.

    Raises:
        ModelError: shape or dtype differ; the message gives both.
    """
    dtype = np.dtype(np.float32) if params is None else params.dtype
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ModelError(
            f"the model takes {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}; "
            "prepare the tensor with this model's own manifest"
        )
