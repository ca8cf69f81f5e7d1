"""FloatModel: what every front end hands to the quantizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_detector.manifest import ModelManifest

Reference = Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class FloatModel:
    """A float32 .tflite with raw heads, and what is known about it.

    Attributes:
        content: the .tflite, outputs named as in the manifest.
        manifest: its outputs are `SsdRawOutputs`; `origin` and `weights_sha256` are filled in later.
        family, notes: see `ImportedNetwork`.
        reference: computes the same outputs in the source framework from the input tensor (1, H, W, 3); None where
            the source is the .tflite itself.
        reference_name: such as "PyTorch 2.13.0".
    """

    content: bytes
    manifest: ModelManifest
    family: str
    notes: tuple[str, ...] = ()
    reference: Reference | None = None
    reference_name: str = ""
