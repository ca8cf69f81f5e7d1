"""Rules that fill in a manifest for models that carry none, and the check that a manifest fits its model.

Every rule that decides is logged. What no rule covers is a `ModelError`: nothing is guessed later, per frame.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from edge_detector.errors import ModelError
from edge_detector.labels import parse_labels
from edge_detector.manifest import (
    AnchorSpec,
    DetectionOpOutputs,
    InputSpec,
    LevelOutputs,
    ModelManifest,
    Rgb,
    SsdRawOutputs,
)
from edge_detector.postprocess.anchors import anchors_per_cell, level_grids
from edge_detector.tflite_schema import TensorInfo, TfliteModel

logger = logging.getLogger(__name__)

_SYMMETRIC = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)  # to -1..1: MobileNet, EfficientDet-Lite
_MINUS_MEANS = (123.68, 116.779, 103.939), (1.0, 1.0, 1.0)  # the TF Object Detection API's ResNets
# Lowest and highest real value of a quantized input -> mean, std.
_BY_RANGE: tuple[tuple[tuple[float, float], tuple[Rgb, Rgb]], ...] = (
    ((-1.0, 1.0), _SYMMETRIC),
    ((-123.68, 151.061), _MINUS_MEANS),
    ((0.0, 1.0), ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))),
    ((0.0, 255.0), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
    ((-2.118, 2.64), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))),  # torchvision
)
_RANGE_TOLERANCE = 0.05  # of the range: calibration pictures may not span 0..255
_BY_TENSOR_NAME = (("resnet", _MINUS_MEANS), ("mobilenet", _SYMMETRIC))


def derive_labels(appended: Mapping[str, bytes], name: str) -> tuple[str, ...]:
    """Return the labels among the files behind a model, where TFLite metadata keep them; () unless one file fits.

    Raises:
        ModelError: the file holds no labels.
    """
    texts = [member for member in appended if member.endswith(".txt") and ("label" in member or len(appended) == 1)]
    if len(texts) != 1:
        return ()
    logger.info("%s: labels from %s in the TFLite metadata", name, texts[0])
    return parse_labels(appended[texts[0]].decode("utf-8-sig", errors="replace"), f"{name}: {texts[0]}")


def derive_input(model: TfliteModel, name: str) -> InputSpec:
    """Return size and normalization of the input; the picture is stretched, as these families are trained.

    Raises:
        ModelError: the input is no single RGB picture, or no rule gives its normalization.
    """
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise ModelError(f"{name}: takes {_listed(model.inputs)}, not one picture [1, height, width, 3]")
    _, height, width, _ = model.inputs[0].shape
    (mean, std), rule = _normalization(model, name)
    logger.log(
        logging.WARNING if rule == "assumed" else logging.INFO,
        '%s: normalization %s: (pixel - %s) / %s; to change it write "input" into %s beside the model',
        *(name, rule, mean, std, _sidecar(name)),
    )
    return InputSpec(width=width, height=height, mean=mean, std=std, resize="stretch")


def _normalization(model: TfliteModel, name: str) -> tuple[tuple[Rgb, Rgb], str]:
    stated, params = model.normalization, model.inputs[0].params
    if stated is not None:
        return (_rgb(stated.mean, name), _rgb(stated.std, name)), "from the TFLite metadata"
    if params is not None:
        limits = np.iinfo(params.dtype)
        low, high = params.dequantize(np.array([limits.min, limits.max])).tolist()
        return _normalization_by_range(low, high, name), "by the input's range"
    names = " ".join(tensor.name for tensor in model.tensors).lower()
    for word, normalization in _BY_TENSOR_NAME:
        if word in names:
            return normalization, f"by tensor names with {word!r}"
    return _SYMMETRIC, "assumed"


def _normalization_by_range(low: float, high: float, name: str) -> tuple[Rgb, Rgb]:
    for (known_low, known_high), normalization in _BY_RANGE:
        tolerance = _RANGE_TOLERANCE * (known_high - known_low)
        if abs(low - known_low) <= tolerance and abs(high - known_high) <= tolerance:
            return normalization
    raise ModelError(
        f"{name}: its input ranges from {low:.2f} to {high:.2f}, which no known normalization gives; "
        f'state "input" with mean and std in {_sidecar(name)} beside the model'
    )


def derive_outputs(model: TfliteModel, num_labels: int, name: str) -> DetectionOpOutputs | SsdRawOutputs:
    """Return the roles of the outputs.

    Raises:
        ModelError: they are of no known family; the message lists them.
    """
    outputs = _by_port(model, name) or _by_index(model, name) or _raw_heads(model, num_labels, name)
    if outputs is None:
        raise ModelError(
            f"{name}: no manifest, and unknown outputs: {_listed(model.outputs)}; describe them in "
            f'{_sidecar(name)} beside the model, with the keys "input", "outputs" and "labels"'
        )
    return outputs


def _by_port(model: TfliteModel, name: str) -> DetectionOpOutputs | None:
    operator, names = model.detection_op, {output.name for output in model.outputs}
    if operator is None or len(operator.outputs) != 4 or not names.issuperset(operator.outputs):
        return None
    logger.info("%s: outputs by the ports of TFLite_Detection_PostProcess", name)
    return _detection_op(operator.outputs)


def _by_index(model: TfliteModel, name: str) -> DetectionOpOutputs | None:
    """Return four outputs by tensor index, which converters keep in the operator's port order."""
    outputs = sorted(model.outputs, key=lambda output: output.index)
    if len(outputs) != 4 or [len(output.shape) for output in outputs] != [3, 2, 2, 1] or outputs[0].shape[2] != 4:
        return None
    logger.info("%s: four outputs, taken as boxes, classes, scores, count by tensor index", name)
    return _detection_op(tuple(output.name for output in outputs))


def _detection_op(names: tuple[str, ...]) -> DetectionOpOutputs:
    boxes, classes, scores, count = names
    return DetectionOpOutputs(boxes=boxes, classes=classes, scores=scores, count=count)


def _raw_heads(model: TfliteModel, num_labels: int, name: str) -> SsdRawOutputs | None:
    """Return the roles of [1, N, 4] and [1, N, C] where N is the number of the OD API's six anchors per cell."""
    outputs = sorted(model.outputs, key=lambda output: output.shape[-1:] != (4,))
    if len(outputs) != 2 or any(len(tensor.shape) != 3 for tensor in outputs) or len(model.inputs[0].shape) != 4:
        return None
    boxes, classes = outputs
    _, height, width, _ = model.inputs[0].shape
    expected = (1, _count_anchors(AnchorSpec(), (width, height)))
    if boxes.shape != (*expected, 4) or classes.shape[:2] != expected or classes.shape[2] == 4:
        return None
    scores: Literal["identity", "sigmoid"] = "identity" if classes.name in model.sigmoid_outputs else "sigmoid"
    background = classes.shape[2] == num_labels + 1
    logger.info("%s: raw heads by shape; scores: %s, background class: %s", name, scores, background)
    level = LevelOutputs(class_logits=classes.name, box_encodings=boxes.name)
    return SsdRawOutputs(levels=(level,), scores=scores, background=background)


def check_manifest(manifest: ModelManifest, model: TfliteModel, name: str) -> None:
    """Check that `manifest` fits `model`: input size, output names, number of anchors, number of labels.

    Raises:
        ModelError: something differs; the message gives both sides.
    """
    size = manifest.input.height, manifest.input.width
    if model.inputs and model.inputs[0].shape[1:3] != size:
        raise ModelError(f"{name}: takes {model.inputs[0]}, but its manifest says height and width {list(size)}")
    shapes = {output.name: output.shape for output in model.outputs}
    missing = [output for output in _output_names(manifest) if output not in shapes]
    if missing:
        raise ModelError(f"{name}: its manifest names outputs {missing}, but it has {_listed(model.outputs)}")
    if isinstance(manifest.outputs, SsdRawOutputs):
        _check_raw_heads(manifest.outputs, manifest.input, len(manifest.labels), shapes, name)
    elif model.detection_op is not None and "num_classes" in model.detection_op.options:
        _check_labels(int(model.detection_op.options["num_classes"]), len(manifest.labels), name)


def _check_raw_heads(
    outputs: SsdRawOutputs, spec: InputSpec, num_labels: int, shapes: Mapping[str, tuple[int, ...]], name: str
) -> None:
    num_boxes = sum(math.prod(shapes[level.box_encodings]) for level in outputs.levels) // 4
    num_anchors = _count_anchors(outputs.anchors, (spec.width, spec.height))
    if num_boxes != num_anchors:
        raise ModelError(f"{name}: has {num_boxes} boxes, but the anchors of its manifest are {num_anchors}")
    num_scores = sum(math.prod(shapes[level.class_logits]) for level in outputs.levels)
    _check_labels(num_scores // num_anchors - int(outputs.background), num_labels, name)


def _check_labels(num_classes: int, num_labels: int, name: str) -> None:
    if num_classes != num_labels:
        raise ModelError(
            f"{name}: has {num_classes} classes, but there are {num_labels} labels; give the labels that belong to it, "
            "unused ids included"
        )


def _output_names(manifest: ModelManifest) -> tuple[str, ...]:
    outputs = manifest.outputs
    if isinstance(outputs, SsdRawOutputs):
        return tuple(name for level in outputs.levels for name in (level.class_logits, level.box_encodings))
    return outputs.boxes, outputs.classes, outputs.scores, outputs.count


def _count_anchors(spec: AnchorSpec, input_wh: tuple[int, int]) -> int:
    return anchors_per_cell(spec) * sum(rows * columns for rows, columns in level_grids(spec, input_wh))


def _rgb(values: tuple[float, ...], name: str) -> Rgb:
    if len(values) not in (1, 3):
        raise ModelError(f"{name}: its TFLite metadata give {len(values)} values for three channels")
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue


def _sidecar(name: str) -> str:
    return f"{name.removesuffix('.tflite')}.json"


def _listed(tensors: tuple[TensorInfo, ...]) -> str:
    return "; ".join(map(str, tensors)) or "nothing"
