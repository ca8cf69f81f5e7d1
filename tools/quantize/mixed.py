"""Mixed precision: the few layers that int8 represents worst stay float.

Not int16: that needs as many conversions, and no runtime computes it fast (see `Precision`). Not with float16 weights:
litert-quantizer 0.11 fails on those that several operators share, as the heads do.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from ai_edge_litert.tools import flatbuffer_utils
from litert_quantizer.qtyping import TFLOperationName
from litert_quantizer.recipe_manager import AlgorithmName, RecipeManager

from edge_detector.backends.tflite import TfliteBackend
from tools.quantize.findings import LayerError, MixedStep
from tools.quantize.flatbuffer import finish, set_outputs
from tools.quantize.layers import CONVERSIONS, Step, read_steps
from tools.quantize.precision import apply_recipe
from tools.quantize.ranges import Range

_MIN_RUNS = 15
_PASSING = ("PAD", "MAX_POOL_2D", "RELU", "RESIZE_NEAREST_NEIGHBOR")  # output has the input's values

Tensors = Sequence[npt.NDArray[np.float32]]


def mixed_steps(
    float_model: bytes, ranges: Mapping[str, Range], worst: Sequence[LayerError], kept: int, tensors: Tensors
) -> tuple[bytes, tuple[MixedStep, ...]]:
    """Return the model with the `kept` worst layers in float, and what 0, 1, 2, 4 .. `kept` of them cost and bring.

    `worst` are all layers of the int8 model as `layer_errors` sorts them, `tensors` (1, H, W, 3) what to measure on,
    at least one. A step's cosine is that of the output that agrees least, over all tensors.

    Raises:
        ModelError: LiteRT cannot run the result.
    """
    counts = [0, *(2**power for power in range(kept.bit_length()) if 2**power < kept), kept]
    wanted, _ = _run(float_model, tensors)
    content, steps = b"", []
    for count in sorted({min(count, len(worst)) for count in counts}):
        content = quantize_mixed(float_model, ranges, worst[:count])
        outputs, seconds = _run(content, tensors)
        cosine = min(float(np.corrcoef(wanted[name], outputs[name])[0, 1]) for name in wanted)
        names = tuple(layer.name for layer in worst[:count])
        steps.append(MixedStep(count, names, cosine, len(content) / 1e6, 1000 * seconds))
    return content, tuple(steps)


def quantize_mixed(float_model: bytes, ranges: Mapping[str, Range], kept: Sequence[LayerError]) -> bytes:
    """Return the int8 twin of a float model in which the layers `kept` stay float; `ranges` by tensor name."""
    manager = RecipeManager()
    manager.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    for name in float_layers(read_steps(float_model), kept):
        scope = f"^{re.escape(name)};?$"  # the quantizer ends each name by a semicolon
        manager.add_quantization_config(scope, TFLOperationName.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE)
    content = apply_recipe(float_model, ranges, manager.get_quantization_recipe())
    return _with_outputs_as_computed(float_model, content)


def _with_outputs_as_computed(float_model: bytes, content: bytes) -> bytes:
    """Return a mixed model whose outputs are what its layers compute, float or int8.

    litert-quantizer rounds a float output after all, and puts out an int8 one as float if a float layer reads it too.
    """
    computed = {step.name: step.output for step in read_steps(content) if step.operator not in CONVERSIONS}
    (graph,) = flatbuffer_utils.read_model_from_bytearray(bytearray(float_model)).subgraphs
    names = [graph.tensors[index].name.decode() for index in graph.outputs]
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    set_outputs(model, {name: computed[name] for name in names})
    return finish(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))


def float_layers(steps: Sequence[Step], kept: Sequence[LayerError]) -> list[str]:
    """Return the names of all layers that have to be float for the noise of those in `kept` to vanish.

    Where the integers of a layer's output make the noise, what reads the output has to take real numbers too.
    """
    reading = {layer.name for layer in kept if layer.rounding_noise > layer.added_noise / 2}
    chosen = {layer.name for layer in kept}
    read: set[int] = set()
    for step in steps:
        if read.intersection(step.inputs):
            chosen.add(step.name)
            if step.operator in _PASSING:
                reading.add(step.name)
        if step.name in reading:
            read.add(step.output)
    return [step.name for step in steps if step.name in chosen]


def _run(content: bytes, tensors: Tensors) -> tuple[dict[str, npt.NDArray[np.float32]], float]:
    """Return all outputs by name, over all tensors, and the median duration of one inference in seconds."""
    with contextlib.closing(TfliteBackend(content)) as backend:
        params = backend.input_params
        stored = [tensor if params is None else params.quantize(tensor) for tensor in tensors]
        backend.infer(stored[0])  # the first run allocates
        results, seconds = [], []
        for run in range(max(_MIN_RUNS, len(stored))):
            started_s = time.perf_counter()
            results.append(backend.infer(stored[run % len(stored)]))
            seconds.append(time.perf_counter() - started_s)
    outputs = {
        name: np.concatenate([result[name].dequantized().ravel() for result in results[: len(stored)]])
        for name in results[0]
    }
    return outputs, statistics.median(seconds)
