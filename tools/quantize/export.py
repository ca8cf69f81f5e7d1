"""Weights -> float .tflite by TensorFlow, and the manifest that says what the outputs mean."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Mapping

import tensorflow as tf

import edge_detector
from edge_detector.errors import ModelError
from edge_detector.manifest import LevelOutputs, ModelManifest, SsdRawOutputs
from tools.network.architecture import Architecture
from tools.network.keras_model import LEVELS, build_keras
from tools.network.manifest import anchor_spec, input_spec
from tools.network.weights import Weights
from tools.quantize.flatbuffer import finish


def export_float(arch: Architecture, weights: Weights) -> bytes:
    """Return the network as a float32 .tflite with the output names of `build_keras`.

    Raises:
        ModelError: the weights do not fit the architecture.
    """
    model = build_keras(arch, weights)
    # By way of a SavedModel the convolutions that levels share keep sharing their constants.
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, "tf_saved_model", verbose=False)
        return finish(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def describe(
    name: str,
    arch: Architecture,
    labels: tuple[str, ...],
    weights_sha256: str,
    origin: Mapping[str, str | int | float],
) -> ModelManifest:
    """Return the manifest of the exported network.

    Raises:
        ModelError: the runtime cannot decode this kind of anchors or box codes, or labels and classes differ.
    """
    if len(labels) != arch.num_classes:
        raise ModelError(f"{name}: {len(labels)} labels for {arch.num_classes} classes; correct the weights' metadata")
    levels = [LevelOutputs(class_logits=f"class_logits_p{n}", box_encodings=f"box_encodings_p{n}") for n in LEVELS]
    return ModelManifest(
        name=name,
        input=input_spec(arch),
        outputs=SsdRawOutputs(levels=tuple(levels), anchors=anchor_spec(arch), box_coder=arch.box_coder.scales),
        labels=labels,
        weights_sha256=weights_sha256,
        origin={
            "tool": f"edge_detector tools/quantize {edge_detector.__version__}",
            "converter": f"TensorFlow {tf.__version__}",
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            **origin,
        },
    )
