"""Front end: a SavedModel of the OD API's TFLite exporter (export_tflite_graph_tf2.py), by way of a float .tflite."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edge_detector.errors import ModelError
from edge_detector.tflite_schema import DETECTION_OP
from tools.quantize.float_model import FloatModel
from tools.quantize.float_tflite import from_content


def recognise(path: Path) -> bool:
    """Return whether `path` is a SavedModel with the operator inside; that of exporter_main_v2 has none."""
    try:
        return DETECTION_OP.encode() in (_folder(path) / "saved_model.pb").read_bytes()
    except OSError:
        return False


def load(path: Path, labels: Path | None) -> FloatModel:
    """Convert the SavedModel and cut its heads; see `float_tflite.load`.

    Raises:
        ModelError: TensorFlow cannot convert it.
    """
    import tensorflow as tf

    folder = _folder(path)
    try:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serving_default"])
        converter.allow_custom_ops = True
        content = converter.convert()
    except Exception as error:  # the converter raises its own kinds, RuntimeError and ValueError
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{folder}: TensorFlow cannot convert it ({reason}); export it again") from error
    model = from_content(content, f"{path.name}.tflite", labels)
    return dataclasses.replace(model, family="SavedModel of the Object Detection API's TFLite exporter")


def _folder(path: Path) -> Path:
    return path / "saved_model" if (path / "saved_model" / "saved_model.pb").is_file() else path
