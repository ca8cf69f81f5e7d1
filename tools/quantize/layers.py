"""Which layers lose the accuracy: every activation of an integer model against the float one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.backends.tflite import default_threads
from edge_detector.errors import ModelError
from edge_detector.quantization import QuantizationParams
from tools.quantize.calibrate import open_for_inspection
from tools.quantize.findings import LayerError

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


@dataclass(frozen=True)
class Step:
    """One operator: the activations that it reads and the one that it computes, by index, and that one's name."""

    operator: str
    inputs: tuple[int, ...]
    output: int
    name: str


def layer_errors(
    float_content: bytes, content: bytes, tensors: Iterable[npt.NDArray[np.float32]]
) -> tuple[LayerError, ...]:
    """Run a float .tflite and its integer or mixed twin on input tensors (1, H, W, 3) of the float one.

    A signal is the deviation from a channel's mean: a constant carries none. All channels count alike: where one has
    far greater values than the rest, the noise of the rest is what hurts. The layer that adds most noise comes first:
    its output is compared with that of the float operator on the very same inputs, so that noise from before, which a
    layer may amplify, is not counted. XNNPACK computes the activations, as it will in use.

    Raises:
        ModelError: the second model is not made from the first, or there are no tensors.
    """
    float_steps = {step.name: step for step in read_steps(float_content)}
    steps = [step for step in read_steps(content) if step.operator not in CONVERSIONS]
    if [step.name for step in steps] != [*float_steps]:
        raise ModelError("the models have different layers; convert again from the float .tflite")
    twin_content, twins = _with_float_twins(float_content, content)
    reference, model = _Activations(float_content), _Activations(twin_content)
    sums = {step.name: _Sums() for step in steps}
    for tensor in tensors:
        reference.run(tensor)
        model.run(tensor)
        for step in steps:
            wanted, got = reference.values(float_steps[step.name].output), model.values(step.output)
            sums[step.name].add(wanted, got, model.values(twins[step.name]), model.params.get(step.output))
    if not all(some.count for some in sums.values()):
        raise ModelError("no photo to find the worst layers on could be read; give JPEG or PNG files")
    errors = [sums[step.name].error(step) for step in steps]
    return tuple(sorted(errors, key=lambda error: (-error.added_noise, error.snr_db)))


def read_steps(content: bytes) -> list[Step]:
    """Return the operators of a .tflite in the order of their computation."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = model.subgraphs
    computed = _computed(graph)
    return [
        Step(
            _OPERATORS[flatbuffer_utils.get_builtin_code_from_operator_code(model.operatorCodes[operator.opcodeIndex])],
            tuple(int(index) for index in operator.inputs if index in computed),
            int(operator.outputs[0]),
            graph.tensors[operator.outputs[0]].name.decode(),
        )
        for operator in graph.operators
        if computed.intersection(operator.inputs)  # not what turns float16 constants into float32
    ]


def _computed(graph: Any) -> set[int]:
    return {*graph.inputs, *(index for operator in graph.operators for index in operator.outputs)}


def _with_float_twins(float_content: bytes, content: bytes) -> tuple[bytes, dict[str, int]]:
    """Return a model with each operator a second time, in float on the dequantized inputs of the first.

    Also return the index of the second one's output by the name of the first one's.
    """
    float_model, model = (
        flatbuffer_utils.read_model_from_bytearray(bytearray(some)) for some in (float_content, content)
    )
    (float_graph,), (graph,) = float_model.subgraphs, model.subgraphs
    float_computed = _computed(float_graph)
    codes, buffers = len(model.operatorCodes), len(model.buffers)
    dequantize = schema.OperatorCodeT()
    dequantize.builtinCode = dequantize.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    dequantize.version = 3  # also takes int16
    model.operatorCodes += [*float_model.operatorCodes, dequantize]
    model.buffers += float_model.buffers
    originals = {step.name: step for step in read_steps(content) if step.operator not in CONVERSIONS}

    def add_tensor(source: Any, name: bytes, buffer: int) -> int:
        tensor = copy.copy(source)
        tensor.name, tensor.buffer = name, buffer
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def dequantized(index: int) -> int:
        source = graph.tensors[index]
        if source.type == schema.TensorType.FLOAT32:
            return index
        output = add_tensor(source, source.name + b"/real", 0)
        graph.tensors[output].type, graph.tensors[output].quantization = schema.TensorType.FLOAT32, None
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes) - 1, [index], [output]
        operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
        operator.builtinOptions = schema.DequantizeOptionsT()
        graph.operators.append(operator)
        return output

    constants: dict[int, int] = {}
    twins: dict[str, int] = {}
    for operator in float_graph.operators:
        output = float_graph.tensors[operator.outputs[0]]
        activations = iter(originals[output.name.decode()].inputs)
        inputs = []
        for index in operator.inputs:
            if index in float_computed:
                inputs.append(dequantized(next(activations)))
                continue
            if index >= 0 and index not in constants:
                constant = float_graph.tensors[index]
                constants[index] = add_tensor(constant, constant.name + b"/float", buffers + constant.buffer)
            inputs.append(constants.get(index, -1))
        twin = copy.copy(operator)
        twin.opcodeIndex, twin.inputs = codes + operator.opcodeIndex, inputs
        twin.outputs = [add_tensor(output, output.name + b"/twin", 0)]
        twins[output.name.decode()] = twin.outputs[0]
        graph.operators.append(twin)
    graph.outputs = [*graph.outputs, *twins.values()]  # what nobody reads would not be computed
    model.signatureDefs = []
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), twins


class _Activations:
    """A model whose activations can be read after `run`, as real numbers."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = open_for_inspection(content, default_threads())
        self.params = {}
        for item in self._interpreter.get_tensor_details():
            scale, zero_point = item["quantization"]
            if scale > 0:
                self.params[int(item["index"])] = QuantizationParams(scale, zero_point, np.dtype(item["dtype"]))
        (source,) = self._interpreter.get_input_details()
        self._input_index = int(source["index"])

    def run(self, tensor: npt.NDArray[np.float32]) -> None:
        params = self.params.get(self._input_index)
        self._interpreter.set_tensor(self._input_index, tensor if params is None else params.quantize(tensor))
        self._interpreter.invoke()

    def values(self, index: int) -> npt.NDArray[np.float32]:
        stored: npt.NDArray[np.float32] = self._interpreter.get_tensor(index)
        return stored if index not in self.params else self.params[index].dequantize(stored)


class _Sums:
    """Powers of signal and noise of each channel of one activation, over all photos."""

    def __init__(self) -> None:
        self.count = 0
        self._total, self._power, self._noise, self._added, self._rounding = (np.zeros(1) for _ in range(5))

    def add(
        self,
        wanted: npt.NDArray[np.float32],
        got: npt.NDArray[np.float32],
        twin: npt.NDArray[np.float32],
        params: QuantizationParams | None,
    ) -> None:
        self.count += wanted.size // wanted.shape[-1]
        self._total = self._total + _by_channel(wanted).sum(axis=0, dtype=np.float64)
        self._power = self._power + _power(wanted)
        self._noise = self._noise + _power(got - wanted)
        self._added = self._added + _power(got - twin)
        if params is not None:
            self._rounding = self._rounding + _power(params.dequantize(params.quantize(twin)) - twin)

    def error(self, step: Step) -> LayerError:
        snr_db = float(-10 * np.log10(max(self._share(self._noise), 1e-20)))
        return LayerError(step.name, step.operator, snr_db, self._share(self._added), self._share(self._rounding))

    def _share(self, noise: npt.NDArray[np.float64]) -> float:
        """Return noise as a share of the signal, 0..1; the mean of all channels, however weak.

        A channel with next to no signal is taken for one with a thousandth of the median.
        """
        signal = np.maximum(self._power - self._total**2 / self.count, 0)
        least = max(1e-3 * float(np.median(signal)), 1e-9 * float(self._power.max()), 1e-30)
        return float(np.minimum(noise / np.maximum(signal, least), 1).mean())


def _by_channel(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return values.reshape(-1, values.shape[-1])


def _power(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    power: npt.NDArray[np.float64] = np.square(_by_channel(values), dtype=np.float64).sum(axis=0)
    return power
