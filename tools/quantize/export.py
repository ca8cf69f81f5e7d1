"""A network -> float .tflite by TensorFlow, and the manifest that says what the outputs mean."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_detector.errors import ConfigError
from edge_detector.manifest import InputSpec, LevelOutputs, ModelManifest, SsdRawOutputs
from tools.network.architecture import Architecture
from tools.network.importers import ImportedNetwork, canonical
from tools.network.keras_model import LEVELS, build_keras
from tools.network.manifest import anchor_spec
from tools.network.weights import Weights
from tools.quantize.flatbuffer import finish
from tools.quantize.float_model import FloatModel, Outputs, SourceReference

_HEADS = ("class_logits", "box_encodings")


def export_network(
    imported: ImportedNetwork,
    name: str,
    input_wh: tuple[int, int] | None,
    input_changes: Mapping[str, str],
    with_saved_model: bool,
) -> FloatModel:
    """Return the network as a float .tflite without background slot and unused classes.

    Args:
        imported: as an importer read it.
        name: of the model in its manifest.
        input_wh: canvas in pixels, in place of the source's.
        input_changes: fields of the manifest's input to replace.
        with_saved_model: refer to the SavedModel that came with the checkpoint, too.

    Raises:
        ModelError: the weights do not fit the architecture, or labels and classes differ.
        ConfigError: there is no SavedModel, or it has another input size.
    """
    network = canonical(imported)
    trained_wh = network.input.width, network.input.height
    width, height = input_wh or trained_wh
    spec = InputSpec.model_validate(network.input.model_dump() | {"width": width, "height": height} | {**input_changes})
    model = build_keras(network.arch, network.weights, (width, height))
    references = [_keras_reference(model)]
    if network.framework == "pytorch" and importlib.util.find_spec("torch") is not None:
        references.append(_torch_reference(network.arch, network.weights))
    outputs = _outputs(network.arch)
    if with_saved_model:
        if network.saved_model is None:
            raise ConfigError("--verify-saved-model: no saved_model came with this checkpoint; give the whole .tar.gz")
        if (width, height) != trained_wh:
            raise ConfigError("--verify-saved-model compares at the trained size; leave out --input-size")
        from tools.quantize.zoo import saved_model_reference

        references.append(saved_model_reference(network.saved_model, outputs, trained_wh, imported.labels))
    manifest = ModelManifest(name=name, input=spec, outputs=outputs, nms=network.nms, labels=network.labels)
    return FloatModel(
        export_keras(model), manifest, network.family, network.notes, tuple(references), network.int8_advice
    )


def export_float(arch: Architecture, weights: Weights) -> bytes:
    """Return a network without background slot as a float32 .tflite with the output names of `build_keras`.

    Raises:
        ModelError: the weights do not fit the architecture.
    """
    return export_keras(build_keras(arch, weights))


def export_keras(model: keras.Model) -> bytes:
    """Return what `build_keras` built as a float32 .tflite with the same output names."""
    # By way of a SavedModel the convolutions that levels share keep sharing their constants.
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, "tf_saved_model", verbose=False)
        return finish(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def _outputs(arch: Architecture) -> SsdRawOutputs:
    levels = [LevelOutputs(class_logits=f"class_logits_p{n}", box_encodings=f"box_encodings_p{n}") for n in LEVELS]
    coder = arch.box_coder
    return SsdRawOutputs(
        levels=tuple(levels), anchors=anchor_spec(arch), box_coder=coder.scales, box_coding=coder.coding
    )


def _keras_reference(model: keras.Model) -> SourceReference:
    def run(tensor: npt.NDArray[np.float32]) -> Outputs:
        return {name: np.asarray(values) for name, values in model(tensor).items()}

    return SourceReference(f"Keras {keras.__version__} on TensorFlow {tf.__version__}", run)


def _torch_reference(arch: Architecture, weights: Weights) -> SourceReference:
    import torch

    from tools.network.torch_model import load_torch

    network = load_torch(arch, weights)

    def run(tensor: npt.NDArray[np.float32]) -> Outputs:
        with torch.inference_mode():
            heads: Any = network(torch.from_numpy(tensor).permute(0, 3, 1, 2))
        return {
            f"{head}_p{level}": values.permute(0, 2, 3, 1).contiguous().numpy()
            for head, maps in zip(_HEADS, heads, strict=True)
            for level, values in zip(LEVELS, maps, strict=True)
        }

    return SourceReference(f"PyTorch {torch.__version__}", run)
