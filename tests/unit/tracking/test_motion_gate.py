from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.tracking.flow import Luma
from edge_detector.tracking.motion_gate import MotionGate, Movement

Floats = npt.NDArray[np.float64]
SIZE_WH = (320, 180)
FPS = 10.0
FEW = 0.05  # part of the pictures that may wake it where nothing happens


def scene(seed: int = 0) -> Floats:
    """Return a yard: surfaces of several brightnesses with some texture, from 20 to 210."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(40, 190, (6, 9)), SIZE_WH, interpolation=cv2.INTER_NEAREST)
    return np.clip(coarse + cv2.GaussianBlur(rng.normal(0, 20, SIZE_WH[::-1]), (0, 0), 1.0), 20, 210)


def camera(picture: Floats, rng: np.random.Generator, noise: float = 2.0) -> Luma:
    """Return the picture as a sensor gives it."""
    return np.clip(np.rint(picture + rng.normal(0, noise, picture.shape)), 0, 255).astype(np.uint8)


def watch(gate: MotionGate, pictures: Iterable[Luma], start_s: float = 0.0) -> list[Movement]:
    return [gate.look(picture, start_s + number / FPS) for number, picture in enumerate(pictures)]


def used_to(picture: Floats, seconds: float = 5.0, gate: MotionGate | None = None) -> MotionGate:
    """Return a gate that has seen this for some seconds, up to second 0."""
    gate, rng = gate or MotionGate(), np.random.default_rng(9)
    watch(gate, (camera(picture, rng) for _ in range(int(seconds * FPS))), -seconds)
    return gate


def part_awake(movements: list[Movement]) -> float:
    return sum(map(bool, movements)) / len(movements)


def with_object(
    picture: Floats, x: float, y: float = 60, shade: float = 250, size_wh: tuple[int, int] = (24, 50)
) -> Floats:
    drawn = picture.copy()
    x1, y1 = max(0, round(x)), round(y)
    drawn[y1 : y1 + size_wh[1], x1 : max(0, round(x) + size_wh[0])] = shade
    return drawn


def changing(seconds: float, picture_at: Callable[[float], Floats], noise: float = 2.0) -> list[Luma]:
    rng = np.random.default_rng(21)
    return [camera(picture_at(number / FPS), rng, noise) for number in range(int(seconds * FPS))]


# Nothing happens.


def test_first_picture_is_a_new_scene() -> None:
    movement = MotionGate().look(camera(scene(), np.random.default_rng(0)), 0.0)
    assert movement
    assert movement.new_scene
    assert movement.xyxy.shape == (0, 4)


@pytest.mark.parametrize("noise", [0.0, 2.0, 5.0])
def test_still_scene_does_not_wake_it_whatever_the_sensor_adds(noise: float) -> None:
    movements = watch(MotionGate(), changing(20, lambda at_s: scene(), noise))
    assert part_awake(movements[10:]) <= FEW


def test_still_picture_of_a_flat_wall_with_something_on_it_does_not_wake_it() -> None:
    picture = with_object(np.full(SIZE_WH[::-1], 96.0), 150)
    movements = watch(MotionGate(), changing(5, lambda at_s: picture, noise=0.0))
    assert not any(movements[1:])


@pytest.mark.parametrize("spread", [1.0, 3.0, 20.0])
def test_still_night_with_lamps_does_not_wake_it(spread: float) -> None:
    night = np.clip(16 + spread * (scene() - 110) / 60, 0, 255)
    night[40:60, 60:80] = 230
    night[100:110, 200:230] = 180
    movements = watch(MotionGate(), changing(30, lambda at_s: night, noise=1.0))
    assert part_awake(movements[10:]) <= FEW


@pytest.mark.parametrize("gain", [0.6, 1.3, 1.6])
def test_jump_of_the_exposure_does_not_wake_it(gain: float) -> None:
    movements = watch(used_to(scene()), changing(10, lambda at_s: np.clip(scene() * gain, 0, 255)))
    assert part_awake(movements) <= FEW


@pytest.mark.parametrize("factor", [0.3, 1.2])
def test_light_that_fades_does_not_wake_it(factor: float) -> None:
    movements = watch(used_to(scene()), changing(20, lambda at_s: scene() * (1 + (factor - 1) * at_s / 20)))
    assert part_awake(movements) <= FEW


def test_lamp_that_flickers_everywhere_does_not_wake_it() -> None:
    movements = watch(used_to(scene()), changing(15, lambda at_s: scene() * (1 + 0.08 * np.sin(40 * at_s))))
    assert part_awake(movements) <= FEW


def test_lamp_that_flickers_in_a_corner_is_learned() -> None:
    def lit(at_s: float) -> Floats:
        picture = scene()
        picture[:60, :80] += 25 * (round(at_s * FPS) % 2)
        return picture

    movements = watch(used_to(scene()), changing(40, lit))
    assert movements[1]
    assert part_awake(movements[-100:]) <= FEW


def test_rain_wakes_it_a_few_times_at_most() -> None:
    rng = np.random.default_rng(3)

    def rainy(at_s: float) -> Floats:
        picture = scene()
        for x, y in rng.integers((0, 0), SIZE_WH, (60, 2)).tolist():
            cv2.line(picture, (x, y), (x + 2, y + 14), float(picture[y, x] + 50), 1)
        return picture

    movements = watch(used_to(scene()), changing(30, rainy))
    assert part_awake(movements[-200:]) <= 2 * FEW


@pytest.mark.parametrize(
    "other_light",
    [lambda picture: 230 - picture, lambda picture: 0.5 * picture + 60, lambda picture: 1.7 * (picture - 110) + 110],
    ids=["inverted", "grey", "rich in contrast"],
)
def test_switch_to_infrared_wakes_it_for_a_moment(other_light: Callable[[Floats], Floats]) -> None:
    movements = watch(used_to(scene()), changing(15, lambda at_s: np.clip(other_light(scene()), 0, 255)))
    assert part_awake(movements[30:]) <= FEW
    assert sum(map(bool, movements)) <= 20


def test_camera_that_is_turned_sees_a_new_scene_once() -> None:
    movements = watch(used_to(scene()), changing(15, lambda at_s: scene(seed=5)))
    assert movements[0].new_scene
    assert sum(movement.new_scene for movement in movements) <= 3
    assert part_awake(movements[30:]) <= FEW


def test_camera_that_is_focusing_after_it_was_turned_sees_no_ghosts_for_long() -> None:
    def turned(at_s: float) -> Floats:
        picture = scene(seed=5) if at_s >= 0.6 else with_object(scene(seed=5), 150, size_wh=(60, 60))
        return cv2.GaussianBlur(picture, (0, 0), max(0.1, 5 - 8 * at_s))

    assert part_awake(watch(used_to(scene()), changing(12, turned))[30:]) <= FEW


def test_what_was_too_bright_for_a_while_is_known_again() -> None:
    def lit(at_s: float) -> Floats:
        picture = scene()
        picture[60:110, 150:180] = 160
        return np.clip(picture * (1.9 if 1 <= at_s < 30 else 1.0), 0, 255)

    usual = lit(0.0)
    movements = watch(used_to(usual), changing(35, lit))
    assert part_awake(movements[15:290]) <= FEW
    assert part_awake(movements[301:]) <= FEW


def test_leaves_in_the_wind_are_learned() -> None:
    rng = np.random.default_rng(6)

    def windy(at_s: float) -> Floats:
        picture = scene()
        leaves = cv2.GaussianBlur(rng.normal(0, 1, (60, 120)), (0, 0), 1.6)
        picture[20:80, 100:220] += 16 * leaves / leaves.std()
        return picture

    movements = watch(used_to(scene()), changing(40, windy))
    assert part_awake(movements[-150:]) <= 4 * FEW
    assert part_awake(movements[-150:]) < 0.5 * part_awake(movements[:30])


# Something happens.


@pytest.mark.parametrize("shade", [5.0, 250.0])
def test_object_is_seen_in_its_first_or_second_picture(shade: float) -> None:
    movements = watch(used_to(scene()), changing(0.5, lambda at_s: with_object(scene(), 150 + 20 * at_s, shade=shade)))
    assert any(movements[:2])
    assert part_awake(movements[1:]) == 1


def test_object_is_seen_as_it_enters_at_the_edge() -> None:
    movements = watch(used_to(scene()), changing(1, lambda at_s: with_object(scene(), -24 + 80 * at_s)))
    first = next(number for number, movement in enumerate(movements) if movement)
    assert -24 + 80 * first / FPS <= -24 + 80 * 0.2  # not later than 16 of its pixels are in the picture


def test_object_is_seen_while_the_light_changes_and_the_sensor_adds_noise() -> None:
    movements = watch(
        used_to(scene()), changing(3, lambda at_s: with_object(scene() * (1 + 0.05 * at_s), 100 + 30 * at_s), noise=4.0)
    )
    assert part_awake(movements) > 0.9


def test_boxes_lie_around_what_moves() -> None:
    def two(at_s: float) -> Floats:
        return with_object(with_object(scene(), 40 + 30 * at_s), 220 - 30 * at_s, 100, 5)

    for number, movement in enumerate(watch(used_to(scene()), changing(1, two))[1:], 1):
        boxes = movement.xyxy[np.argsort(movement.xyxy[:, 0])] * np.tile(SIZE_WH, 2)
        left, right = 40 + 30 * number / FPS, 220 - 30 * number / FPS
        assert len(boxes) == 2
        np.testing.assert_allclose(boxes, [[left, 60, left + 24, 110], [right, 100, right + 24, 150]], atol=8)


def test_boxes_lie_within_the_picture() -> None:
    movements = watch(used_to(scene()), changing(2, lambda at_s: with_object(scene(), -20 + 200 * at_s, 0)))
    boxes = np.concatenate([movement.xyxy for movement in movements])
    assert len(boxes)
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_lower_threshold_sees_what_differs_less() -> None:
    def faint(at_s: float) -> Floats:
        return np.where(with_object(np.zeros(SIZE_WH[::-1]), 150 + 30 * at_s) > 0, scene() + 18, scene())

    assert part_awake(watch(used_to(scene(), gate=MotionGate(threshold=8)), changing(1, faint, 1.0))) > 0.8
    assert part_awake(watch(used_to(scene(), gate=MotionGate(threshold=40)), changing(1, faint, 1.0))) == 0


def test_object_smaller_than_the_least_area_does_not_count() -> None:
    pictures = changing(1, lambda at_s: with_object(scene(), 150 + 30 * at_s))  # 0.02 of the picture
    assert part_awake(watch(used_to(scene(), gate=MotionGate(min_area=0.1)), pictures)) == 0
    assert part_awake(watch(used_to(scene(), gate=MotionGate(min_area=0.01)), pictures)) > 0.8


def test_what_moves_under_the_mask_does_not_count() -> None:
    mask = np.zeros((90, 160), bool)
    mask[:, 70:100] = True
    gate = used_to(scene(), gate=MotionGate(mask=mask))
    assert part_awake(watch(gate, changing(1, lambda at_s: with_object(scene(), 150 + 5 * at_s)))) == 0
    assert part_awake(watch(gate, changing(1, lambda at_s: with_object(scene(), 40 + 5 * at_s)), 1.0)) > 0.8


def test_object_that_stops_wakes_it_for_a_moment_and_so_does_its_leaving() -> None:
    gate = used_to(scene())
    movements = watch(gate, changing(30, lambda at_s: with_object(scene(), min(150, 60 * at_s))))
    assert part_awake(movements[2:25]) == 1
    assert not any(movements[40:])
    movements = watch(gate, changing(10, lambda at_s: scene()), 30.0)
    assert any(movements[:2])
    assert not any(movements[10:])


def test_object_that_stays_and_moves_in_its_place_keeps_it_awake_for_long() -> None:
    movements = watch(used_to(scene()), changing(20, lambda at_s: with_object(scene(), 150 + 8 * np.sin(4 * at_s))))
    awake_s = np.flatnonzero(list(map(bool, movements))) / FPS
    assert np.diff([0.0, *awake_s, 20.0]).max() < 2.0  # the default of hold_s


def test_place_that_an_object_passed_is_still_watched() -> None:
    gate = used_to(scene())
    watch(gate, changing(6, lambda at_s: with_object(scene(), 10 + 60 * at_s)))
    assert part_awake(watch(gate, changing(2, lambda at_s: scene()), 6.0)[5:]) <= 0.2
    assert part_awake(watch(gate, changing(1, lambda at_s: with_object(scene(), 150)), 8.0)) > 0.8


# Times and sizes.


def test_change_of_size_begins_anew() -> None:
    gate = used_to(scene())
    small = cv2.resize(scene(), (160, 120))
    movements = watch(gate, [camera(small, np.random.default_rng(number)) for number in range(20)])
    assert movements[0].new_scene
    assert not any(movements[5:])


def test_no_time_between_pictures_and_time_backwards_are_fine() -> None:
    rng = np.random.default_rng(0)
    gate = used_to(scene())
    for at_s in (0.0, 0.0, -3.0, 0.0, 0.1):
        assert not gate.look(camera(scene(), rng), at_s)
    assert gate.look(camera(with_object(scene(), 150), rng), 0.1)


def test_long_pause_is_fine() -> None:
    gate, rng = used_to(scene()), np.random.default_rng(0)
    assert not gate.look(camera(scene(), rng), 86400.0)
    assert gate.look(camera(with_object(scene(), 150), rng), 86400.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (7, 5), (241, 320)])
@pytest.mark.parametrize("shade", [0, 255])
def test_any_size_and_flat_pictures_are_no_error(shape: tuple[int, int], shade: int) -> None:
    movements = watch(MotionGate(mask=np.zeros((4, 4), bool)), [np.full(shape, shade, np.uint8)] * 5)
    assert [bool(movement) for movement in movements] == [True, False, False, False, False]


def test_pictures_are_not_written_to() -> None:
    picture = camera(with_object(scene(), 50), np.random.default_rng(0))
    before, gate = picture.copy(), used_to(scene())
    gate.look(picture, 0.0)
    gate.look(picture, 0.1)
    np.testing.assert_array_equal(picture, before)
