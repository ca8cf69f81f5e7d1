"""Rewrite a .tflite: all bytes inside the flatbuffer, equal buffers once, right op versions, speaking output names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.errors import ModelError

# Versions that tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc gives to the int8 and the 16-bit form.
# An operator that is missing here, or computes real numbers, keeps the version that its converter gave it.
_OP_VERSIONS = {
    "ADD": (2, 3),
    "AVERAGE_POOL_2D": (2, 3),
    "BATCH_MATMUL": (2, 3),
    "BROADCAST_TO": (3, 3),
    "CONCATENATION": (2, 3),
    "CONV_2D": (3, 4),
    "DEPTHWISE_CONV_2D": (3, 5),
    "DEQUANTIZE": (2, 3),
    "FULLY_CONNECTED": (4, 7),
    "GATHER": (2, 4),
    "LEAKY_RELU": (1, 2),
    "LOGISTIC": (2, 3),
    "MAX_POOL_2D": (2, 3),
    "MAXIMUM": (2, 4),
    "MEAN": (2, 3),
    "MINIMUM": (2, 4),
    "MIRROR_PAD": (2, 3),
    "MUL": (2, 4),
    "PACK": (2, 3),
    "PAD": (2, 3),
    "PADV2": (2, 3),
    "QUANTIZE": (1, 2),
    "RELU": (2, 3),
    "RELU6": (2, 3),
    "RESIZE_BILINEAR": (2, 4),
    "RESIZE_NEAREST_NEIGHBOR": (2, 4),
    "RSQRT": (2, 3),
    "SLICE": (2, 4),
    "SOFTMAX": (2, 3),
    "SPACE_TO_DEPTH": (2, 1),
    "SPLIT": (2, 4),
    "SQRT": (2, 2),
    "SQUARED_DIFFERENCE": (2, 1),
    "STRIDED_SLICE": (2, 1),
    "SUB": (2, 5),
    "SUM": (2, 1),
    "TANH": (2, 3),
    "TRANSPOSE": (2, 5),
    "TRANSPOSE_CONV": (2, 1),
    "UNPACK": (2, 4),
}
_OP_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_INTEGERS = (schema.TensorType.INT8, schema.TensorType.INT16, schema.TensorType.INT32, schema.TensorType.INT64)


class _AlignedBuffer(schema.BufferT):
    """Starts its bytes at a multiple of 16, which schema.fbs demands and its Python code leaves out."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - overrides
        if self.data is not None:
            builder.Prep(16, len(self.data))
        return super().Pack(builder)


def finish(content: bytes) -> bytes:
    """Return the model `content` in its final form; what it computes stays the same, bit by bit.

    Raises:
        ModelError: it has several subgraphs.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))  # brings buffers inline
    if len(model.subgraphs) != 1:
        raise ModelError(f"the model has {len(model.subgraphs)} subgraphs; control flow is not supported")
    _share_equal_buffers(model)
    (graph,) = model.subgraphs
    for tensor in graph.tensors:
        tensor.shapeSignature = None  # of the batch, which is 1: compilers for accelerators want static shapes
    for operator in graph.operators:
        _raise_version(model, graph, operator)
    for signature in (model.signatureDefs or [])[:1]:
        for port in signature.outputs:
            graph.tensors[port.tensorIndex].name = port.name
    model.metadata, model.metadataBuffer = [], []  # the converter's own remarks, stale by now
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def with_metadata(content: bytes, name: str, metadata: bytes) -> bytes:
    """Return a finished model with an entry of this name among its metadata, the only one."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    _share_equal_buffers(model)
    buffer, entry = _AlignedBuffer(), schema.MetadataT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    entry.name, entry.buffer = name.encode(), len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def activations(content: bytes) -> dict[int, str]:
    """Return the tensors of a model that are computed, and its inputs: index -> name."""
    (graph,) = flatbuffer_utils.read_model_from_bytearray(bytearray(content)).subgraphs
    indices = [*graph.inputs, *(index for operator in graph.operators for index in operator.outputs)]
    return {index: graph.tensors[index].name.decode() for index in indices}


def is_all_integer(model: Any) -> bool:
    """Return whether no tensor of a parsed model holds real numbers."""
    return all(tensor.type in _INTEGERS for graph in model.subgraphs for tensor in graph.tensors)


def set_outputs(model: Any, outputs: Mapping[str, int]) -> None:
    """Make tensors the outputs of a parsed model, by name and in this order; what nothing needs any more goes."""
    (graph,) = model.subgraphs
    for name, tensor in outputs.items():
        graph.tensors[tensor].name = name.encode()
    graph.outputs = list(outputs.values())
    for signature in model.signatureDefs or []:
        signature.outputs = []
        for name, tensor in outputs.items():
            port = schema.TensorMapT()
            port.name, port.tensorIndex = name.encode(), tensor
            signature.outputs.append(port)
    _prune(model, graph)


def _prune(model: Any, graph: Any) -> None:
    needed: set[int] = {*graph.outputs}
    operators: list[Any] = []
    for operator in reversed(graph.operators):
        if needed.intersection(operator.outputs):
            needed.update(index for index in operator.inputs if index >= 0)
            operators.insert(0, operator)
    needed.update(index for operator in operators for index in operator.outputs)
    kept = sorted(needed | {*graph.inputs})
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in kept]
    graph.operators = operators
    for part in (graph, *operators):
        part.inputs, part.outputs = [place[i] for i in part.inputs], [place[i] for i in part.outputs]
    for signature in model.signatureDefs or []:
        for port in (*signature.inputs, *signature.outputs):
            port.tensorIndex = place[port.tensorIndex]
    codes = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[code] for code in codes]
    for operator in operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)


def operator_name(model: Any, operator: Any) -> str:
    """Return an operator's name in the schema, such as "CONV_2D", or that of a custom operator."""
    code = model.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return str(code.customCode.decode())
    return _OP_NAMES[flatbuffer_utils.get_builtin_code_from_operator_code(code)]


def _raise_version(model: Any, graph: Any, operator: Any) -> None:
    """Bring the operator's version up to what its integer form needs; the quantizer leaves that of the float form."""
    versions = _OP_VERSIONS.get(operator_name(model, operator))
    types = {graph.tensors[index].type for index in (*operator.inputs, *operator.outputs) if index >= 0}
    wide = bool(types & {schema.TensorType.INT16, schema.TensorType.FLOAT16})
    if versions is not None and (wide or schema.TensorType.INT8 in types):
        code = model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, versions[wide])


def _share_equal_buffers(model: Any) -> None:
    """Keep each content once, in aligned buffers; what no tensor refers to goes, but the empty buffer 0."""
    places: dict[bytes, int] = {b"": 0}
    buffers = [_AlignedBuffer()]
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            values = model.buffers[tensor.buffer].data
            key = b"" if values is None else bytes(values)
            if key not in places:
                places[key] = len(buffers)
                buffers.append(_AlignedBuffer())
                buffers[-1].data = np.frombuffer(key, np.uint8)
            tensor.buffer = places[key]
    model.buffers = buffers
