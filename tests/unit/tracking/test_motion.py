from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_detector.tracking.motion import Motion

Floats = npt.NDArray[np.float64]
START = np.array([[100.0, 100.0, 140.0, 180.0]])  # 40 x 80 pixels
SPEED_XY = np.array([30.0, -20.0])  # pixels per second
NOT_SEEN = np.full((1, 2), np.nan)

intervals_s = st.lists(st.floats(0.01, 1.5), min_size=1, max_size=12)


def box_at(at_s: float, speed_xy: Floats = SPEED_XY) -> Floats:
    return START + np.tile(speed_xy * at_s, 2)


def followed(times_s: Sequence[float], speed_xy: Floats = SPEED_XY) -> Motion:
    """Return the estimates after a detection at each of these times of one object that keeps its speed."""
    motion = Motion.first(box_at(times_s[0], speed_xy))
    for before_s, at_s in pairwise(times_s):
        motion = motion.after(at_s - before_s).corrected(np.array([0]), box_at(at_s, speed_xy))
    return motion


def parts(motion: Motion) -> list[Floats]:
    return [motion.place, motion.speed, motion.place_var, motion.both_var, motion.speed_var]


def copies(motion: Motion) -> list[Floats]:
    return [part.copy() for part in parts(motion)]


# Between detections.


def test_first_detection_is_where_the_object_is_and_it_stands() -> None:
    motion = Motion.first(START)
    np.testing.assert_allclose(motion.xyxy, START)
    np.testing.assert_allclose(motion.after(0.4).xyxy, START)


def test_constant_speed_is_found_and_gone_on_with() -> None:
    motion = followed(np.arange(0, 4, 0.2).tolist())
    np.testing.assert_allclose(motion.speed[0, :2], SPEED_XY, rtol=0.1)
    np.testing.assert_allclose(motion.speed[0, 2:], 0, atol=0.5)
    ahead = motion.after(0.5).xyxy
    np.testing.assert_allclose(ahead, box_at(3.8 + 0.5), atol=2.5)


def test_intervals_of_detections_do_not_matter_much_for_the_speed() -> None:
    rng = np.random.default_rng(4)
    irregular = np.cumsum(rng.uniform(0.02, 0.6, 20)).tolist()
    motion = followed(irregular)
    np.testing.assert_allclose(motion.speed[0, :2], SPEED_XY, rtol=0.12)
    np.testing.assert_allclose(motion.xyxy, box_at(irregular[-1]), atol=1.5)


@given(intervals_s)
def test_way_without_measurements_does_not_depend_on_how_it_is_cut(cuts_s: list[float]) -> None:
    start = followed([0, 0.3, 0.6, 0.9])
    once, stepwise = start.after(sum(cuts_s)), start
    for cut_s in cuts_s:
        stepwise = stepwise.after(cut_s)
    np.testing.assert_allclose(stepwise.place, once.place, rtol=1e-6)
    np.testing.assert_allclose(stepwise.speed, once.speed, rtol=1e-6, atol=1e-9)


def test_doubt_grows_with_time_and_falls_with_a_detection() -> None:
    motion = Motion.first(START)
    later = motion.after(0.5)
    assert (later.place_var > motion.place_var).all()
    assert (later.corrected(np.array([0]), START).place_var < later.place_var).all()


@pytest.mark.parametrize("dt_s", [0.0, -0.5])
def test_no_time_or_time_backwards_changes_nothing(dt_s: float) -> None:
    motion = followed([0, 0.3, 0.6])
    for shift_xy in (None, np.array([[5.0, 5.0]])):
        for before, after in zip(parts(motion), parts(motion.after(dt_s, shift_xy)), strict=True):
            np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("dt_s", [60.0, 3600.0, 30 * 86400.0])
def test_long_gap_leaves_the_object_within_reach(dt_s: float) -> None:
    motion = followed([0, 0.3, 0.6, 0.9])
    later = motion.after(dt_s)
    assert all(np.isfinite(part).all() for part in parts(later))
    way = np.abs(later.place - motion.place)[0, :2]
    assert (way <= 10 * np.abs(motion.speed[0, :2])).all()  # it comes to rest, instead of going on for all that time
    np.testing.assert_allclose(later.speed, 0, atol=1e-6)
    again = later.corrected(np.array([0]), START)
    np.testing.assert_allclose(again.xyxy, START, atol=1.0)  # a detection counts more than such an old estimate
    assert all((part >= 0).all() for part in (again.place_var, again.speed_var))


def test_box_that_shrinks_keeps_a_size() -> None:
    motion = Motion.first(START)
    for side in (30.0, 20.0, 10.0, 2.0):
        motion = motion.after(0.1).corrected(
            np.array([0]), np.array([[120 - side, 140 - side, 120 + side, 140 + side]])
        )
    assert (motion.speed[:, 2:] < -50).all()
    assert (motion.after(20).place[:, 2:] > 0).all()


# Optical flow.


def test_flow_moves_by_exactly_what_it_saw() -> None:
    motion = followed([0, 0.3, 0.6])
    seen = motion.after(0.1, np.array([[7.25, -3.5]]))
    np.testing.assert_allclose(seen.place[:, :2], motion.place[:, :2] + [[7.25, -3.5]])
    np.testing.assert_allclose(seen.place[:, 2:], motion.after(0.1).place[:, 2:])


def test_flow_of_a_steady_motion_leads_to_its_speed() -> None:
    motion = Motion.first(START)
    for _ in range(60):
        motion = motion.after(0.05, SPEED_XY[np.newaxis] * 0.05)
    np.testing.assert_allclose(motion.speed[0, :2], SPEED_XY, rtol=0.3)
    np.testing.assert_allclose(motion.xyxy, box_at(3.0), atol=1e-6)


@pytest.mark.parametrize("fps", [10, 30])
def test_speed_that_flow_saw_for_long_does_not_depend_on_the_rate_of_pictures(fps: int) -> None:
    motion = Motion.first(START)
    for _ in range(10 * fps):
        motion = motion.after(1 / fps, SPEED_XY[np.newaxis] / fps)
    np.testing.assert_allclose(motion.speed[0, :2], SPEED_XY, rtol=0.1)


def test_flow_of_standing_stops_what_moved() -> None:
    motion = followed(np.arange(0, 2, 0.2).tolist())
    before = np.linalg.norm(motion.speed[0, :2])
    for _ in range(20):
        motion = motion.after(0.1, np.zeros((1, 2)))
    assert np.linalg.norm(motion.speed[0, :2]) < 0.1 * before


def test_objects_that_flow_did_not_see_go_on_as_without_it() -> None:
    both = followed([0, 0.3, 0.6]).joined(followed([0, 0.2, 0.4], -SPEED_XY))
    mixed = both.after(0.2, np.array([[np.nan, np.nan], [3.0, 4.0]]))
    for got, plain, before in zip(parts(mixed), parts(both.after(0.2)), parts(both), strict=True):
        np.testing.assert_array_equal(got[0], plain[0])
        assert not np.array_equal(got[1], before[1])
    for got, plain in zip(parts(both.after(0.2, np.full((2, 2), np.nan))), parts(both.after(0.2)), strict=True):
        np.testing.assert_array_equal(got, plain)


# What holds always.


steps = st.lists(
    st.tuples(
        st.sampled_from([-0.1, 0.0]) | st.floats(0.001, 3),
        st.sampled_from(["nothing", "detection", "flow"]),
        st.floats(-30, 30),
    ),
    min_size=1,
    max_size=25,
)


@given(steps)
def test_variances_stay_positive_and_covariances_possible(way: list[tuple[float, str, float]]) -> None:
    motion = Motion.first(START)
    for dt_s, kind, offset in way:
        motion = motion.after(dt_s, np.full((1, 2), offset) if kind == "flow" else None)
        if kind == "detection":
            motion = motion.corrected(np.array([0]), START + offset)
        assert (motion.place_var > 0).all()
        assert (motion.speed_var > 0).all()
        assert (motion.both_var**2 <= motion.place_var * motion.speed_var * (1 + 1e-6)).all()
        assert (motion.place[:, 2:] > 0).all()
        assert all(np.isfinite(part).all() for part in parts(motion))


@given(steps, st.sampled_from([2.0, 5.0, 16.0]))
def test_twice_the_pixels_are_twice_the_result(way: list[tuple[float, str, float]], factor: float) -> None:
    plain, scaled = Motion.first(START), Motion.first(START * factor)
    with_flow = False
    for dt_s, kind, offset in way:
        shift_xy = np.full((1, 2), offset) if kind == "flow" else None
        with_flow |= shift_xy is not None
        plain = plain.after(dt_s, shift_xy)
        scaled = scaled.after(dt_s, None if shift_xy is None else shift_xy * factor)
        if kind == "detection":
            plain = plain.corrected(np.array([0]), START + offset)
            scaled = scaled.corrected(np.array([0]), (START + offset) * factor)
    size = float(np.sqrt(40 * 80))
    # Optical flow is wrong by a part of a pixel, however large the picture is.
    leeway = 0.1 * (size + abs(plain.speed).max()) if with_flow else 1e-6 * (size + abs(plain.place).max())
    np.testing.assert_allclose(scaled.place / factor, plain.place, atol=leeway)
    np.testing.assert_allclose(scaled.speed / factor, plain.speed, atol=leeway)
    if not with_flow:
        np.testing.assert_allclose(scaled.place_var / factor**2, plain.place_var, rtol=1e-6)


@pytest.mark.parametrize("factor", [2.0, 7.0])
def test_distance_has_no_unit(factor: float) -> None:
    nearby = START + np.array([[12.0, -5.0, 20.0, 3.0]])
    plain = Motion.first(START).after(0.4).distance(nearby)
    scaled = Motion.first(START * factor).after(0.4).distance(nearby * factor)
    np.testing.assert_allclose(scaled, plain)


def test_distance_grows_with_what_lies_between_and_falls_with_doubt() -> None:
    motion = Motion.first(START)
    places = np.concatenate([START, START + 10, START + 40])
    distances = motion.distance(places)
    assert distances.shape == (1, 3)
    assert distances[0, 0] == pytest.approx(0)
    assert (np.diff(distances[0]) > 0).all()
    assert (motion.after(1.0).distance(places)[0, 1:] < distances[0, 1:]).all()


def test_scaled_estimates_are_those_of_the_scaled_picture() -> None:
    scale_xy = np.array([0.5, 0.5])
    plain = followed([0, 0.3, 0.6]).scaled(scale_xy)
    motion = Motion.first(box_at(0) / 2)
    for at_s in (0.3, 0.6):
        motion = motion.after(0.3).corrected(np.array([0]), box_at(at_s) / 2)
    for got, expected in zip(parts(plain), parts(motion), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


def test_each_object_is_on_its_own() -> None:
    one, other = followed([0, 0.3, 0.6]), followed([0, 0.2, 0.4], -SPEED_XY)
    together = one.joined(other).after(0.2).corrected(np.array([1]), START)
    assert len(together) == 2
    alone = [one.after(0.2), other.after(0.2).corrected(np.array([0]), START)]
    for row, expected in enumerate(alone):
        for got, part in zip(parts(together[np.array([row])]), parts(expected), strict=True):
            np.testing.assert_allclose(got, part)


def test_nothing_is_written_into() -> None:
    motion = followed([0, 0.3, 0.6])
    before = copies(motion)
    shift_xy, box, index = np.array([[3.0, 4.0]]), START.copy(), np.array([0])
    motion.after(0.3)
    motion.after(0.3, shift_xy)
    motion.corrected(index, box)
    motion.distance(box)
    motion.scaled(np.array([2.0, 2.0]))
    motion.joined(motion)
    Motion.first(box)
    for part, old in zip(parts(motion), before, strict=True):
        np.testing.assert_array_equal(part, old)
    np.testing.assert_array_equal(box, START)
    np.testing.assert_array_equal(shift_xy, [[3.0, 4.0]])


def test_no_objects_are_fine() -> None:
    none = Motion.none()
    assert len(none.after(1.0, np.zeros((0, 2)))) == 0
    assert len(none.corrected(np.zeros(0, np.intp), np.zeros((0, 4), np.float32))) == 0
    assert none.distance(START).shape == (0, 1)
    assert Motion.first(START).distance(np.zeros((0, 4))).shape == (1, 0)
    assert none.xyxy.shape == (0, 4)
    assert len(none.joined(Motion.first(START))) == 1
