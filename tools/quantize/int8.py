"""Float .tflite and ranges -> full int8 .tflite, weights per channel, by litert-quantizer."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping

import numpy as np
from ai_edge_litert.tools import flatbuffer_utils
from litert_quantizer import quantizer, recipe

from edge_detector.errors import ModelError
from tools.quantize.calibrate import Histogram
from tools.quantize.flatbuffer import finish, is_all_integer
from tools.quantize.ranges import Range, RangeMethod, choose_range

PIXELS: Range = (0.0, 255.0)  # scale 1, zero point -128: the int8 input is pixel - 128


def activation_ranges(
    histograms: Mapping[str, Histogram],
    input_name: str,
    outputs: tuple[str, ...],
    method: RangeMethod,
    percentile: float,
) -> dict[str, Range]:
    """Return the range of each activation by tensor name.

    The input always covers all pixels, and outputs all observed values: a detection is a rare, great value.
    """
    ranges = {
        name: choose_range(histogram, RangeMethod.MINMAX if name in outputs else method, percentile)
        for name, histogram in histograms.items()
    }
    return ranges | {input_name: PIXELS}


def quantize(float_model: bytes, ranges: Mapping[str, Range]) -> bytes:
    """Return the all-integer twin of a float model, int8 in and out; `ranges` by tensor name.

    Raises:
        ModelError: real numbers are left in it.
    """
    statistics = {
        name: {"min": np.full((1, 1, 1, 1), low, np.float32), "max": np.full((1, 1, 1, 1), high, np.float32)}
        for name, (low, high) in ranges.items()
    }
    worker = quantizer.Quantizer(bytearray(float_model), recipe.static_wi8_ai8())
    # It draws a progress bar of milliseconds whatever it is told, and is warned of its own debugging interpreter.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = worker.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    content = finish(bytes(result.quantized_model))
    if not is_all_integer(flatbuffer_utils.read_model_from_bytearray(bytearray(content))):
        raise ModelError("the quantizer left real numbers in the model; use the litert-quantizer version of setup.cfg")
    return content
