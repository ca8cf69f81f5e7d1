"""Importer: our own weights, as tools/train and `python tools/network export` write them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edge_detector.errors import ModelError
from edge_detector.labels import read_labels
from tools.network.architecture import Architecture
from tools.network.importers import ImportedNetwork
from tools.network.importers.tensor_files import metadata, names_in, read_tensors, state_dict
from tools.network.manifest import OWN_NMS, input_spec
from tools.network.weights import Weights


def recognise(path: Path) -> bool:
    """Return whether `path` holds our network and says which."""
    if path.suffix == ".safetensors":
        return "architecture" in metadata(path)
    if path.suffix in (".keras", ".h5"):
        return b"NetworkInput" in _keras_config(path)
    names = names_in(path)
    return b"architecture" in names and b"backbone.conv1.conv.weight" in names


def load(path: Path, labels: Path | None) -> ImportedNetwork:
    """Read weights with their architecture.

    Raises:
        ModelError: it cannot be read, or says nothing of its architecture.
    """
    arch, weights, own = _read_keras(path) if path.suffix in (".keras", ".h5") else _read(path)
    return ImportedNetwork(
        family="our own weights",
        arch=arch,
        weights=weights,
        labels=own if labels is None else read_labels(labels),
        input=input_spec(arch),
        nms=OWN_NMS,
        files=(path,),
        framework="tensorflow" if path.suffix in (".keras", ".h5") else "pytorch",
    )


def _read(path: Path) -> tuple[Architecture, Weights, tuple[str, ...]]:
    found = read_tensors(path)
    said = metadata(path) or found
    try:
        arch = Architecture.from_json(str(said["architecture"]))
        labels = said["labels"]
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path}: says nothing of its architecture ({error!r}); give weights that tools/train wrote"
        ) from error
    weights: Weights = {n: v for n, v in state_dict(found).items() if not n.endswith("num_batches_tracked")}
    return arch, weights, tuple(labels.split("\n")) if isinstance(labels, str) else tuple(map(str, labels))


def _read_keras(path: Path) -> tuple[Architecture, Weights, tuple[str, ...]]:
    from tools.network.keras_file import read_keras

    return read_keras(path)


def _keras_config(path: Path) -> bytes:
    """Return the text that describes the layers of a saved Keras model; b"" for other files."""
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return archive.read("config.json")
        import h5py

        with h5py.File(path, "r") as file:
            return str(file.attrs.get("model_config", "")).encode()
    except (OSError, KeyError, zipfile.BadZipFile, ImportError):
        return b""
