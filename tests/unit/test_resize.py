from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_detector.resize import resize


def noise(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=60)
@example(8, 6, 8, 6, False)
@given(*[st.integers(1, 70)] * 4, st.booleans())
def test_any_size_becomes_any_other_and_one_colour_stays_what_it_is(
    width: int, height: int, new_width: int, new_height: int, grey: bool
) -> None:
    image = np.full((height, width, 3)[: 2 if grey else 3], 77, np.uint8)
    resized = resize(image, (new_width, new_height))
    assert (resized.shape[:2], resized.ndim) == ((new_height, new_width), image.ndim)
    assert (resized == 77).all()
    assert not np.shares_memory(resized, image)


@pytest.mark.parametrize("times", [2, 4, 8])
def test_a_half_a_quarter_and_an_eighth_are_means(times: int) -> None:
    image = noise(64, 32)
    means = image.reshape(32 // times, times, 64 // times, times, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resize(image, (64 // times, 32 // times)), means, atol=1.5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "to",
    [(1280, 320), (1920, 320), (2304, 320), (768, 320), (1280, 416), (1640, 416), (1600, 416), (1920, 640), (427, 214)],
)
def test_a_line_of_one_pixel_is_nowhere_lost(to: tuple[int, int], axis: int) -> None:
    side, new_side = to
    for position in range(64):
        image = np.zeros((side, 8), np.uint8)
        image[position] = 255
        image, size_wh = (image, (8, new_side)) if axis == 0 else (np.ascontiguousarray(image.T), (new_side, 8))
        assert resize(image, size_wh).max() > 255 * new_side / side / 3


def test_enlarging_is_bilinear_with_half_pixel_centres() -> None:
    row = resize(np.array([[0, 100]], np.uint8), (4, 1))
    assert row.tolist() == [[0, 25, 75, 100]]


@pytest.mark.parametrize("source_wh", [(60, 40), (24, 20), (12, 10), (7, 3)])
def test_a_part_of_a_larger_picture_is_written_in_place(source_wh: tuple[int, int]) -> None:
    image, canvas = noise(*source_wh), np.full((16, 20, 3), 9, np.uint8)
    resize(image, (12, 10), canvas[3:13, 4:16])
    np.testing.assert_array_equal(canvas[3:13, 4:16], resize(image, (12, 10)))
    canvas[3:13, 4:16] = 9
    assert (canvas == 9).all()
