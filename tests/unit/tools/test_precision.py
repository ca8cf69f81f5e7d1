# ruff: noqa: E402 - what needs TensorFlow is imported only where it is installed
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

keras = pytest.importorskip("keras", reason="needs Keras: pip install 'edge-detector[convert]'")
pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")
pytest.importorskip("litert_quantizer", reason="needs litert-quantizer: pip install 'edge-detector[convert]'")

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from edge_detector.manifest import InputSpec
from edge_detector.preprocess.normalize import Normalizer
from tests.unit.tools.small_networks import SIDE, SPEC, five_convolutions, photos, ranges_of
from tools.quantize.calibrate import Histogram
from tools.quantize.export import export_keras
from tools.quantize.precision import Precision, activation_ranges, input_range, quantize
from tools.quantize.ranges import RangeMethod

LEAST_COSINE = {Precision.INT8: 0.999, Precision.INT16X8: 0.9998, Precision.FLOAT16: 1 - 1e-6, Precision.FLOAT32: 1.0}
IMAGENET = InputSpec(width=SIDE, height=SIDE, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


@pytest.fixture(scope="module")
def content() -> bytes:
    return five_convolutions()


def run(model: bytes) -> npt.NDArray[np.float32]:
    """Return the outputs of photos as the runtime computes them."""
    backend = TfliteBackend(model, 1)
    normalizer = Normalizer(SPEC, backend.input_params)
    return np.concatenate([backend.infer(normalizer(photo))["end"].dequantized() for photo in photos(4, 2)])


@pytest.mark.parametrize("precision", list(Precision))
def test_every_format_computes_what_float_computes(content: bytes, precision: Precision) -> None:
    model = quantize(content, ranges_of(content, precision), precision)
    cosine = np.corrcoef(run(content).ravel(), run(model).ravel())[0, 1]
    assert cosine >= LEAST_COSINE[precision] - 1e-12


def test_16_bits_are_better_than_8(content: bytes) -> None:
    noise = {
        precision: float(
            np.square(run(quantize(content, ranges_of(content, precision), precision)) - run(content)).sum()
        )
        for precision in (Precision.INT8, Precision.INT16X8)
    }
    assert noise[Precision.INT16X8] < noise[Precision.INT8] / 2


def test_input_and_output_types(content: bytes) -> None:
    types = {
        precision: (params.dtype, params.scale, params.zero_point)
        for precision in (Precision.INT8, Precision.INT16X8)
        if (params := TfliteBackend(quantize(content, ranges_of(content, precision), precision)).input_params)
    }
    assert types[Precision.INT8] == (np.int8, 1.0, -128)
    assert types[Precision.INT16X8] == (np.int16, pytest.approx(255 / 32767), 0)
    for precision in (Precision.FLOAT16, Precision.FLOAT32):
        assert TfliteBackend(quantize(content, {}, precision)).input_params is None


def test_float16_is_half_the_size_and_float32_is_left_alone(content: bytes) -> None:
    weights = 4 * 9 * 8 * (3 + 8 * 4)
    saved = len(content) - len(quantize(content, {}, Precision.FLOAT16))
    assert weights / 2 - 2500 < saved <= weights / 2  # five more operators
    assert quantize(content, {}, Precision.FLOAT32) == content


def test_layers_that_stay_float_are_refused() -> None:
    source = keras.Input((SIDE, SIDE, 3), batch_size=1)
    clipped: Any = keras.layers.ReLU(max_value=6)(source)  # litert-quantizer knows no RELU6
    model = export_keras(keras.Model(source, {"end": keras.layers.Conv2D(4, 3)(clipped)}))
    with pytest.raises(ModelError, match="real numbers"):
        quantize(model, ranges_of(model))


def test_the_input_covers_what_pixels_can_be() -> None:
    assert input_range(SPEC) == (0, 255)
    pixels = (np.array([[0.0], [255.0]]) - IMAGENET.mean) / IMAGENET.std
    assert input_range(IMAGENET) == pytest.approx((pixels.min(), pixels.max()))
    assert input_range(InputSpec(width=32, height=32, mean=(-50.0,) * 3)) == (0, 305)  # 0 has to be representable


def test_outputs_and_all_of_16_bits_keep_their_greatest_values() -> None:
    histogram = Histogram()
    histogram.add(np.append(np.maximum(np.random.default_rng(1).normal(0, 1, 10_000), 0), 60).astype(np.float32))
    histograms = {"image": histogram, "inside": histogram, "end": histogram}
    narrow = activation_ranges(histograms, IMAGENET, ("end",), RangeMethod.PERCENTILE, 99.9)
    assert narrow["image"] == input_range(IMAGENET)
    assert narrow["inside"][1] < 10
    assert narrow["end"] == (0, 60)
    wide = activation_ranges(histograms, IMAGENET, ("end",), RangeMethod.PERCENTILE, 99.9, Precision.INT16X8)
    assert wide["inside"] == (0, 60)
