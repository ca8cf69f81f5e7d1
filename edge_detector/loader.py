"""A model file -> manifest and backend, ready to run."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_detector.backends import Backend, DeviceOptions
from edge_detector.backends.failover import open_device
from edge_detector.errors import ModelError
from edge_detector.labels import read_labels
from edge_detector.manifest import ModelManifest
from edge_detector.manifest_rules import check_manifest, derive_input, derive_labels, derive_outputs
from edge_detector.model_file import (
    build_manifest,
    parse_json_object,
    read_appended,
    read_manifest,
    read_model_file,
)
from edge_detector.tflite_schema import read_tflite

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that is ready to run; whoever loaded it closes `backend`."""

    manifest: ModelManifest
    backend: Backend


def load_model(
    path: Path,
    labels: Path | None = None,
    num_threads: int | None = None,
    runtime: str = "auto",
    device: DeviceOptions | None = None,
    stop: threading.Event | None = None,
) -> LoadedModel:
    """Load the .tflite file `path`; `labels`, a file, goes before the labels that it carries.

    Setting `stop` ends a wait for the device.

    Raises:
        ModelError: the file cannot be used, see `load_manifest`.
        DelegateError: the runtime is not installed or does not work, or the device is away and must not be.
        ConfigError: `num_threads`, `runtime` or the device is out of range.
    """
    manifest = load_manifest(path, labels)
    return LoadedModel(manifest, open_device(path, device or DeviceOptions(), num_threads, runtime, stop))


def load_manifest(path: Path, labels: Path | None = None) -> ModelManifest:
    """Return the manifest of the model file `path`, checked against the model.

    Each part of it ("input", "outputs", "labels", "nms", ...) comes from the first that has it: the argument `labels`,
    the file `<model>.json` beside the model, the manifest inside the model, the rules of `manifest_rules`.

    Raises:
        ModelError: the file is missing, damaged or no .tflite, its outputs are unknown, or its manifest does not fit.
    """
    content = read_model_file(path)
    model = read_tflite(content, path.name)
    carried = read_manifest(content, path.name)
    parts: dict[str, Any] = {"name": path.stem} if carried is None else carried.model_dump()
    parts |= read_sidecar(path.with_suffix(".json"))
    if labels is not None:
        parts["labels"] = read_labels(labels)
    if "labels" not in parts:
        parts["labels"] = derive_labels(read_appended(content, path.name), path.name)
    if "outputs" not in parts:
        parts["outputs"] = derive_outputs(model, len(parts["labels"]), path.name)
    if not parts["labels"]:
        raise ModelError(f'{path.name}: has no labels; give a labels file, or "labels" in {path.stem}.json beside it')
    if "input" not in parts:
        parts["input"] = derive_input(model, path.name)
    manifest = build_manifest(parts, path.name)
    check_manifest(manifest, model, path.name)
    return manifest


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return what the file `path` says about the model beside it; nothing if there is no such file.

    Raises:
        ModelError: it cannot be read, or is no JSON object.
    """
    if not path.is_file():
        return {}
    logger.info("%s goes before what the model says about itself", path)
    try:
        return parse_json_object(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}; make it readable or remove it") from error
