"""Front end: a float .tflite, cut down to its raw heads; neither TensorFlow nor PyTorch is needed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from edge_detector.flatbuffer import read_flexbuffer_map
from edge_detector.labels import UNUSED, read_labels
from edge_detector.manifest import AnchorSpec, LevelOutputs, ModelManifest, NmsSpec, SsdRawOutputs
from edge_detector.manifest_rules import check_manifest, derive_input, derive_labels
from edge_detector.model_file import read_appended, read_manifest, read_model_file
from edge_detector.postprocess.anchors import generate_anchors
from edge_detector.tflite_schema import DETECTION_OP, read_tflite
from tools.network.importers.coco import COCO_90
from tools.quantize.flatbuffer import finish, operator_name, set_outputs
from tools.quantize.float_model import FloatModel, Outputs, SourceReference

_REAL = (schema.TensorType.FLOAT32, schema.TensorType.INT32, schema.TensorType.INT64, schema.TensorType.BOOL)
_ASPECTS = ((1.0, 2.0, 0.5), (1.0,), (1.0, 2.0), (2.0, 1.0, 0.5))
_ANCHOR_SCALES = (4.0, 3.0, 2.0, 5.0, 6.0, 8.0)


@dataclass(frozen=True)
class _Heads:
    """Tensors that hold all encodings (1, N, 4) and all class outputs (1, N, C), and what follows them."""

    boxes: int
    classes: int
    sigmoid: bool  # the class outputs are logits
    anchors: npt.NDArray[np.float32] | None
    options: dict[str, int | float]


def recognise(path: Path) -> bool:
    """Return whether `path` is a .tflite file."""
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == b"TFL3"
    except OSError:
        return False


def load(path: Path, labels: Path | None) -> FloatModel:
    """Read a float .tflite with raw heads, or with TFLite_Detection_PostProcess, which is cut off.

    Raises:
        ModelError: it is quantized already, or no SSD with anchors that the runtime knows.
    """
    return from_content(read_model_file(path), path.name, labels)


def from_content(content: bytes, name: str, labels: Path | None) -> FloatModel:
    """Return the float model that the bytes of a .tflite file hold; see `load`."""
    carried = read_manifest(content, name)
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = _checked_graph(model, name)
    if carried is not None and isinstance(carried.outputs, SsdRawOutputs):
        if labels is not None:
            carried = carried.model_copy(update={"labels": read_labels(labels)})
        check_manifest(carried, read_tflite(content, name), name)
        return FloatModel(finish(content), carried, "float .tflite with its manifest")
    heads = _find_heads(model, graph, name)
    names = _labels(content, name, labels, heads, graph)
    spec = derive_input(read_tflite(content, name), name)
    slots = int(graph.tensors[heads.classes].shape[-1])
    background = slots == len(names) + 1
    used = np.array([label != UNUSED for label in names])
    slots_used = np.concatenate([np.zeros(int(background), bool), used])
    reference = _reference(content, heads, np.flatnonzero(slots_used))
    boxes, classes = (_levels(model, graph, tensor) for tensor in (heads.boxes, heads.classes))
    if len(boxes) != len(classes):
        boxes, classes = [heads.boxes], [heads.classes]
    if _drop_channels(model, graph, classes, slots_used):
        names, background = tuple(label for label in names if label != UNUSED), False
    numbers = range(3, 3 + len(boxes)) if len(boxes) > 1 else ("",)
    pairs = [
        LevelOutputs(class_logits=f"class_logits{n and f'_p{n}'}", box_encodings=f"box_encodings{n and f'_p{n}'}")
        for n in numbers
    ]
    outputs = SsdRawOutputs(
        levels=tuple(pairs),
        anchors=_anchor_spec(heads, graph, (spec.width, spec.height), name),
        box_coder=_box_coder(heads.options),
        scores="sigmoid" if heads.sigmoid else "identity",
        background=background,
    )
    tensors = {pair.class_logits: tensor for pair, tensor in zip(pairs, classes, strict=True)}
    tensors |= {pair.box_encodings: tensor for pair, tensor in zip(pairs, boxes, strict=True)}
    set_outputs(model, tensors)
    _name_tensors_apart(graph, set(tensors))
    cut = finish(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    nms = NmsSpec(iou_threshold=float(heads.options.get("nms_iou_threshold", 0.5)))
    manifest = ModelManifest(name=Path(name).stem, input=spec, outputs=outputs, nms=nms, labels=names)
    check_manifest(manifest, read_tflite(cut, name), name)
    family = f"float .tflite with {DETECTION_OP}, cut off" if heads.anchors is not None else "float .tflite, raw heads"
    return FloatModel(cut, manifest, family, references=(reference(manifest),))


def _checked_graph(model: Any, name: str) -> Any:
    if len(model.subgraphs) != 1:
        raise ModelError(f"{name}: has {len(model.subgraphs)} subgraphs; control flow is not supported")
    (graph,) = model.subgraphs
    quantized = [tensor.name.decode() for tensor in graph.tensors if tensor.type not in _REAL]
    if quantized:
        raise ModelError(
            f"{name}: is quantized already ({len(quantized)} tensors, such as {quantized[0]}, hold no float32); "
            "give the float .tflite that it was made from"
        )
    shapes = [list(map(int, graph.tensors[index].shape)) for index in graph.inputs]
    signature = [graph.tensors[index].shapeSignature for index in graph.inputs]
    dynamic = any(shape is not None and -1 in list(shape)[1:] for shape in signature)
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] != 3 or dynamic:
        raise ModelError(
            f"{name}: takes {shapes}, wanted one picture [1, height, width, 3] of fixed size; export it so"
        )
    return graph


def _find_heads(model: Any, graph: Any, name: str) -> _Heads:
    producers = {index: operator for operator in graph.operators for index in operator.outputs}
    detection = next((operator for operator in graph.operators if operator_name(model, operator) == DETECTION_OP), None)
    anchors: npt.NDArray[np.float32] | None = None
    options: dict[str, int | float] = {}
    if detection is not None:
        boxes, classes, constant = detection.inputs
        anchors = np.frombuffer(bytes(model.buffers[graph.tensors[constant].buffer].data), np.float32).reshape(-1, 4)
        options = read_flexbuffer_map(bytes(bytearray(detection.customOptions)))
    else:
        heads = sorted(graph.outputs, key=lambda index: int(graph.tensors[index].shape[-1]) != 4)
        shapes = [list(map(int, graph.tensors[index].shape)) for index in heads]
        if len(heads) != 2 or any(len(shape) != 3 for shape in shapes) or shapes[0][:2] != shapes[1][:2]:
            raise ModelError(
                f"{name}: puts out {shapes}; supported are [1, N, 4] with [1, N, classes], {DETECTION_OP}, and models "
                "with our manifest"
            )
        boxes, classes = heads
    logistic = producers.get(classes)
    is_sigmoid = False
    if logistic is not None and operator_name(model, logistic) == "LOGISTIC":
        classes, is_sigmoid = logistic.inputs[0], True
    # Without the operator in the graph the outputs of a detection op are scores already, raw heads are logits.
    return _Heads(int(boxes), int(classes), is_sigmoid or detection is None, anchors, options)


def _levels(model: Any, graph: Any, tensor: int) -> list[int]:
    """Return the tensors, one per pyramid level, that are reshaped and concatenated into `tensor`; else itself."""
    producers = {index: operator for operator in graph.operators for index in operator.outputs}

    def made_by(index: int, kind: str) -> Any:
        operator = producers.get(index)
        return operator if operator is not None and operator_name(model, operator) == kind else None

    joined = made_by(tensor, "CONCATENATION")
    if joined is None or joined.builtinOptions.axis not in (1, -2):
        return [tensor]
    parts = [made_by(index, "RESHAPE") for index in joined.inputs]
    return [int(part.inputs[0]) for part in parts] if all(part is not None for part in parts) else [tensor]


def _drop_channels(model: Any, graph: Any, tensors: list[int], kept: npt.NDArray[np.bool_]) -> bool:
    """Leave class slots out of the convolutions that compute `tensors`; False if those are something else."""
    operators = {index: operator for operator in graph.operators for index in operator.outputs}
    makers = [operators[tensor] for tensor in tensors if tensor in operators]
    if len(makers) < len(tensors) or any(operator_name(model, maker) != "CONV_2D" for maker in makers):
        return bool(kept.all())
    constants = {int(index) for maker in makers for index in maker.inputs[1:]}
    if any(model.buffers[graph.tensors[index].buffer].data is None for index in constants):
        return bool(kept.all())
    for index in constants:
        tensor = graph.tensors[index]
        shape = list(map(int, tensor.shape))
        values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).reshape(shape)
        chosen = values[np.tile(kept, shape[0] // len(kept))]
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(chosen).tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.buffer, tensor.shape = len(model.buffers) - 1, np.array(chosen.shape, np.int32)
    for index in tensors:
        tensor = graph.tensors[index]
        channels = int(tensor.shape[-1]) * int(kept.sum()) // len(kept)
        tensor.shape = np.array([*tensor.shape[:-1], channels], np.int32)
        tensor.shapeSignature = None
    return True


def _labels(content: bytes, name: str, given: Path | None, heads: _Heads, graph: Any) -> tuple[str, ...]:
    slots = int(graph.tensors[heads.classes].shape[-1])
    classes = int(heads.options.get("num_classes", slots))
    labels = read_labels(given) if given else derive_labels(read_appended(content, name), name)
    if not labels and classes in (len(COCO_90), len(COCO_90) + 1):
        return COCO_90
    if not labels:
        raise ModelError(f"{name}: has {classes} classes and says nothing of their names; give them with --labels")
    if len(labels) < slots - 1 and "num_classes" in heads.options:
        labels += (UNUSED,) * (classes - len(labels))
    if len(labels) not in (slots, slots - 1):
        raise ModelError(f"{name}: has {slots} class outputs, but there are {len(labels)} labels; give its own")
    return labels


def _box_coder(options: dict[str, int | float]) -> tuple[float, float, float, float]:
    y, x, h, w = (
        float(options.get(f"{axis}_scale", usual)) for axis, usual in zip("yxhw", (10, 10, 5, 5), strict=True)
    )
    return y, x, h, w


def _anchor_spec(heads: _Heads, graph: Any, input_wh: tuple[int, int], name: str) -> AnchorSpec:
    """Return the settings that make the model's own anchors, or as many as it has boxes.

    Raises:
        ModelError: none do.
    """
    count = int(graph.tensors[heads.boxes].shape[1])
    for aspects, per_octave, scale in itertools.product(_ASPECTS, (2, 1, 3), _ANCHOR_SCALES):
        spec = AnchorSpec(aspect_ratios=aspects, scales_per_octave=per_octave, anchor_scale=scale)
        made = generate_anchors(spec, input_wh)
        if len(made) == count and (heads.anchors is None or np.allclose(made, heads.anchors, atol=1e-4)):
            return spec
    first = "" if heads.anchors is None else f", the first at {heads.anchors[0].round(4).tolist()}"
    raise ModelError(
        f"{name}: its {count} anchors{first} are none of the Object Detection API's multiscale grid at "
        f"{input_wh[0]}x{input_wh[1]} for pyramid levels 3 to 7; other SSDs are not supported"
    )


def _reference(content: bytes, heads: _Heads, slots: npt.NDArray[np.intp]) -> Any:
    """Return what makes a reference of the manifest: the model before the cut, its used class slots."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    set_outputs(model, {"boxes": heads.boxes, "classes": heads.classes})
    whole = bytes(flatbuffer_utils.convert_object_to_bytearray(model))

    def build(manifest: ModelManifest) -> SourceReference:
        outputs = manifest.outputs
        levels = outputs.levels if isinstance(outputs, SsdRawOutputs) else ()
        depth = len(manifest.labels) + int(isinstance(outputs, SsdRawOutputs) and outputs.background)

        def run(tensor: npt.NDArray[np.float32]) -> Outputs:
            backend = TfliteBackend(whole)
            found = {name: output.values[0] for name, output in backend.infer(tensor).items()}
            backend.close()
            kept = slots if depth == len(slots) else slice(None)
            return {"boxes": found["boxes"], "classes": found["classes"][:, kept]}

        def project(raw: Outputs) -> Outputs:
            return {
                "boxes": np.concatenate([raw[level.box_encodings].reshape(-1, 4) for level in levels]),
                "classes": np.concatenate([raw[level.class_logits].reshape(-1, depth) for level in levels]),
            }

        return SourceReference("the .tflite before its heads were cut", run, project)

    return build


def _name_tensors_apart(graph: Any, outputs: set[str]) -> None:
    """Give tensors with the same name different ones: calibration goes by names."""
    seen = set(outputs)
    for number, tensor in enumerate(graph.tensors):
        name = tensor.name.decode()
        if number not in graph.outputs and (name in seen or not name):
            tensor.name = f"{name}#{number}".encode()
        seen.add(tensor.name.decode())
