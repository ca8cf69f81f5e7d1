"""Stage 3: tensor -> raw outputs."""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt

from edge_detector.quantization import QuantizationParams, RawOutputs


class Backend(Protocol):
    """A loaded model on one runtime. Used by one thread only.

    `input_params` is None where the model takes real numbers (float32).
    """

    name: str  # such as "LiteRT 2.3.0, 2 threads"
    input_shape: tuple[int, int, int, int]  # 1, height, width, 3
    input_params: QuantizationParams | None

    def infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        """Run the model on `tensor`, shape `input_shape`, in the model's own dtype."""
        ...

    def close(self) -> None:
        """Release the interpreter; safe to call twice."""
        ...
