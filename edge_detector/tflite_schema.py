"""What a .tflite file says about itself, read without any runtime. Source: TensorFlow's schema.fbs, version 3.

The numbers passed to `Table` are field indices of that schema, or of tflite-support's metadata_schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_detector.errors import ModelError
from edge_detector.flatbuffer import Table, read_flexbuffer_map
from edge_detector.quantization import QuantizationParams

DETECTION_OP = "TFLite_Detection_PostProcess"
_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}
_LOGISTIC, _CUSTOM = 14, 32
_KEEPS_VALUES = frozenset({2, 6, 22, 114})  # CONCATENATION, DEQUANTIZE, RESHAPE, QUANTIZE
_NORMALIZATION_OPTIONS = 1


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor; `shape` is () where only the runtime knows it, `params` is None where it is not quantized."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    params: QuantizationParams | None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class DetectionOp:
    """TFLite_Detection_PostProcess: names of its outputs in port order (boxes, classes, scores, count), its options."""

    outputs: tuple[str, ...]
    options: Mapping[str, int | float]


@dataclass(frozen=True, slots=True)
class Normalization:
    """Mean and standard deviation per channel that the TFLite metadata state: value = (pixel - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TfliteModel:
    """The main graph; `sigmoid_outputs` are outputs whose values a sigmoid inside the graph made."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    tensors: tuple[TensorInfo, ...]
    sigmoid_outputs: frozenset[str]
    detection_op: DetectionOp | None
    normalization: Normalization | None


@dataclass(frozen=True, slots=True)
class _Operator:
    code: int
    custom_name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom_options: bytes


def read_tflite(content: bytes, name: str) -> TfliteModel:
    """Return what the file `content` says about its main graph; `name` is for messages.

    Raises:
        ModelError: the bytes are damaged or cut off.
    """
    try:
        return _read_model(Table.root(content), content)
    except (struct.error, ValueError, LookupError) as error:
        raise ModelError(f"{name}: damaged or cut off after {len(content)} bytes; copy or download it again") from error


def _read_model(model: Table, content: bytes) -> TfliteModel:
    buffers = model.tables(4)
    for buffer in buffers:
        buffer.numbers(0, np.uint8)  # raises where the weights are cut off
        if buffer.scalar(1, "Q") + buffer.scalar(2, "Q") > len(content):
            raise ValueError("weights end behind the last byte")
    graph = model.tables(2)[0]
    tensors = tuple(_read_tensor(i, tensor) for i, tensor in enumerate(graph.tables(0)))
    operators = _read_operators(model, graph)
    outputs = _pick(tensors, graph.numbers(2, np.int32).tolist())
    return TfliteModel(
        inputs=_pick(tensors, graph.numbers(1, np.int32).tolist()),
        outputs=outputs,
        tensors=tensors,
        sigmoid_outputs=frozenset(tensor.name for tensor in outputs if _is_sigmoid(tensor.index, operators)),
        detection_op=_detection_op(tensors, operators),
        normalization=_normalization(model, buffers),
    )


def _read_operators(model: Table, graph: Table) -> list[_Operator]:
    # Codes above 126 stand in field 3; files from before that field have only field 0.
    codes = [(max(code.scalar(0, "b"), code.scalar(3, "i")), code.text(1)) for code in model.tables(1)]
    return [
        _Operator(
            code=codes[operator.scalar(0, "I")][0],
            custom_name=codes[operator.scalar(0, "I")][1],
            inputs=tuple(operator.numbers(1, np.int32).tolist()),
            outputs=tuple(operator.numbers(2, np.int32).tolist()),
            custom_options=operator.numbers(5, np.uint8).tobytes(),
        )
        for operator in graph.tables(3)
    ]


def _pick(tensors: tuple[TensorInfo, ...], indices: Sequence[int]) -> tuple[TensorInfo, ...]:
    if any(not 0 <= index < len(tensors) for index in indices):
        raise ValueError(f"tensors {indices} of {len(tensors)}")
    return tuple(tensors[index] for index in indices)


def _read_tensor(index: int, tensor: Table) -> TensorInfo:
    dtype = _TYPES.get(tensor.scalar(1, "b"), "unsupported type")
    quantization = tensor.table(4)
    scales = [] if quantization is None else quantization.numbers(2, np.float32).tolist()
    params = None
    if quantization is not None and len(scales) == 1 and "int" in dtype:
        zero_points = quantization.numbers(3, np.int64).tolist() or [0]
        params = QuantizationParams(scales[0], zero_points[0], np.dtype(dtype))
    return TensorInfo(index, tensor.text(3), tuple(tensor.numbers(0, np.int32).tolist()), dtype, params)


def _is_sigmoid(tensor: int, operators: list[_Operator]) -> bool:
    # Operators stand in execution order, so that one pass from the end follows the values to their origin.
    for operator in reversed(operators):
        if tensor in operator.outputs:
            if operator.code not in _KEEPS_VALUES or not operator.inputs:
                return operator.code == _LOGISTIC
            tensor = operator.inputs[0]
    return False


def _detection_op(tensors: tuple[TensorInfo, ...], operators: list[_Operator]) -> DetectionOp | None:
    for operator in operators:
        if operator.code == _CUSTOM and operator.custom_name == DETECTION_OP:
            names = tuple(tensor.name for tensor in _pick(tensors, operator.outputs))
            return DetectionOp(names, read_flexbuffer_map(operator.custom_options))
    return None


def _normalization(model: Table, buffers: list[Table]) -> Normalization | None:
    for entry in model.tables(6):
        if entry.text(0) == "TFLITE_METADATA":
            metadata = Table.root(buffers[entry.scalar(1, "I")].numbers(0, np.uint8).tobytes())
            graphs = metadata.tables(3)
            inputs = graphs[0].tables(2) if graphs else []
            for unit in inputs[0].tables(4) if inputs else []:
                options = unit.table(1)
                if unit.scalar(0, "B") == _NORMALIZATION_OPTIONS and options is not None:
                    mean, std = (tuple(options.numbers(field, np.float32).tolist()) for field in (0, 1))
                    return Normalization(mean, std)
    return None
