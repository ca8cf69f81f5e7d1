"""Front end: a float .tflite, cut down to its raw heads; neither TensorFlow nor PyTorch is needed."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from edge_detector.labels import UNUSED, read_labels
from edge_detector.loader import read_sidecar
from edge_detector.manifest import AnchorSpec, LevelOutputs, ModelManifest, NmsSpec, SsdRawOutputs
from edge_detector.manifest_rules import check_manifest, derive_input, derive_labels
from edge_detector.model_file import build_manifest, read_appended, read_manifest, read_model_file
from edge_detector.postprocess.anchors import generate_anchors
from edge_detector.tflite_schema import DETECTION_OP, read_tflite
from tools.network.importers.coco import COCO_90
from tools.quantize.cut import Heads, check_graph, drop_channels, find_heads, name_tensors_apart
from tools.quantize.flatbuffer import finish, set_outputs
from tools.quantize.float_model import FloatModel, Outputs, SourceReference

_UNKNOWN = SsdRawOutputs(levels=(LevelOutputs(class_logits="", box_encodings=""),))
_GENERATORS: tuple[Literal["multiscale_grid", "torchvision", "keras_retinanet"], ...] = (
    "multiscale_grid",
    "torchvision",
    "keras_retinanet",
)
_ASPECTS = ((1.0, 2.0, 0.5), (1.0,), (1.0, 2.0), (2.0, 1.0, 0.5))
_ANCHOR_SCALES = (4.0, 3.0, 2.0, 5.0, 6.0, 8.0)


def recognise(path: Path) -> bool:
    """Return whether `path` is a .tflite file."""
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == b"TFL3"
    except OSError:
        return False


def load(path: Path, labels: Path | None) -> FloatModel:
    """Read a float .tflite with raw heads, or with TFLite_Detection_PostProcess, which is cut off.

    What its manifest says, or the .json beside it, is taken as it is: anchors, normalization, labels.

    Raises:
        ModelError: it is damaged, quantized already, or no SSD with anchors that the runtime knows.
    """
    return from_content(read_model_file(path), path.name, labels, read_sidecar(path.with_suffix(".json")))


def from_content(
    content: bytes, name: str, labels: Path | None, beside: Mapping[str, Any] = MappingProxyType({})
) -> FloatModel:
    """Return the float model that the bytes of a .tflite file hold; `beside` are parts of its manifest. See `load`."""
    described = read_tflite(content, name)  # raises where the file is cut off
    model = _parse(content, name)
    check_graph(model, name)
    carried = read_manifest(content, name)
    parts: dict[str, Any] = {"name": Path(name).stem} if carried is None else carried.model_dump()
    parts |= beside
    if labels is not None:
        parts["labels"] = read_labels(labels)
    parts.setdefault("labels", derive_labels(read_appended(content, name), name))
    if "input" not in parts:
        parts["input"] = derive_input(described, name)
    stated = build_manifest({"outputs": _UNKNOWN, **parts}, name)
    if "outputs" in parts and isinstance(stated.outputs, SsdRawOutputs):
        check_manifest(stated, described, name)
        return _kept(model, stated)
    _, height, width, _ = described.inputs[0].shape
    return _cut(content, model, stated, (width, height), name)


def _parse(content: bytes, name: str) -> Any:
    try:
        return flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    except (struct.error, TypeError, ValueError, LookupError) as error:
        raise ModelError(f"{name}: is damaged; copy or download it again") from error


def _kept(model: Any, manifest: ModelManifest) -> FloatModel:
    """Return a model with raw heads as it is, its outputs named as in its manifest."""
    (graph,) = model.subgraphs
    set_outputs(model, {graph.tensors[index].name.decode(): int(index) for index in graph.outputs})
    name_tensors_apart(model)
    content = finish(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return FloatModel(content, manifest, "float .tflite with its manifest")


def _cut(content: bytes, model: Any, stated: ModelManifest, input_wh: tuple[int, int], name: str) -> FloatModel:
    """Return the model without what follows its heads, and without class slots that are not used where it can be."""
    heads = find_heads(model, name)
    labels, background = _labels(heads, stated.labels, name)
    used = np.array([*[False] * background, *(label != UNUSED for label in labels)])
    anchors = _anchor_spec(heads, input_wh, name)
    if drop_channels(model, heads, used):
        labels, background = tuple(label for label in labels if label != UNUSED), False
        kept = np.flatnonzero(used)
    else:
        kept = np.arange(heads.slots)
    suffixes = [f"_p{level}" for level in range(3, 3 + len(heads.levels))] if len(heads.levels) > 1 else [""]
    levels = tuple(LevelOutputs(class_logits=f"class_logits{s}", box_encodings=f"box_encodings{s}") for s in suffixes)
    set_outputs(
        model,
        {level.class_logits: classes for level, (classes, _) in zip(levels, heads.levels, strict=True)}
        | {level.box_encodings: boxes for level, (_, boxes) in zip(levels, heads.levels, strict=True)},
    )
    name_tensors_apart(model)
    cut = finish(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    outputs = SsdRawOutputs(
        levels=levels, anchors=anchors, box_coder=_box_coder(heads), scores=heads.scores, background=background
    )
    manifest = stated.model_copy(update={"outputs": outputs, "labels": labels})
    if "nms" not in stated.model_fields_set:
        nms = NmsSpec(iou_threshold=float(heads.options.get("nms_iou_threshold", 0.5)))
        manifest = manifest.model_copy(update={"nms": nms})
    check_manifest(manifest, read_tflite(cut, name), name)
    family = f"float .tflite with {DETECTION_OP}, cut off" if heads.anchors is not None else "float .tflite, raw heads"
    return FloatModel(cut, manifest, family, references=(_reference(content, heads, levels, kept),))


def _labels(heads: Heads, labels: tuple[str, ...], name: str) -> tuple[tuple[str, ...], bool]:
    """Return a label per class, and whether class slot 0 is the background."""
    classes = int(heads.options.get("num_classes", 0))  # 0: only the labels say
    if not labels and len(COCO_90) in ((classes,) if classes else (heads.slots, heads.slots - 1)):
        labels = COCO_90
    if not labels:
        raise ModelError(
            f"{name}: has {classes or heads.slots} classes and says nothing of their names; give them with --labels"
        )
    if classes:
        labels += (UNUSED,) * (classes - len(labels))
    if len(labels) not in ((classes,) if classes else (heads.slots, heads.slots - 1)):
        raise ModelError(f"{name}: has {heads.slots} class outputs, but there are {len(labels)} labels; give its own")
    if all(label == UNUSED for label in labels):
        raise ModelError(f"{name}: none of its labels names a class; give its own with --labels")
    return labels, heads.slots == len(labels) + 1


def _box_coder(heads: Heads) -> tuple[float, float, float, float]:
    y, x, h, w = (
        float(heads.options.get(f"{axis}_scale", usual)) for axis, usual in zip("yxhw", (10, 10, 5, 5), strict=True)
    )
    return y, x, h, w


def _anchor_spec(heads: Heads, input_wh: tuple[int, int], name: str) -> AnchorSpec:
    """Return the settings that make the model's own anchors; those of the Object Detection API if it holds none.

    Raises:
        ModelError: none do.
    """
    if heads.anchors is None:
        count = len(generate_anchors(AnchorSpec(), input_wh))
        if count == heads.count:
            return AnchorSpec()
        raise ModelError(
            f"{name}: has {heads.count} boxes, where the Object Detection API's anchors are {count}; state "
            f'"outputs" with the "anchors" that it was trained with in {name.removesuffix(".tflite")}.json beside it'
        )
    for generator, aspects, per_octave, scale in itertools.product(_GENERATORS, _ASPECTS, (2, 1, 3), _ANCHOR_SCALES):
        spec = AnchorSpec(generator=generator, aspect_ratios=aspects, scales_per_octave=per_octave, anchor_scale=scale)
        made = generate_anchors(spec, input_wh)
        if made.shape == heads.anchors.shape and np.allclose(made, heads.anchors, atol=1e-4):
            return spec
    raise ModelError(
        f"{name}: its {heads.count} anchors, the first at {heads.anchors[0].round(4).tolist()}, are none of the Object "
        f"Detection API's multiscale grid or torchvision's at {input_wh[0]}x{input_wh[1]} for pyramid levels 3 to 7; "
        "other SSDs are not supported"
    )


def _reference(
    content: bytes, heads: Heads, levels: tuple[LevelOutputs, ...], kept: npt.NDArray[np.intp]
) -> SourceReference:
    """Return the model before the cut; `kept` are the class slots that are left after it."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    set_outputs(model, {"boxes": heads.boxes, "classes": heads.classes})
    whole = bytes(flatbuffer_utils.convert_object_to_bytearray(model))

    def run(tensor: npt.NDArray[np.float32]) -> Outputs:
        with contextlib.closing(TfliteBackend(whole)) as backend:
            found = {output: stored.values for output, stored in backend.infer(tensor).items()}
        return {
            "boxes": found["boxes"].reshape(-1, 4),
            "classes": found["classes"].reshape(-1, heads.slots)[:, kept],
        }

    def project(raw: Outputs) -> Outputs:
        classes = np.concatenate([raw[level.class_logits].reshape(-1, len(kept)) for level in levels])
        return {
            "boxes": np.concatenate([raw[level.box_encodings].reshape(-1, 4) for level in levels]),
            "classes": np.asarray(1 / (1 + np.exp(-classes)), np.float32) if heads.sigmoid_between else classes,
        }

    return SourceReference("the .tflite before its heads were cut", run, project)
