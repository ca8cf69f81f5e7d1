"""Append TFLite_Detection_PostProcess to a model with raw heads, for programs that expect its four outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from flatbuffers import flexbuffers

from edge_detector.errors import ConfigError
from edge_detector.manifest import DetectionOpOutputs, ModelManifest, SsdRawOutputs
from edge_detector.postprocess.anchors import generate_anchors
from edge_detector.tflite_schema import DETECTION_OP
from tools.quantize.flatbuffer import finish, set_outputs

# The operator drops what lies below before NMS: with the 0.0 of the Object Detection API's exporter it would sort all
# anchors of all classes for every picture.
SCORE_THRESHOLD = 0.05
_OUTPUTS = (DETECTION_OP, f"{DETECTION_OP}:1", f"{DETECTION_OP}:2", f"{DETECTION_OP}:3")
_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}


def append_detection_op(
    content: bytes, manifest: ModelManifest, score_threshold: float = SCORE_THRESHOLD, per_class: bool = True
) -> tuple[bytes, ModelManifest]:
    """Return a finished model that ends in the operator, and its manifest.

    The raw heads are dequantized before; scores, boxes and NMS are computed in float32. NMS is per class, or, where
    `per_class` is false, the operator's fast one: of the best class of each anchor, over all classes together. Ports:
    boxes (1, M, 4) as y1, x1, y2, x2 in fractions of the canvas, classes (1, M) from 0, scores (1, M), count (1).
    Source: tensorflow/lite/kernels/detection_postprocess.cc.

    Raises:
        ConfigError: the operator has no words for this model's box codes.
    """
    outputs = manifest.outputs
    if not isinstance(outputs, SsdRawOutputs) or outputs.box_coding != "center_size":
        raise ConfigError("--head postprocess-op: TFLite_Detection_PostProcess cannot decode corner codes; use raw")
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    writer = _Writer(model)
    slots = len(manifest.labels) + outputs.background
    scores = writer.concatenated([level.class_logits for level in outputs.levels], slots)
    boxes = writer.concatenated([level.box_encodings for level in outputs.levels], 4)
    if outputs.scores == "sigmoid":
        scores = writer.operator("LOGISTIC", [scores], ["scores_all"], [writer.shape(scores)])[0]
    anchors = writer.constant(
        "anchors", generate_anchors(outputs.anchors, (manifest.input.width, manifest.input.height))
    )
    kept = manifest.nms.max_detections
    shapes = [(1, kept, 4), (1, kept), (1, kept), (1,)]
    options = _options(manifest, outputs, score_threshold, per_class)
    found = writer.operator(DETECTION_OP, [boxes, scores, anchors], list(_OUTPUTS), shapes, options)
    set_outputs(model, dict(zip(_OUTPUTS, found, strict=True)))
    names = DetectionOpOutputs(boxes=_OUTPUTS[0], classes=_OUTPUTS[1], scores=_OUTPUTS[2], count=_OUTPUTS[3])
    nms = manifest.nms.model_copy(update={"vote_iou": None})  # the operator cannot do that
    return (
        finish(bytes(flatbuffer_utils.convert_object_to_bytearray(model))),
        manifest.model_copy(update={"outputs": names, "nms": nms}),
    )


def _options(manifest: ModelManifest, outputs: SsdRawOutputs, score_threshold: float, per_class: bool) -> bytes:
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("max_detections", manifest.nms.max_detections)
        builder.Int("max_classes_per_detection", 1)
        builder.Int("detections_per_class", manifest.nms.max_detections)
        builder.Bool("use_regular_nms", per_class)
        builder.Float("nms_score_threshold", score_threshold)
        builder.Float("nms_iou_threshold", manifest.nms.iou_threshold)
        builder.Int("num_classes", len(manifest.labels))
        for name, scale in zip(("y_scale", "x_scale", "h_scale", "w_scale"), outputs.box_coder, strict=True):
            builder.Float(name, scale)
    return bytes(builder.Finish())


class _Writer:
    """Adds operators to the end of a parsed model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        (self.graph,) = model.subgraphs
        self.index = {tensor.name.decode(): number for number, tensor in enumerate(self.graph.tensors)}

    def concatenated(self, names: list[str], depth: int) -> int:
        """Return a float32 tensor (1, N, depth) of outputs (1, ..) one after the other."""
        parts = [self._rows(self.index[name], depth) for name in names]
        if len(parts) == 1:
            return parts[0]
        options = schema.ConcatenationOptionsT()
        options.axis = 1
        rows = sum(self.shape(part)[1] for part in parts)
        return self.operator("CONCATENATION", parts, [f"{names[0]}_all"], [(1, rows, depth)], options)[0]

    def _rows(self, tensor: int, depth: int) -> int:
        name, shape = self.graph.tensors[tensor].name.decode(), self.shape(tensor)
        if self.graph.tensors[tensor].type != schema.TensorType.FLOAT32:
            tensor = self.operator("DEQUANTIZE", [tensor], [f"{name}_real"], [shape])[0]
        rows = (1, int(np.prod(shape)) // depth, depth)
        if shape == rows:
            return tensor
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(rows, np.int32)
        target = self.constant(f"{name}_shape", np.array(rows, np.int32))
        return self.operator("RESHAPE", [tensor, target], [f"{name}_rows"], [rows], options)[0]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(int(side) for side in self.graph.tensors[tensor].shape)

    def constant(self, name: str, values: npt.NDArray[Any]) -> int:
        """Return a new constant tensor."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return self._tensor(name, values.shape, _TYPES[values.dtype.name], len(self.model.buffers) - 1)

    def operator(
        self, kind: str, inputs: list[int], names: list[str], shapes: list[tuple[int, ...]], options: Any = None
    ) -> list[int]:
        """Return the float32 outputs of a new operator; custom ones take their options as bytes."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(kind)
        operator.inputs = inputs
        operator.outputs = [
            self._tensor(name, shape, schema.TensorType.FLOAT32, 0) for name, shape in zip(names, shapes, strict=True)
        ]
        if isinstance(options, bytes):
            operator.customOptions = np.frombuffer(options, np.uint8)
        elif options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            operator.builtinOptions = options
        self.graph.operators.append(operator)
        return list(operator.outputs)

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), np.array(shape, np.int32), kind, buffer
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _code(self, kind: str) -> int:
        code = schema.OperatorCodeT()
        builtin = getattr(schema.BuiltinOperator, kind, schema.BuiltinOperator.CUSTOM)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        code.customCode = kind.encode() if builtin == schema.BuiltinOperator.CUSTOM else None
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1
