from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_detector.manifest import InputSpec
from edge_detector.preprocess.letterbox import letterbox
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.quantization import QuantizationParams

IMAGENET_MEAN = (123.68, 116.779, 103.939)
# All 256 values in each channel, the channels unlike each other.
ALL_VALUES = np.stack([np.arange(256), np.arange(256)[::-1], (np.arange(256) * 7) % 256], axis=-1)
PIXELS = ALL_VALUES.reshape(16, 16, 3).astype(np.uint8)


def directly(
    pixels: npt.NDArray[np.uint8], spec: InputSpec, params: QuantizationParams | None
) -> npt.NDArray[np.float64]:
    """Return what the tensor must hold, computed pixel by pixel in double precision, not yet rounded."""
    values = (pixels.astype(np.float64) - spec.mean) / spec.std
    if spec.color == "bgr":
        values = values[..., ::-1]
    if params is None:
        return values[None]
    limits = np.iinfo(params.dtype)
    return np.clip(values / params.scale + params.zero_point, limits.min, limits.max)[None]


@settings(deadline=None)
@given(
    mean=st.tuples(*[st.floats(0, 255)] * 3),
    std=st.tuples(*[st.floats(0.1, 255)] * 3),
    color=st.sampled_from(["rgb", "bgr"]),
    quantization=st.none()
    | st.tuples(st.floats(1e-3, 2), st.integers(-128, 255), st.sampled_from([np.int8, np.uint8, np.int16])),
)
def test_tensor_equals_the_direct_computation(
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    color: Any,
    quantization: tuple[float, int, type[Any]] | None,
) -> None:
    spec = InputSpec(width=16, height=16, mean=mean, std=std, color=color)
    params = None if quantization is None else QuantizationParams(*quantization[:2], np.dtype(quantization[2]))
    tensor = Normalizer(spec, params)(PIXELS)
    assert tensor.shape == (1, 16, 16, 3)
    assert tensor.dtype == (np.float32 if params is None else params.dtype)
    assert tensor.flags.c_contiguous
    expected = directly(PIXELS, spec, params)
    if params is None:
        np.testing.assert_allclose(tensor, expected, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_allclose(tensor, expected, rtol=0, atol=0.5 + 1e-6)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "mean", "std", "kept_or_shifted"),
    [
        (np.uint8, 1.0, 0, 0.0, 1.0, True),  # pixels are the integers
        (np.int8, 1.0, -128, 0.0, 1.0, True),  # minus 128
        (np.uint8, 1 / 127.5, 128, 127.5, 127.5, False),  # MobileNet: nearly the pixels, not quite
        (np.uint8, 1 / 128, 128, 128.0, 128.0, True),
        (np.int8, 1.0, -127, 0.0, 1.0, False),  # saturates at 255
        (np.uint8, 1.0, 128, 0.0, 1.0, False),  # saturates from 128 on
        (np.uint8, 0.5, 0, 0.0, 1.0, False),
    ],
)
def test_tables_that_need_no_look_up_give_what_the_table_gives(
    color: Any, dtype: type[Any], scale: float, zero_point: int, mean: float, std: float, kept_or_shifted: bool
) -> None:
    spec = InputSpec(width=16, height=16, mean=(mean,) * 3, std=(std,) * 3, color=color)
    params = QuantizationParams(scale, zero_point, np.dtype(dtype))
    normalizer = Normalizer(spec, params)
    assert (normalizer._keeps_pixels or normalizer._subtracts_128) == kept_or_shifted
    expected = directly(PIXELS, spec, params)
    tensor = normalizer(PIXELS)
    assert tensor.dtype == dtype
    np.testing.assert_allclose(tensor, expected, rtol=0, atol=0.5)
    np.testing.assert_array_equal(normalizer(PIXELS.copy(), overwrite=True), tensor)
    np.testing.assert_array_equal(normalizer(PIXELS.copy()[:, ::-1], overwrite=True), normalizer(PIXELS[:, ::-1]))


def test_pixels_of_the_zoo_model_are_rounded_and_saturated() -> None:
    # Its input range is -123.68..151.06; a scale that is a little too small saturates at both ends.
    spec = InputSpec(width=16, height=16, mean=IMAGENET_MEAN)
    tensor = Normalizer(spec, QuantizationParams(1.0, -13, np.dtype(np.int8)))(PIXELS)
    assert (tensor.min(), tensor.max()) == (-128, 127)
    red = tensor[0, ..., 0].ravel()  # its pixels are 0..255
    assert red[[0, 8, 9, 124, 255]].tolist() == [-128, -128, -128, -13, 118]
    assert (np.diff(red.astype(int)) >= 0).all()


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_pixels_are_not_written_to(color: Any) -> None:
    pixels = PIXELS.copy()
    pixels.flags.writeable = False
    for params in (
        None,
        QuantizationParams(1.0, -128, np.dtype(np.int8)),
        QuantizationParams(0.5, 0, np.dtype(np.int8)),
    ):
        Normalizer(InputSpec(width=16, height=16, color=color), params)(pixels)
    np.testing.assert_array_equal(pixels, PIXELS)


@pytest.mark.parametrize("params", [None, QuantizationParams(1.0, -128, np.dtype(np.int8))])
def test_prepare_letterboxes_and_normalizes(params: QuantizationParams | None) -> None:
    image = np.random.default_rng(1).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    image.flags.writeable = False
    spec = InputSpec(width=64, height=96, mean=(0.0, 0.0, 0.0), fill=(10, 20, 30))
    tensor, transform = prepare(image, Normalizer(spec, params))
    canvas, expected_transform = letterbox(image, spec)
    assert transform == expected_transform
    assert (tensor.shape, tensor.dtype) == ((1, 96, 64, 3), np.int8 if params else np.float32)
    np.testing.assert_array_equal(tensor[0].astype(int), canvas.astype(int) - (128 if params else 0))
