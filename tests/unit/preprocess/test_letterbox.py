from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_detector.errors import SourceError
from edge_detector.manifest import InputSpec
from edge_detector.preprocess.letterbox import letterbox

SIDES = st.one_of(st.integers(1, 80), st.sampled_from([1, 2, 320, 999]))
SPECS = st.builds(
    InputSpec,
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    resize=st.sampled_from(["letterbox", "stretch"]),
    placement=st.sampled_from(["center", "top_left"]),
    interpolation=st.sampled_from(["bilinear", "bilinear_legacy"]),
)


def plain(width: int, height: int, value: int | tuple[int, int, int] = 200) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def noise(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- geometry ---


@settings(deadline=None)
@given(SIDES, SIDES, SPECS)
def test_picture_and_bars_lie_exactly_where_the_transform_says(width: int, height: int, spec: InputSpec) -> None:
    canvas, transform = letterbox(plain(width, height, 200), spec)
    assert (canvas.shape, canvas.dtype) == ((spec.height, spec.width, 3), np.uint8)
    left, top, right, bottom = transform.to_canvas(np.array([[0, 0, width, height]], np.float32))[0]
    expected = plain(spec.width, spec.height, spec.fill)
    expected[round(top) : round(bottom), round(left) : round(right)] = 200
    np.testing.assert_array_equal(canvas, expected)
    np.testing.assert_allclose([left, top, right, bottom], np.rint([left, top, right, bottom]), atol=1e-3)


@settings(deadline=None)
@given(SIDES, SIDES, SPECS, st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5))
def test_to_source_inverts_to_canvas(
    width: int, height: int, spec: InputSpec, fractions: list[tuple[float, float, float, float]]
) -> None:
    _, transform = letterbox(plain(width, height), spec)
    xyxy = (np.array(fractions) * [width, height, width, height]).astype(np.float32)
    np.testing.assert_allclose(
        transform.to_source(transform.to_canvas(xyxy)), xyxy, rtol=1e-5, atol=1e-4 / min(transform.scale_xy)
    )


@settings(deadline=None)
@given(SIDES, SIDES, SPECS)
def test_letterbox_keeps_the_aspect_ratio_to_half_a_pixel_and_touches_the_canvas(
    width: int, height: int, spec: InputSpec
) -> None:
    _, transform = letterbox(plain(width, height), spec)
    resized = transform.scale_xy[0] * width, transform.scale_xy[1] * height
    if spec.resize == "stretch":
        assert resized == pytest.approx((spec.width, spec.height))
        return
    scale = min(spec.width / width, spec.height / height)
    for side, exact in zip(resized, (width * scale, height * scale), strict=True):
        assert abs(side - exact) <= 0.5 + 1e-9 or (round(side) == 1 and exact < 0.5)
    assert math.isclose(resized[0], spec.width) or math.isclose(resized[1], spec.height)


@pytest.mark.parametrize(
    ("source_wh", "scale_xy", "pad_xy"),
    [
        ((1280, 720), (0.5, 0.5), (0, 140)),
        ((1001, 333), (640 / 1001, 213 / 333), (0, 213)),  # 212.9 rows: the true scale is that of 213
        ((333, 1001), (213 / 333, 640 / 1001), (213, 0)),
        ((1, 1), (640.0, 640.0), (0, 0)),
        ((5000, 1), (640 / 5000, 1.0), (0, 319)),  # 0.1 rows: at least one
    ],
)
def test_scale_is_the_true_one_per_axis(
    source_wh: tuple[int, int], scale_xy: tuple[float, float], pad_xy: tuple[int, int]
) -> None:
    _, transform = letterbox(plain(*source_wh), InputSpec(width=640, height=640))
    assert transform.scale_xy == pytest.approx(scale_xy, rel=1e-12)
    assert transform.pad_xy == pad_xy
    assert transform.source_wh == source_wh


def test_boxes_that_reach_into_the_bars_are_clipped_to_the_picture() -> None:
    _, transform = letterbox(plain(200, 100), InputSpec(width=100, height=100))
    boxes = np.array([[-5, -5, 105, 105], [10, 0, 20, 20]], np.float32)
    assert transform.to_source(boxes).tolist() == [[0, 0, 200, 100], [20, 0, 40, 0]]
    assert transform.to_source(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert transform.to_source(boxes).dtype == np.float32


def test_an_object_is_found_where_its_box_says() -> None:
    image = plain(400, 300, 0)
    image[60:180, 120:280] = 255
    canvas, transform = letterbox(image, InputSpec(width=256, height=320, fill=(0, 0, 0)))
    rows, columns = np.nonzero(canvas[..., 0] > 127)
    seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(transform.to_source(seen), [[120, 60, 280, 180]], atol=1)


def test_the_canvas_is_never_the_picture_itself() -> None:
    image = noise(64, 64)
    canvas, _ = letterbox(image, InputSpec(width=64, height=64))
    np.testing.assert_array_equal(canvas, image)
    assert not np.shares_memory(canvas, image)


def test_fill_has_the_colour_order_of_the_picture() -> None:
    canvas, _ = letterbox(plain(20, 10), InputSpec(width=20, height=20, fill=(1, 2, 3)))
    assert canvas[0, 0].tolist() == canvas[-1, -1].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 30), np.uint8),
        np.zeros((20, 30, 1), np.uint8),
        np.zeros((20, 30, 4), np.uint8),
        np.zeros((20, 30, 3), np.float32),
        np.zeros((20, 30, 3), np.uint16),
        np.zeros((0, 30, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_picture_is_refused(image: npt.NDArray[np.uint8]) -> None:
    for interpolation in ("bilinear", "bilinear_legacy"):
        spec = InputSpec(width=32, height=32, interpolation=interpolation)
        with pytest.raises(SourceError, match=r"wanted uint8 \[height, width, 3\]: RGB"):
            letterbox(image, spec)


# --- interpolation ---


def test_shrinking_takes_the_mean_of_what_a_pixel_covers() -> None:
    image = noise(80, 40)
    canvas, _ = letterbox(image, InputSpec(width=20, height=20, resize="stretch"))
    means = image.reshape(20, 2, 20, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(canvas, means, atol=1.0)


def test_enlarging_is_bilinear_with_half_pixel_centres() -> None:
    image = noise(9, 7)
    canvas, _ = letterbox(image, InputSpec(width=23, height=19, resize="stretch"))
    np.testing.assert_allclose(canvas, naive_bilinear(image, 23, 19, half_pixel_centers=True), atol=1.01)


@settings(deadline=None, max_examples=40)
@given(*[st.integers(1, 14)] * 4, st.integers(0, 9))
def test_legacy_interpolation_equals_tensorflow_1(
    source_w: int, source_h: int, width: int, height: int, seed: int
) -> None:
    image = noise(source_w, source_h, seed)
    spec = InputSpec(width=width, height=height, resize="stretch", interpolation="bilinear_legacy")
    canvas, _ = letterbox(image, spec)
    expected = naive_bilinear(image, width, height, half_pixel_centers=False)
    np.testing.assert_allclose(canvas, expected, atol=0.501)


def naive_bilinear(
    image: npt.NDArray[np.uint8], width: int, height: int, half_pixel_centers: bool
) -> npt.NDArray[np.float64]:
    source_h, source_w = image.shape[:2]
    shift = 0.5 if half_pixel_centers else 0.0
    result = np.zeros((height, width, 3))
    for row in range(height):
        y = max(0.0, (row + shift) * source_h / height - shift)
        for column in range(width):
            x = max(0.0, (column + shift) * source_w / width - shift)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, source_h - 1), min(x0 + 1, source_w - 1)
            top = (1 - (x - x0)) * image[y0, x0] + (x - x0) * image[y0, x1].astype(float)
            bottom = (1 - (x - x0)) * image[y1, x0] + (x - x0) * image[y1, x1].astype(float)
            result[row, column] = (1 - (y - y0)) * top + (y - y0) * bottom
    return result
