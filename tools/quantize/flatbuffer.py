"""Rewrite a .tflite: all bytes inside the flatbuffer, equal buffers once, right op versions, speaking output names."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.errors import ModelError

# Versions that tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc gives to the float and the int8 form.
_OP_VERSIONS = {
    "ADD": (1, 2),
    "CONV_2D": (1, 3),
    "DEPTHWISE_CONV_2D": (1, 3),
    "MAX_POOL_2D": (1, 2),
    "PAD": (1, 2),
    "RELU": (1, 2),
    "RELU6": (1, 2),
    "RESIZE_NEAREST_NEIGHBOR": (1, 2),
}
_OP_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_INTEGERS = (schema.TensorType.INT8, schema.TensorType.INT32)


class _AlignedBuffer(schema.BufferT):
    """Starts its bytes at a multiple of 16, which schema.fbs demands and its Python code leaves out."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - overrides
        if self.data is not None:
            builder.Prep(16, len(self.data))
        return super().Pack(builder)


def finish(content: bytes) -> bytes:
    """Return the model `content` in its final form; what it computes stays the same, bit by bit.

    Raises:
        ModelError: it contains an operator that our networks do not have.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))  # brings buffers inline
    _share_equal_buffers(model)
    integer = is_all_integer(model)
    for code in model.operatorCodes:
        name = _OP_NAMES[flatbuffer_utils.get_builtin_code_from_operator_code(code)]
        if name not in _OP_VERSIONS:
            raise ModelError(f"operator {name} appeared in the conversion; use the TensorFlow version of setup.cfg")
        code.version = _OP_VERSIONS[name][integer]
    (graph,) = model.subgraphs
    (signature,) = model.signatureDefs
    for port in signature.outputs:
        graph.tensors[port.tensorIndex].name = port.name
    model.metadata, model.metadataBuffer = [], []  # the converter's own remarks, stale by now
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def activations(content: bytes) -> dict[int, str]:
    """Return the tensors of a model that are computed, and its inputs: index -> name."""
    (graph,) = flatbuffer_utils.read_model_from_bytearray(bytearray(content)).subgraphs
    indices = [*graph.inputs, *(index for operator in graph.operators for index in operator.outputs)]
    return {index: graph.tensors[index].name.decode() for index in indices}


def is_all_integer(model: Any) -> bool:
    """Return whether no tensor of a parsed model holds real numbers."""
    return all(tensor.type in _INTEGERS for graph in model.subgraphs for tensor in graph.tensors)


def _share_equal_buffers(model: Any) -> None:
    places: dict[bytes, int] = {}
    moved: list[int] = []
    buffers: list[_AlignedBuffer] = []
    for buffer in model.buffers:
        key = b"" if buffer.data is None else bytes(buffer.data)
        if key not in places:
            places[key] = len(buffers)
            aligned = _AlignedBuffer()
            aligned.data = np.frombuffer(key, np.uint8) if key else None
            buffers.append(aligned)
        moved.append(places[key])
    model.buffers = buffers
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = moved[tensor.buffer]
