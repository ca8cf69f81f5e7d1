"""The forms of one network that contenders take, made from the shipped int8 file: same weights, other ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.manifest import DetectionOpOutputs, ModelManifest
from edge_detector.model_file import with_manifest
from tools.quantize.flatbuffer import finish, set_outputs
from tools.quantize.head import append_detection_op
from tools.quantize.tflite_metadata import with_tflite_metadata


def op_forms(raw: bytes, manifest: ModelManifest, threshold: float) -> dict[str, bytes]:
    """Return, by file name, the model with TFLite_Detection_PostProcess behind it, and the operator alone.

    The operator drops what is below `threshold` before its NMS, as our decoder does: it has no work that we have not.
    """
    forms = {}
    for name, per_class in (("regular", True), ("fast", False)):
        content, described = append_detection_op(raw, manifest, threshold, per_class)
        forms[f"op-{name}.tflite"] = content
        forms[f"op-{name}-alone.tflite"] = _behind_the_heads(content, manifest, described)
        if per_class:
            metadata = with_tflite_metadata(_uint8_input(content), described)
            forms["mediapipe-uint8.tflite"] = with_manifest(metadata, described)
            forms["mediapipe-int8.tflite"] = with_manifest(with_tflite_metadata(content, described), described)
    return forms


def _behind_the_heads(content: bytes, manifest: ModelManifest, described: ModelManifest) -> bytes:
    """Return a model of what follows the raw heads, which become its inputs."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = model.subgraphs
    places = {tensor.name.decode(): index for index, tensor in enumerate(graph.tensors)}
    levels = manifest.outputs.levels  # type: ignore[union-attr]  # raw heads: append_detection_op has seen to it
    heads = [places[name] for level in levels for name in (level.class_logits, level.box_encodings)]
    graph.inputs = heads
    graph.operators = [operator for operator in graph.operators if not set(heads).intersection(operator.outputs)]
    model.signatureDefs = []
    outputs = described.outputs
    if not isinstance(outputs, DetectionOpOutputs):
        raise TypeError("the model does not end in the operator")
    set_outputs(model, {name: places[name] for name in (outputs.boxes, outputs.classes, outputs.scores, outputs.count)})
    return finish(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))


def _uint8_input(content: bytes) -> bytes:
    """Return the model with a QUANTIZE operator in front, which takes pixels as they are and subtracts 128."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = model.subgraphs
    (inner,) = graph.inputs
    pixels = schema.TensorT()
    pixels.name, pixels.shape, pixels.type = b"pixels", graph.tensors[inner].shape, schema.TensorType.UINT8
    pixels.quantization = schema.QuantizationParametersT()
    pixels.quantization.scale = np.array(graph.tensors[inner].quantization.scale, np.float32)
    pixels.quantization.zeroPoint = np.array(graph.tensors[inner].quantization.zeroPoint, np.int64) + 128
    graph.tensors.append(pixels)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [inner]
    model.operatorCodes.append(_quantize_code())
    graph.operators.insert(0, operator)
    graph.inputs = [len(graph.tensors) - 1]
    for signature in model.signatureDefs or []:
        signature.inputs[0].tensorIndex = len(graph.tensors) - 1
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _quantize_code() -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 2
    return code
