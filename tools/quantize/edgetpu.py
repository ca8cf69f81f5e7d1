"""Whether the Edge TPU will run a model: operator by operator, before anyone has tried.

Rules: "TensorFlow models on the Edge TPU" (coral.ai/docs/edgetpu/models-intro): its table of supported operations, and
the requirements that tensors are quantized, of constant size and at most three-dimensional beside the batch. The
compiler maps operators from the input on up to the first that it does not know; all that follow run on the CPU.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from tools.quantize.findings import EdgeTpuReport, OperatorMapping
from tools.quantize.flatbuffer import operator_name

SRAM_BYTES = 8 << 20  # "approximately 8 MB of SRAM", parameter data caching
COMPILER = "edgetpu_compiler"
_TIMEOUT_S = 600.0
# Name in the schema -> greatest version that compiler 16.0, of 2021, is known to take.
_SUPPORTED = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "EXPAND_DIMS": 1,
    "FULLY_CONNECTED": 4,
    "L2_NORMALIZATION": 2,
    "LOGISTIC": 2,
    "MAXIMUM": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MINIMUM": 2,
    "MUL": 2,
    "PACK": 2,
    "PAD": 2,
    "PRELU": 1,
    "QUANTIZE": 2,
    "REDUCE_MAX": 2,
    "REDUCE_MIN": 2,
    "RELU": 2,
    "RELU6": 2,
    "RELU_N1_TO_1": 2,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 2,
    "RESIZE_NEAREST_NEIGHBOR": 2,
    "RSQRT": 2,
    "SLICE": 2,
    "SOFTMAX": 2,
    "SPACE_TO_DEPTH": 2,
    "SPLIT": 2,
    "SQUEEZE": 1,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "SUM": 1,
    "SQUARED_DIFFERENCE": 2,
    "TANH": 2,
    "TRANSPOSE": 2,
    "TRANSPOSE_CONV": 2,
}
_QUANTIZED = (schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT32)


def edge_tpu_report(content: bytes, path: Path | None) -> EdgeTpuReport:
    """Return what the compiler is expected to do with a model, and what it does where it is installed.

    `path` is where the model lies; the compiled twin goes beside it. None: the compiler is not run.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = model.subgraphs
    operators = tuple(_mappings(model, graph))
    mapped = [operator for operator, found in zip(graph.operators, operators, strict=True) if found.mapped]
    buffers = {graph.tensors[index].buffer for operator in mapped for index in operator.inputs if index >= 0}
    parameters = sum(len(model.buffers[buffer].data) for buffer in buffers if model.buffers[buffer].data is not None)
    printed, compiled = (None, None) if path is None else _compile(path)
    return EdgeTpuReport(operators, parameters, SRAM_BYTES, printed, compiled)


def _mappings(model: Any, graph: Any) -> Iterator[OperatorMapping]:
    on_cpu: dict[int, str] = {}  # tensors that are computed on the CPU -> by what
    for number, operator in enumerate(graph.operators):
        name = operator_name(model, operator)
        version = model.operatorCodes[operator.opcodeIndex].version
        before = next((on_cpu[index] for index in operator.inputs if index in on_cpu), None)
        reason = f"{before} before it is not mapped" if before else _obstacle(model, graph, operator, name, version)
        if reason:
            on_cpu |= dict.fromkeys((int(index) for index in operator.outputs), before or name)
        output = graph.tensors[operator.outputs[0]].name.decode()
        yield OperatorMapping(number, name, output, not reason, reason)


def _obstacle(model: Any, graph: Any, operator: Any, name: str, version: int) -> str:
    """Return why an operator will not be mapped, "" if it will."""
    if name not in _SUPPORTED:
        return "operator is not supported"
    if version > _SUPPORTED[name]:
        return f"operator version {version} is not supported, only up to {_SUPPORTED[name]}"
    inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
    outputs = [graph.tensors[index] for index in operator.outputs]
    for tensor in (*inputs, *outputs):
        shape = [] if tensor.shape is None else list(map(int, tensor.shape))
        if tensor.type not in _QUANTIZED:
            return "tensors are not quantized to 8 bits"
        if tensor.shapeSignature is not None and -1 in list(tensor.shapeSignature):
            return "a tensor's size is not constant"
        if tensor.buffer == 0 and len(shape) > 4 and any(side > 1 for side in shape[:-3]):
            return f"{len(shape)} dimensions, only three innermost may exceed 1"
    return _limit(model, graph, operator, name, inputs, outputs)


def _limit(model: Any, graph: Any, operator: Any, name: str, inputs: list[Any], outputs: list[Any]) -> str:
    options = operator.builtinOptions
    if name.startswith("RESIZE_") and (options.alignCorners or options.halfPixelCenters):
        return "align_corners and half_pixel_centers are not supported"
    if name == "CONCATENATION" and any(model.buffers[tensor.buffer].data is not None for tensor in inputs):
        return "an input is a constant"
    if name == "PAD" and any(list(tensor.shape)[:1] != [1] for tensor in (inputs[0], outputs[0])):
        return "padding of the batch is not supported"
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and model.buffers[inputs[1].buffer].data is None:
        return "its weights are not constant"
    return ""


def _compile(path: Path) -> tuple[str | None, str | None]:
    """Run the compiler where it is installed: what it printed, and the name of the twin beside the model."""
    program = shutil.which(COMPILER)
    if program is None:
        return None, None
    twin = path.with_name(f"{path.stem}_edgetpu.tflite")
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = [program, "--show_operations", "--out_dir", folder, str(path)]
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, errors="replace"
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            return f"{COMPILER} did not finish: {error}", None
        printed = (result.stdout + result.stderr).strip()
        made = Path(folder) / twin.name
        if result.returncode != 0 or not made.is_file():
            return f"{printed}\n{COMPILER} ended with code {result.returncode}".strip(), None
        shutil.copyfile(made, twin)
    return printed, twin.name
