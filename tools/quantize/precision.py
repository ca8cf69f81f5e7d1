"""Float .tflite and ranges -> the same model in another number format, by litert-quantizer; weights per channel."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from enum import Enum

import numpy as np
from ai_edge_litert.tools import flatbuffer_utils
from litert_quantizer import quantizer, recipe
from litert_quantizer.qtyping import ModelQuantizationRecipe, TFLOperationName
from litert_quantizer.recipe_manager import AlgorithmName, RecipeManager

from edge_detector.errors import ModelError
from edge_detector.manifest import InputSpec
from tools.quantize.calibrate import Histogram
from tools.quantize.flatbuffer import finish, is_all_integer
from tools.quantize.ranges import Range, RangeMethod, choose_range


class Precision(str, Enum):
    """Number format of a model.

    INT8: all integers. INT16X8: activations of 16 bits, weights of 8; neither LiteRT nor tflite-runtime has fast
    kernels for it, 40 times slower than float32 was measured. FLOAT16: weights stored as float16, computed in float32:
    half the size of float32, as fast.
    """

    INT8 = "int8"
    INT16X8 = "int16x8"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


def activation_ranges(
    histograms: Mapping[str, Histogram],
    spec: InputSpec,
    outputs: tuple[str, ...],
    method: RangeMethod,
    percentile: float,
    precision: Precision = Precision.INT8,
) -> dict[str, Range]:
    """Return the range of each activation by tensor name; `histograms` as `collect` returns them, the input's first.

    The input always covers all pixels, and outputs all observed values: a detection is a rare, great value. So do all
    activations of 16 bits, which have steps enough.
    """
    whole = {*histograms} if precision is Precision.INT16X8 else {*outputs}
    ranges = {
        name: choose_range(histogram, RangeMethod.MINMAX if name in whole else method, percentile)
        for name, histogram in histograms.items()
    }
    return ranges | {next(iter(histograms)): input_range(spec)}


def input_range(spec: InputSpec) -> Range:
    """Return the least and greatest input value, 0 between them; (0, 255) where pixels go in as they are."""
    ends = [(pixel - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True) for pixel in (0, 255)]
    return min(0.0, *ends), max(0.0, *ends)


def quantize(float_model: bytes, ranges: Mapping[str, Range], precision: Precision = Precision.INT8) -> bytes:
    """Return a float model in another number format.

    `ranges` by tensor name, of all activations; int8 and int16x8 need them. Input and outputs have the type of the
    activations.

    Raises:
        ModelError: real numbers are left in an integer model.
    """
    if precision is Precision.FLOAT32:
        return float_model
    if precision is Precision.FLOAT16:
        return apply_recipe(float_model, {}, _float16_weights())
    integers = {Precision.INT8: recipe.static_wi8_ai8, Precision.INT16X8: recipe.static_wi8_ai16}[precision]()
    content = apply_recipe(float_model, ranges, integers)
    if not is_all_integer(flatbuffer_utils.read_model_from_bytearray(bytearray(content))):
        raise ModelError("the quantizer left real numbers in the model; use the litert-quantizer version of setup.cfg")
    return content


def apply_recipe(float_model: bytes, ranges: Mapping[str, Range], model_recipe: ModelQuantizationRecipe) -> bytes:
    """Return what litert-quantizer makes of a float model, in its final form."""
    statistics = {
        name: {"min": np.full((1, 1, 1, 1), low, np.float32), "max": np.full((1, 1, 1, 1), high, np.float32)}
        for name, (low, high) in ranges.items()
    }
    worker = quantizer.Quantizer(bytearray(float_model), model_recipe)
    # It draws a progress bar of milliseconds whatever it is told, and is warned of its own debugging interpreter.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = worker.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    return finish(bytes(result.quantized_model))


def _float16_weights() -> ModelQuantizationRecipe:
    manager = RecipeManager()
    manager.add_weight_only_config(".*", TFLOperationName.CONV_2D, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    return manager.get_quantization_recipe()
