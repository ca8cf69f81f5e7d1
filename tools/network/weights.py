"""The weight format: safetensors with PyTorch layouts (OIHW), canonical names, the architecture in its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.errors import ModelError
from tools.network.architecture import Architecture

Weights = dict[str, npt.NDArray[np.float32]]


def save_weights(path: Path, arch: Architecture, weights: Mapping[str, Any], labels: tuple[str, ...]) -> None:
    """Write `weights` (arrays by canonical name) so that a partly written file never has the final name."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
    temporary = path.with_suffix(".tmp")
    save_file(arrays, temporary, {"architecture": arch.to_json(), "labels": "\n".join(labels)})
    temporary.replace(path)


def load_weights(path: Path) -> tuple[Architecture, Weights, tuple[str, ...]]:
    """Read what `save_weights` wrote.

    Raises:
        ModelError: no such file, not safetensors, or weights of something else.
    """
    from safetensors import safe_open  # a float .tflite converts without it

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:
        # safetensors' SafetensorError derives from Exception directly, and a missing file is an OSError
        raise ModelError(f"{path}: cannot be read as safetensors weights: {error}") from error
    if "architecture" not in metadata:
        raise ModelError(f"{path}: safetensors without an architecture; give weights written by tools/train")
    return Architecture.from_json(metadata["architecture"]), weights, tuple(metadata["labels"].split("\n"))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
