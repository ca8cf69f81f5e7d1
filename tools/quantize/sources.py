"""From a source, whatever it is, to a FloatModel."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path

from edge_detector.errors import ConfigError
from edge_detector.manifest import InputSpec
from tools.network.importers import registry
from tools.quantize.float_model import FloatModel

# Like registry.IMPORTERS, for sources that are no checkpoints: they have a graph of their own.
_GRAPHS = {
    "tflite": ("tools.quantize.float_tflite", "float .tflite"),
    "saved-model": ("tools.quantize.saved_model", "SavedModel of the Object Detection API's TFLite exporter"),
}
FAMILIES = (*_GRAPHS, *registry.IMPORTERS)


def open_source(
    path: Path,
    name: str,
    workdir: Path,
    *,
    family: str = "auto",
    labels: Path | None = None,
    pipeline_config: Path | None = None,
    input_wh: tuple[int, int] | None = None,
    input_changes: dict[str, str] | None = None,
    with_saved_model: bool = False,
) -> FloatModel:
    """Read the source at `path`; see `registry.load`.

    Args:
        path: file or folder.
        name: of the model in its manifest.
        workdir: folder for temporary files; it has to live as long as the result's references are used.
        family: one of `FAMILIES`, or "auto" to look at the source.
        labels: file that replaces the source's labels.
        pipeline_config: of an Object Detection API checkpoint.
        input_wh: canvas in pixels, in place of the trained one.
        input_changes: fields of the manifest's input to replace, such as "resize".
        with_saved_model: verify against the SavedModel that came with the checkpoint, too.

    Raises:
        ModelError: the source is unknown, damaged, or not a supported network.
        ConfigError: an option does not fit the source.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder; give the checkpoint or model to convert")
    if family == "auto":
        family = _recognise(path)
    if family not in _GRAPHS:
        from tools.quantize.export import export_network

        network = registry.load(path, family, workdir, labels, pipeline_config)
        return export_network(network, name, input_wh, input_changes or {}, with_saved_model)
    if input_wh is not None or with_saved_model or pipeline_config is not None:
        raise ConfigError(
            f"{path}: the graph of a {family} source is fixed: --input-size, --verify-saved-model and "
            "--pipeline-config go with checkpoints"
        )
    model: FloatModel = import_module(_GRAPHS[family][0]).load(path, labels)
    return change_input(model, name, input_changes or {})


def change_input(model: FloatModel, name: str, changes: dict[str, str]) -> FloatModel:
    """Return the model under another name and with other `InputSpec` fields."""
    spec = InputSpec.model_validate(model.manifest.input.model_dump() | changes)
    return dataclasses.replace(model, manifest=model.manifest.model_copy(update={"name": name, "input": spec}))


def _recognise(path: Path) -> str:
    for family, (module, _) in _GRAPHS.items():
        if import_module(module).recognise(path):
            return family
    found = registry.recognise(path)
    if found is None:
        supported = _GRAPHS | registry.IMPORTERS
        raise registry.explain_unknown(path, {name: words for name, (_, words) in supported.items()})
    return found
