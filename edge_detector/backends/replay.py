"""Recorded outputs of a model, given back without any runtime: for tests, and to reproduce what happened elsewhere."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.backends import Backend, DeviceHealth, check_input
from edge_detector.errors import ModelError
from edge_detector.quantization import QuantizationParams, QuantizedTensor, RawOutputs

_DESCRIPTION = "description"  # JSON; the arrays beside it are called "<frame>.<output>"


class ReplayBackend:
    """The outputs in a file of `save_recording`, one per call, from the start again after the last; see `Backend`.

    Raises:
        ModelError: the file is missing or no recording.
    """

    health = DeviceHealth()

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                description = json.loads(str(arrays[_DESCRIPTION]))
                outputs = [(name, _params_from(params)) for name, params in description["outputs"]]
                self._frames: list[RawOutputs] = [
                    {
                        name: QuantizedTensor(arrays[f"{frame}.{output}"], params)
                        for output, (name, params) in enumerate(outputs)
                    }
                    for frame in range(description["frames"])
                ]
            _, height, width, _ = description["input_shape"]
            self.name = f"replay of {description['name']}"
            self.input_params = _params_from(description["input_params"])
        except OSError as error:
            raise ModelError(f"{path}: recording cannot be read: {error.strerror or error}") from error
        except (ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path}: not a recording of model outputs ({error}); record it again") from error
        self.input_shape = (1, int(height), int(width), 3)
        self._calls = 0
        self._closed = False

    def infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        """Return the next recorded outputs; `tensor` is checked and not looked at.

        Raises:
            ModelError: `tensor` has another shape or dtype, or the backend is closed.
        """
        if self._closed:
            raise ModelError("the model is closed; open it again")
        check_input(tensor, self.input_shape, self.input_params)
        frame = self._frames[self._calls % len(self._frames)]
        self._calls += 1
        return {name: QuantizedTensor(output.values.copy(), output.params) for name, output in frame.items()}

    def close(self) -> None:
        """Release nothing; safe to call twice."""
        self._closed = True


def save_recording(path: Path, backend: Backend, frames: Sequence[RawOutputs]) -> None:
    """Write outputs of `backend`, at least one frame, as an .npz file."""
    outputs = [(name, _params_to(output.params)) for name, output in frames[0].items()]
    description = {
        "name": backend.name,
        "input_shape": backend.input_shape,
        "input_params": _params_to(backend.input_params),
        "outputs": outputs,
        "frames": len(frames),
    }
    arrays: dict[str, Any] = {_DESCRIPTION: np.array(json.dumps(description))}
    for frame, raw in enumerate(frames):
        arrays |= {f"{frame}.{output}": raw[name].values for output, (name, _) in enumerate(outputs)}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _params_to(params: QuantizationParams | None) -> list[Any] | None:
    return None if params is None else [params.scale, params.zero_point, params.dtype.name]


def _params_from(params: list[Any] | None) -> QuantizationParams | None:
    return None if params is None else QuantizationParams(float(params[0]), int(params[1]), np.dtype(params[2]))
