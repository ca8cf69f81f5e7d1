"""Tensors by name from .safetensors and PyTorch files, and a look at their names without loading them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.errors import ModelError

_PICKLE = b"\x80"  # first byte of a pickle with a protocol, as PyTorch wrote until 1.5
_HEAD = 1 << 20  # bytes that hold the names in such a file


def names_in(path: Path) -> bytes:
    """Return a stretch of bytes that contains the names in a .safetensors or PyTorch file; b"" for other files."""
    try:
        if path.suffix == ".safetensors":
            return json.dumps(_header(path)).encode()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
        with path.open("rb") as file:
            start = file.read(_HEAD)
        return start if start.startswith(_PICKLE) else b""
    except (OSError, ValueError, zipfile.BadZipFile, EOFError):
        return b""


def read_tensors(path: Path) -> dict[str, Any]:
    """Return what a .safetensors or PyTorch file holds, tensors of the latter as PyTorch has them.

    Code in a pickle is never run.

    Raises:
        ModelError: the file is damaged, holds more than plain tensors, or PyTorch is needed and not installed.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        import torch
    except ImportError as error:
        raise ModelError(f"{path}: is a PyTorch file; run: pip install torch, or give .safetensors") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises anything from RuntimeError to UnpicklingError and EOFError
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{path}: cannot be read as plain tensors ({reason}); copy it again, or save model.state_dict()"
        ) from error
    if not isinstance(found, Mapping):
        raise ModelError(f"{path}: holds a {type(found).__name__}, wanted tensors by name; save model.state_dict()")
    return dict(found)


def state_dict(found: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the float32 arrays of a state dict; wrappers of trainers and of DataParallel are taken off."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(found.get(wrapper), Mapping):
            return state_dict(found[wrapper])
    arrays = {name: _array(values) for name, values in found.items() if hasattr(values, "shape")}
    for prefix in ("module.", "model."):
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): values for name, values in arrays.items()}
    return arrays


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a .safetensors file; {} where it has none or is another file."""
    try:
        found = _header(path).get("__metadata__", {}) if path.suffix == ".safetensors" else {}
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()}


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("the file is cut off")
        header: dict[str, Any] = json.loads(file.read(size))
    return header


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except Exception as error:  # its SafetensorError derives from Exception directly
        raise ModelError(f"{path}: cannot be read as safetensors: {error}; copy or download it again") from error


def _array(values: Any) -> npt.NDArray[np.float32]:
    array = values if isinstance(values, np.ndarray) else values.detach().float().numpy()
    return np.asarray(array, np.float32)
