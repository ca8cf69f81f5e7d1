"""Importer: our own weights, as tools/train and `python tools/network export` write them."""

from __future__ import annotations

from pathlib import Path

from edge_detector.errors import ModelError
from edge_detector.labels import read_labels
from edge_detector.manifest import NmsSpec
from tools.network.architecture import Architecture
from tools.network.importers import ImportedNetwork
from tools.network.importers.tensor_files import metadata, names_in, read_tensors, state_dict
from tools.network.manifest import input_spec
from tools.network.weights import Weights


def recognise(path: Path) -> bool:
    """Return whether `path` holds our network and says which."""
    if path.suffix == ".safetensors":
        return "architecture" in metadata(path)
    names = names_in(path)
    return b"architecture" in names and b"backbone.conv1.conv.weight" in names


def load(path: Path, labels: Path | None) -> ImportedNetwork:
    """Read weights with their architecture.

    Raises:
        ModelError: it cannot be read, or says nothing of its architecture.
    """
    found = read_tensors(path)
    said = metadata(path) or found
    try:
        arch = Architecture.from_json(str(said["architecture"]))
        names = said["labels"]
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path}: says nothing of its architecture ({error!r}); give weights that tools/train wrote"
        ) from error
    weights: Weights = {n: v for n, v in state_dict(found).items() if not n.endswith("num_batches_tracked")}
    own = tuple(names.split("\n")) if isinstance(names, str) else tuple(map(str, names))
    return ImportedNetwork(
        family="our own weights",
        arch=arch,
        weights=weights,
        labels=own if labels is None else read_labels(labels),
        input=input_spec(arch),
        nms=NmsSpec(),
        files=(path,),
        framework="pytorch",
    )
