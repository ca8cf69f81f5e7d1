from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.tracking.flow import LUMA_SIDE, MAX_OBJECTS, Luma, displacements, to_luma

Floats = npt.NDArray[np.float64]
SIZE_WH = (320, 180)


def texture(size_wh: tuple[int, int], seed: int, coarse: float = 1.5) -> npt.NDArray[np.float32]:
    """Return blurred noise from 0 to 255, without structure finer than sampling can shift."""
    noise = np.random.default_rng(seed).normal(size=size_wh[::-1]).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), coarse)
    return np.clip(128 + 45 * blurred / blurred.std(), 0, 255).astype(np.float32)


def picture(boxes: Floats, shifts_xy: Floats, seed: int = 1) -> Luma:
    """Return a textured background with a textured patch at each box (N, 4), shifted by parts of pixels.

    Those that come later lie in front.
    """
    drawn = texture(SIZE_WH, seed)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        shift_x, shift_y = shifts_xy[number]
        patch_wh = round(x2 - x1), round(y2 - y1)
        to_place = np.array([[1, 0, x1 + shift_x], [0, 1, y1 + shift_y]], np.float32)
        patch = cv2.warpAffine(texture(patch_wh, 100 + number), to_place, SIZE_WH)
        cover = cv2.warpAffine(np.ones(patch_wh[::-1], np.float32), to_place, SIZE_WH)
        drawn = drawn * (1 - cover) + patch * cover
    return np.rint(drawn).astype(np.uint8)


def measured(boxes: Floats, shifts_xy: Floats, expected_xy: Floats | None = None) -> Floats:
    before, now = picture(boxes, np.zeros_like(shifts_xy)), picture(boxes, shifts_xy)
    return displacements(before, now, boxes, np.zeros_like(shifts_xy) if expected_xy is None else expected_xy)


BOXES = np.array([[30.0, 20, 60, 80], [140, 90, 190, 130], [230, 30, 270, 110]])


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 2.5])
def test_patches_are_measured_to_a_part_of_a_pixel_without_expectation(factor: float) -> None:
    shifts_xy = np.array([[2.3, -0.8], [-1.7, 1.4], [0.45, 2.1]]) * factor
    np.testing.assert_allclose(measured(BOXES, shifts_xy), shifts_xy, atol=0.5)


def test_large_steps_are_measured_with_an_expectation_that_is_nearly_right() -> None:
    for shifts_xy in np.array([[[12.3, 7.2], [-14.6, 4.4], [-10.5, 9.1]], [[25.3, 14.2], [-31.6, 8.4], [-22.5, 26.1]]]):
        expected_xy = shifts_xy + np.array([[1.0, -1.0], [-1.5, 0.5], [1.0, 1.0]])
        moved = measured(BOXES, shifts_xy, expected_xy)
        told = np.isfinite(moved[:, 0])
        assert told.sum() >= 2  # the coarsest pictures of a pyramid may lose a small object on its long way
        np.testing.assert_allclose(moved[told], shifts_xy[told], atol=0.5)
    assert np.isnan(measured(BOXES, shifts_xy)).any()  # the expectation was needed


def test_wrong_expectation_gives_no_wrong_measurement() -> None:
    shifts_xy = np.array([[2.3, -0.8], [-1.7, 1.4], [0.45, 2.1]])
    moved = measured(BOXES, shifts_xy, shifts_xy + np.array([30.0, 20.0]))
    told = np.isfinite(moved[:, 0])
    np.testing.assert_allclose(moved[told], shifts_xy[told], atol=0.5)


def test_background_does_not_pull_on_a_patch_that_moves_over_it() -> None:
    shifts_xy = np.array([[6.0, 0.0]])
    loose = BOXES[:1] + np.array([-4.0, -4.0, 4.0, 4.0])  # a detector's box shows some background
    before, now = picture(BOXES[:1], np.zeros((1, 2))), picture(BOXES[:1], shifts_xy)
    np.testing.assert_allclose(displacements(before, now, loose, np.zeros((1, 2))), shifts_xy, atol=0.5)


def test_untextured_object_gives_no_measurement() -> None:
    before, now = (np.full(SIZE_WH[::-1], 90, np.uint8) for _ in range(2))
    cv2.rectangle(before, (100, 40), (180, 140), 200, -1)
    cv2.rectangle(now, (105, 40), (185, 140), 200, -1)
    assert np.isnan(displacements(before, now, np.array([[100.0, 40, 180, 140]]), np.zeros((1, 2)))).all()


def test_object_that_has_vanished_gives_no_wrong_measurement() -> None:
    before, now = picture(BOXES[:1], np.zeros((1, 2)), seed=1), texture(SIZE_WH, 77).astype(np.uint8)
    assert np.isnan(displacements(before, now, BOXES[:1], np.zeros((1, 2)))).all()


def test_covered_object_takes_no_motion_from_the_one_in_front() -> None:
    behind, front = [100.0, 40, 150, 120], [90.0, 35, 165, 140]
    boxes = np.array([behind, front])
    shifts_xy = np.array([[0.0, 0.0], [3.0, 0.0]])
    moved = measured(boxes, shifts_xy)
    np.testing.assert_allclose(moved[1], shifts_xy[1], atol=0.5)
    assert np.isnan(moved[0]).all()


def test_half_covered_object_is_measured_where_it_is_seen() -> None:
    behind, front = [100.0, 20, 140, 110], [90.0, 80, 165, 140]
    shifts_xy = np.array([[-1.5, 0.5], [3.0, 0.0]])
    np.testing.assert_allclose(measured(np.array([behind, front]), shifts_xy), shifts_xy, atol=0.5)
    assert np.allclose(measured(np.array([behind, front])[:1], shifts_xy[:1]), shifts_xy[:1], atol=0.5)


def test_objects_outside_of_the_picture_give_no_measurement_and_spoil_no_other() -> None:
    outside = np.array([[-90.0, 20, -50, 80], [400, 20, 440, 80], [100, 300, 140, 380], [1e6, 1e6, 2e6, 2e6]])
    boxes = np.concatenate([outside, BOXES[:1]])
    before, now = picture(BOXES[:1], np.zeros((1, 2))), picture(BOXES[:1], np.array([[2.0, 1.0]]))
    moved = displacements(before, now, boxes, np.zeros((5, 2)))
    assert np.isnan(moved[:4]).all()
    np.testing.assert_allclose(moved[4], [2.0, 1.0], atol=0.5)


def test_object_that_is_half_outside_is_measured_by_what_is_seen() -> None:
    box = np.array([[-25.0, 40, 35, 120]])
    shifts_xy = np.array([[1.6, -1.2]])
    np.testing.assert_allclose(measured(box, shifts_xy), shifts_xy, atol=0.5)


def test_no_object_gives_no_row() -> None:
    luma = texture(SIZE_WH, 3).astype(np.uint8)
    assert displacements(luma, luma, np.zeros((0, 4)), np.zeros((0, 2))).shape == (0, 2)


def test_more_objects_than_there_is_time_for_are_left_to_their_speeds() -> None:
    luma = texture(SIZE_WH, 3, coarse=1.0).astype(np.uint8)
    count = MAX_OBJECTS + 20
    columns, rows = np.arange(count) % 14, np.arange(count) // 14
    boxes = np.stack([5 + 22.0 * columns, 3 + 24.0 * rows, 25 + 22.0 * columns, 25 + 24.0 * rows], axis=1)
    moved = displacements(luma, luma, boxes, np.zeros((count, 2)))
    assert moved.shape == (count, 2)
    np.testing.assert_allclose(moved[:MAX_OBJECTS], 0, atol=0.1)
    assert np.isnan(moved[MAX_OBJECTS:]).all()


@pytest.mark.parametrize("shape", [(1, 200), (200, 1), (2, 3), (3, 300), (5, 5), (1, 1), (17, 31)])
def test_tiny_pictures_are_no_error(shape: tuple[int, int]) -> None:
    luma = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    height, width = shape
    moved = displacements(luma, luma, np.array([[0.0, 0, width, height]]), np.zeros((1, 2)))
    assert moved.shape == (1, 2)
    assert np.isnan(moved).all() or np.abs(moved).max() < 0.5


def test_box_without_extent_is_no_error() -> None:
    luma = texture(SIZE_WH, 3).astype(np.uint8)
    moved = displacements(luma, luma, np.array([[50.0, 50, 50, 50]]), np.zeros((1, 2)))
    assert np.isnan(moved).all() or np.abs(moved).max() < 0.1


def test_nothing_is_written_into() -> None:
    before, now = picture(BOXES, np.zeros((3, 2))), picture(BOXES, np.ones((3, 2)))
    arguments = before, now, BOXES.copy(), np.ones((3, 2))
    copies = [argument.copy() for argument in arguments]
    displacements(*arguments)
    for argument, copy in zip(arguments, copies, strict=True):
        np.testing.assert_array_equal(argument, copy)


# The small picture.


@pytest.mark.parametrize(
    ("size_wh", "small_wh"),
    [
        ((1280, 720), (320, 180)),
        ((1920, 1080), (320, 180)),
        ((480, 640), (240, 320)),
        ((333, 251), (320, 241)),
        ((640, 1), (320, 1)),
        ((1, 5000), (1, 320)),
        ((160, 120), (160, 120)),
        ((1, 1), (1, 1)),
    ],
)
def test_longer_side_is_bounded_and_the_shape_stays(size_wh: tuple[int, int], small_wh: tuple[int, int]) -> None:
    assert LUMA_SIDE == 320
    luma = to_luma(np.full((size_wh[1], size_wh[0], 3), 77, np.uint8))
    assert luma.shape == small_wh[::-1]
    assert luma.dtype == np.uint8
    assert np.abs(luma.astype(int) - 77).max() <= 1


def test_luma_weighs_red_green_and_blue_as_bt_601_says() -> None:
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, [0, 1, 2], [0, 1, 2]] = 255
    np.testing.assert_allclose(to_luma(image)[0], [0.299 * 255, 0.587 * 255, 0.114 * 255], atol=1)


def test_small_picture_shows_the_mean_of_what_it_covers() -> None:
    image = np.zeros((720, 1280, 3), np.uint8)
    image[:, ::2] = 200  # stripes of one pixel
    np.testing.assert_allclose(to_luma(image), 100, atol=2)


def test_picture_itself_is_not_handed_out() -> None:
    image = np.full((90, 160, 3), 50, np.uint8)
    luma = to_luma(image)
    image[:] = 200
    assert (luma == 50).all()
