"""Which importer reads a file: found by looking at it, or named by the user."""

from __future__ import annotations

import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_detector.errors import ConfigError, ModelError
from tools.network.importers import ImportedNetwork

# Name for --from -> module with `recognise` and `load`, and what it reads, in words. The first that recognises wins.
IMPORTERS = {
    "own": ("tools.network.importers.own", "our own weights: .safetensors, .keras, .h5, .pth"),
    "odapi-tf2": ("tools.network.importers.odapi_tf2", "TF2 Object Detection API: .tar.gz, folder, checkpoint"),
    "odapi-tf1": ("tools.network.importers.odapi_tf1", "TF1 Object Detection API: .tar.gz, folder, checkpoint"),
    "torchvision": ("tools.network.importers.torchvision", "torchvision retinanet_resnet50_fpn: .pth, .safetensors"),
    "keras-retinanet": ("tools.network.importers.keras_retinanet", "fizyr keras-retinanet: .h5"),
}


def recognise(path: Path) -> str | None:
    """Return the name of the importer that reads `path`; None if there is none."""
    return next((name for name, (module, _) in IMPORTERS.items() if import_module(module).recognise(path)), None)


def load(path: Path, name: str, workdir: Path, labels: Path | None, pipeline_config: Path | None) -> ImportedNetwork:
    """Read `path` with the importer `name`.

    Args:
        path: file or folder.
        name: a key of `IMPORTERS`.
        workdir: folder for what has to be unpacked; it has to live as long as the result's `saved_model` is used.
        labels: file that replaces the labels of the source.
        pipeline_config: of an Object Detection API checkpoint, where it is not found beside it.

    Raises:
        ModelError: see the importers.
        ConfigError: a pipeline.config is given to an importer that has no use for it.
    """
    options: dict[str, Any] = {"labels": labels}
    if name.startswith("odapi"):
        options |= {"pipeline_config": pipeline_config, "workdir": workdir}
    elif pipeline_config is not None:
        raise ConfigError(f"--pipeline-config belongs to Object Detection API checkpoints; {path} is read as {name}")
    network: ImportedNetwork = import_module(IMPORTERS[name][0]).load(path, **options)
    return network


def explain_unknown(path: Path, supported: dict[str, str]) -> ModelError:
    """Return the error for a source that nothing recognises: what was found in it, and what is `supported`."""
    return ModelError(f"{path}: {_contents(path)}; supported are {'; '.join(supported.values())}")


def _contents(path: Path) -> str:
    if not path.exists():
        return "no such file or folder"
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {_few(names)}" if names else "an empty folder"
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        return "an empty file"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return f"a ZIP (as PyTorch and Keras write it) with {_few(archive.namelist())}"
    known = {
        b"\x89HDF": "an HDF5 file",
        b"\x1f\x8b": "a gzip archive",
        b"\x08\x00\x00\x00": "an ONNX model or protocol buffer",
    }
    kind = next((text for magic, text in known.items() if start.startswith(magic)), None)
    return f"{kind} of another network" if kind else f"a file that starts with {start!r}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
