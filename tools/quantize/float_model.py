"""FloatModel: what every front end hands to the quantizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_detector.manifest import ModelManifest, SsdRawOutputs

Outputs = Mapping[str, npt.NDArray[np.float32]]


def _unchanged(outputs: Outputs) -> Outputs:
    return outputs


@dataclass(frozen=True)
class SourceReference:
    """What computes the right values.

    Attributes:
        name: such as "PyTorch 2.13.0".
        run: returns the source's outputs for an input tensor (1, H, W, 3) float32.
        project: turns the .tflite's outputs into what `run` returns.
    """

    name: str
    run: Callable[[npt.NDArray[np.float32]], Outputs]
    project: Callable[[Outputs], Outputs] = _unchanged


@dataclass(frozen=True)
class FloatModel:
    """A float32 .tflite with raw heads, and what is known about it.

    Attributes:
        content: the .tflite, outputs named as in the manifest.
        manifest: its outputs are `SsdRawOutputs`; `origin` and `weights_sha256` are filled in later.
        family, notes: see `ImportedNetwork`.
        references: to verify `content` against; none where the source is the .tflite itself.
        int8_advice: why the network is no good int8 model, and what to do instead; empty if it is one.
    """

    content: bytes
    manifest: ModelManifest
    family: str
    notes: tuple[str, ...] = ()
    references: tuple[SourceReference, ...] = ()
    int8_advice: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output tensors."""
        levels = self.manifest.outputs.levels if isinstance(self.manifest.outputs, SsdRawOutputs) else ()
        return tuple(name for level in levels for name in (level.class_logits, level.box_encodings))
