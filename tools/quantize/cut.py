"""Find the raw heads in the graph of a float .tflite, level by level, and make them its outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edge_detector.errors import ModelError
from edge_detector.flatbuffer import read_flexbuffer_map
from edge_detector.tflite_schema import DETECTION_OP
from tools.quantize.flatbuffer import operator_name

_REAL = (schema.TensorType.FLOAT32, schema.TensorType.INT32, schema.TensorType.INT64, schema.TensorType.BOOL)
_KEEP_ORDER = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")  # of values in memory, which is all that the decoder looks at
_MAKE_SCORES = ("LOGISTIC", "SOFTMAX")


@dataclass(frozen=True)
class Heads:
    """Where a graph holds its encodings and class outputs; tensors are given by index.

    Attributes:
        boxes, classes: N*4 encodings, and N*`slots` class outputs before a sigmoid at the end.
        count, slots: N, and how many class outputs each box has.
        levels: (classes, boxes) of each pyramid level, ascending; one pair if they are not joined from levels.
        sigmoid_between: one is computed between the class tensors of `levels` and `classes`.
        scores: what makes confidences of the class tensors of `levels`; see `SsdRawOutputs`.
        anchors: (N, 4) of TFLite_Detection_PostProcess as (y, x, height, width); None without.
        options: of that operator.
    """

    boxes: int
    classes: int
    count: int
    slots: int
    levels: tuple[tuple[int, int], ...]
    sigmoid_between: bool
    scores: Literal["sigmoid", "identity"]
    anchors: npt.NDArray[np.float32] | None
    options: Mapping[str, int | float]


def check_graph(model: Any, name: str) -> None:
    """Check that a parsed model is float and takes one picture.

    Raises:
        ModelError: it is not.
    """
    if len(model.subgraphs) != 1:
        raise ModelError(f"{name}: has {len(model.subgraphs)} subgraphs; control flow is not supported")
    (graph,) = model.subgraphs
    quantized = [tensor.name.decode() for tensor in graph.tensors if tensor.type not in _REAL]
    if quantized:
        raise ModelError(
            f"{name}: is quantized already ({len(quantized)} tensors, such as {quantized[0]}, hold no float32); "
            "give the float .tflite that it was made from"
        )
    inputs = [graph.tensors[index] for index in graph.inputs]
    shapes = [_shape(tensor) for tensor in inputs]
    dynamic = any(tensor.shapeSignature is not None and -1 in tensor.shapeSignature[1:] for tensor in inputs)
    if len(shapes) != 1 or len(shapes[0]) != 4 or (shapes[0][0], shapes[0][3]) != (1, 3) or dynamic:
        raise ModelError(
            f"{name}: takes {[list(shape) for shape in shapes]}, wanted one picture [1, height, width, 3] of fixed "
            "size; export it so"
        )


def find_heads(model: Any, name: str) -> Heads:
    """Return the raw heads of a parsed model, before TFLite_Detection_PostProcess or as its two outputs.

    Raises:
        ModelError: there are none.
    """
    (graph,) = model.subgraphs
    walk = _Walk(model)
    detection = next((operator for operator in graph.operators if operator_name(model, operator) == DETECTION_OP), None)
    anchors: npt.NDArray[np.float32] | None = None
    options: dict[str, int | float] = {}
    if detection is not None:
        boxes, classes, constant = (int(index) for index in detection.inputs)
        anchors = _constant(model, graph.tensors[constant]).reshape(-1, 4)
        options = read_flexbuffer_map(bytes(bytearray(detection.customOptions)))
    else:
        boxes, classes = _two_outputs(graph, name)
    _, count, slots = _shape(graph.tensors[classes])
    boxes, _ = walk.to_origin(boxes, sigmoid=False)
    classes, sigmoid = walk.to_origin(classes)
    box_levels, _ = walk.levels(boxes, sigmoid=False)
    class_levels, between = walk.levels(classes, sigmoid=not sigmoid)
    if _rows(graph, box_levels, 4) != _rows(graph, class_levels, slots):
        box_levels, class_levels, between = [boxes], [classes], False
    # Before the operator stand scores, whatever made them; raw heads are logits unless the graph says otherwise.
    made_scores = detection is not None or walk.origin_kind(classes) in _MAKE_SCORES
    return Heads(
        boxes,
        classes,
        count,
        slots,
        tuple(zip(class_levels, box_levels, strict=True)),
        between,
        "sigmoid" if sigmoid or between or not made_scores else "identity",
        anchors,
        options,
    )


def drop_channels(model: Any, heads: Heads, kept: npt.NDArray[np.bool_]) -> bool:
    """Leave class slots out of the convolutions that compute the class tensors; False if those are something else."""
    (graph,) = model.subgraphs
    tensors = [classes for classes, _ in heads.levels]
    producers = {index: operator for operator in graph.operators for index in operator.outputs}
    makers = [producers[tensor] for tensor in tensors if tensor in producers]
    constants = {int(index) for maker in makers for index in maker.inputs[1:] if index >= 0}
    others = {int(index) for operator in graph.operators if operator not in makers for index in operator.inputs}
    if (
        len(makers) < len(tensors)
        or any(operator_name(model, maker) != "CONV_2D" for maker in makers)
        or any(model.buffers[graph.tensors[index].buffer].data is None for index in constants)
        or constants & others
    ):
        return bool(kept.all())
    for index in constants:
        tensor = graph.tensors[index]
        values = _constant(model, tensor).reshape(_shape(tensor))
        chosen = values[np.tile(kept, len(values) // len(kept))]
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


def name_tensors_apart(model: Any) -> None:
    """Give tensors with the same name different ones, outputs excepted: calibration goes by names."""
    (graph,) = model.subgraphs
    seen = {graph.tensors[index].name for index in graph.outputs}
    for number, tensor in enumerate(graph.tensors):
        if number not in graph.outputs and (tensor.name in seen or not tensor.name):
            tensor.name = f"{(tensor.name or b'').decode()}#{number}".encode()
        seen.add(tensor.name)


class _Walk:
    """Goes against the flow of values through the graph of a parsed model."""

    def __init__(self, model: Any) -> None:
        (graph,) = model.subgraphs
        self._model = model
        self._producers = {int(index): operator for operator in graph.operators for index in operator.outputs}

    def _kind(self, tensor: int) -> str:
        return operator_name(self._model, self._producers[tensor]) if tensor in self._producers else ""

    def to_origin(self, tensor: int, *, sigmoid: bool = True) -> tuple[int, bool]:
        """Return the tensor that is reshaped, and passes one sigmoid at most, on its way to `tensor`; and if it does.

        Without `sigmoid` the walk ends at one.
        """
        passed = False
        while True:
            if self._kind(tensor) == "LOGISTIC" and sigmoid and not passed:
                passed = True
            elif self._kind(tensor) not in _KEEP_ORDER:
                return tensor, passed
            tensor = int(self._producers[tensor].inputs[0])

    def levels(self, tensor: int, *, sigmoid: bool) -> tuple[list[int], bool]:
        """Return the tensors that are joined into `tensor`, else itself; and if each passes a sigmoid on its way."""
        if self._kind(tensor) == "CONCATENATION" and self._producers[tensor].builtinOptions.axis in (1, -2):
            parts = [self.to_origin(int(index), sigmoid=sigmoid) for index in self._producers[tensor].inputs]
            if len({passed for _, passed in parts}) == 1:
                return [part for part, _ in parts], parts[0][1]
        return [tensor], False

    def origin_kind(self, tensor: int) -> str:
        """Return the operator that computes the values of `tensor`, which may be joined from several."""
        while self._kind(tensor) in (*_KEEP_ORDER, "CONCATENATION"):
            tensor = int(self._producers[tensor].inputs[0])
        return self._kind(tensor)


def _two_outputs(graph: Any, name: str) -> tuple[int, int]:
    """Return the tensors of encodings and of class outputs."""
    heads = sorted(graph.outputs, key=lambda index: _shape(graph.tensors[index])[-1:] != (4,))
    shapes = [list(_shape(graph.tensors[index])) for index in heads]
    if [shape[2:] for shape in shapes] == [[4], [4]]:
        raise ModelError(
            f"{name}: both outputs are {shapes[0]}, so that encodings and classes cannot be told apart; say which is "
            f'which in {name.removesuffix(".tflite")}.json beside the model, with the key "outputs"'
        )
    if len(heads) != 2 or any(len(shape) != 3 for shape in shapes) or shapes[0][:2] != shapes[1][:2]:
        raise ModelError(
            f"{name}: puts out {shapes}; supported are [1, N, 4] with [1, N, classes], {DETECTION_OP}, and models "
            "with our manifest"
        )
    boxes, classes = (int(index) for index in heads)
    return boxes, classes


def _rows(graph: Any, tensors: list[int], depth: int) -> list[int]:
    return [math.prod(_shape(graph.tensors[index])) // depth for index in tensors]


def _constant(model: Any, tensor: Any) -> npt.NDArray[np.float32]:
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32)


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(side) for side in tensor.shape)
