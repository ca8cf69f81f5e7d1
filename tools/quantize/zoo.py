"""The SavedModel that lies in a zoo tarball, as a reference: plain TensorFlow runs it, without the OD API."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_detector.errors import ModelError
from edge_detector.labels import UNUSED
from edge_detector.manifest import SsdRawOutputs
from edge_detector.postprocess.anchors import generate_anchors
from edge_detector.postprocess.boxes import decode_boxes
from tools.quantize.float_model import Outputs, SourceReference

_WANTED = ("raw_detection_boxes", "raw_detection_scores")


def saved_model_reference(
    folder: Path, outputs: SsdRawOutputs, input_wh: tuple[int, int], labels: tuple[str, ...]
) -> SourceReference:
    """Return raw boxes and scores of all anchors, of `folder` and of a .tflite with these outputs and input size.

    `labels` are those of all ids of the checkpoint, `UNUSED` among them. The canvas goes in as the picture, so that
    the resize inside of the SavedModel does nothing and both see the same pixels.

    Raises:
        ModelError: it is no SavedModel of the OD API's exporter.
    """
    try:
        run_model = tf.saved_model.load(str(folder)).signatures["serving_default"]
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"{folder}: cannot be loaded as a SavedModel: {error}") from error
    if missing := [name for name in _WANTED if name not in run_model.structured_outputs]:
        raise ModelError(f"{folder}: has no {' and '.join(missing)}; only the OD API's exporter_main_v2 writes them")
    used = [slot for slot, label in enumerate(labels, 1) if label != UNUSED]
    anchors = generate_anchors(outputs.anchors, input_wh)

    def run(tensor: npt.NDArray[np.float32]) -> Outputs:
        found = run_model(tf.constant(tensor.astype(np.uint8)))
        boxes, scores = (found[name].numpy()[0] for name in _WANTED)
        return {"boxes": boxes[:, [1, 0, 3, 2]], "scores": scores[:, used]}

    def project(raw: Outputs) -> Outputs:
        logits = _joined(raw, [level.class_logits for level in outputs.levels], len(used))
        encodings = _joined(raw, [level.box_encodings for level in outputs.levels], 4)
        scores = np.asarray(1 / (1 + np.exp(-logits)), np.float32)
        return {"boxes": decode_boxes(encodings, anchors, outputs.box_coder), "scores": scores}

    return SourceReference("its own saved_model", run, project)


def _joined(raw: Outputs, names: list[str], depth: int) -> npt.NDArray[np.float32]:
    return np.concatenate([raw[name].reshape(-1, depth) for name in names])
