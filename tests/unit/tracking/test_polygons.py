from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_detector.tracking.polygons import contains, parse_line, parse_points, parse_polygon, to_fractions


@pytest.mark.parametrize(
    "spelled",
    [
        "0.1,0.2,0.5,0.2,0.5,0.6",
        " 0.1, 0.2 ,0.5,0.2,0.5,0.6",
        [0.1, 0.2, 0.5, 0.2, 0.5, 0.6],
        ["0.1,0.2", "0.5,0.2", "0.5,0.6"],
        [[0.1, 0.2], [0.5, 0.2], [0.5, 0.6]],
        ((0.1, 0.2), (0.5, 0.2), (0.5, 0.6)),
    ],
)
def test_all_spellings_of_a_polygon_mean_the_same(spelled: object) -> None:
    assert parse_polygon(spelled) == ((0.1, 0.2), (0.5, 0.2), (0.5, 0.6))


@pytest.mark.parametrize("spelled", ["0,0,1,0,1,1,0,1,0,0", "0,0,0,0,1,0,1,1,1,1,0,1"])
def test_repeated_and_closing_points_are_left_out(spelled: str) -> None:
    assert parse_polygon(spelled) == ((0, 0), (1, 0), (1, 1), (0, 1))


@pytest.mark.parametrize(
    ("spelled", "message"),
    [
        ("", "'' is no number; give \"x,y,x,y"),
        ("left door", "'left door' is no number"),
        ("0,0,1,0,1,1,", "'' is no number"),
        ([True, 0, 1, 0, 1, 1], "True is no number"),
        ([10**400, 0, 1, 0, 1, 1], "is no number"),
        (None, "no list of points"),
        (5, "no list of points"),
        ({"x": 1}, "no list of points"),
        ([[0, 0], [1, 0, 1], [1, 1]], "what is no point"),
        ([[0, 0], [1, 0], 1], "what is no point"),
        (["0,0,1,0,1,1"], "what is no point"),
        ("0,0,1,0,1", "holds 5 numbers, so one point lacks its y"),
        ("-0.1,0,1,0,1,1", "-0.1 lies outside any picture"),
        ("nan,0,1,0,1,1", "nan lies outside any picture"),
        ([0, 0, float("inf"), 0, 1, 1], "inf lies outside any picture"),
        ("0.5,0,640,0,640,480", "0.5 and 640 are together: give fractions of the picture, 0 to 1, or pixels"),
        ([], "needs 3 different points, got 0"),
        ("0,0,1,1", "needs 3 different points, got 2"),
        ("0,0,1,1,0,0,1,1", "needs 3 different points, got 2"),
        ("0.1,0.1,0.2,0.2,0.3,0.3", "no area: all its points lie on one line"),
        ("0,0,1,1,1,0,0,1", "meets itself after points 1 and 3"),  # a bow tie
        ("0,0,1,0,0.5,0,0.5,1", "meets itself after points 1 and"),  # back on its own side
        ("0,0,1,0,1,1,0.5,0,0,1", "meets itself after points 1 and 3"),  # a corner on another side
        ("0,0,1,0,0.5,0.5,1,1,0,1,0.5,0.5", "meets itself after points 2 and 5"),  # a corner twice
    ],
)
def test_what_is_no_polygon_is_refused_with_the_reason(spelled: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_polygon(spelled)


@pytest.mark.parametrize("spelled", ["0,0,30,0,30,30,20,30,20,10,10,10,10,30,0,30", "0,0,9,0,9,9,5,9,5,8,4,8,4,9,0,9"])
def test_sides_on_one_line_that_do_not_touch_are_fine(spelled: str) -> None:
    assert len(parse_polygon(spelled)) == 8


@pytest.mark.parametrize("spelled", ["0.1,0.2", "0,0,0,0", "0,0,1,0,1,1"])
def test_line_needs_two_different_points(spelled: str) -> None:
    with pytest.raises(ValueError, match="needs 2 different points"):
        parse_line(spelled)


def test_pixels_become_fractions_of_the_picture() -> None:
    points = parse_points("160,0,320,120")
    np.testing.assert_allclose(to_fractions(points, (640, 480), "mask"), [[0.25, 0], [0.5, 0.25]])


def test_fractions_do_not_depend_on_the_picture() -> None:
    np.testing.assert_array_equal(to_fractions(((0.25, 1.0), (0, 0)), (640, 480), "mask"), [[0.25, 1], [0, 0]])


@pytest.mark.parametrize("spelled", ["0,0,639,0,639,479,0,479", "0,0,640,0,640,480,0,480"])
def test_polygon_along_the_edge_holds_what_is_cut_off_there(spelled: str) -> None:
    polygon = to_fractions(parse_polygon(spelled), (640, 480), "mask")
    assert contains(polygon, np.array([[0.5, 1.0], [1.0, 1.0], [0.0, 0.0], [0.5, 1.2]])).all()


def winding_numbers(polygon_xy: npt.NDArray[np.float64], points_xy: npt.NDArray[np.float64]) -> list[int]:
    """An oracle of another kind: how often the outline goes round each point, by summed angles."""
    angles = [np.unwrap(np.arctan2(*(np.vstack([polygon_xy, polygon_xy[:1]]) - point).T)) for point in points_xy]
    return [round((angle[-1] - angle[0]) / (2 * np.pi)) for angle in angles]


def distance_to_outline(polygon_xy: npt.NDArray[np.float64], points_xy: npt.NDArray[np.float64]) -> Any:
    share = np.linspace(0, 1, 2001)[:, None, None]
    outline = (polygon_xy + share * (np.roll(polygon_xy, -1, axis=0) - polygon_xy)).reshape(-1, 2)
    return np.array([np.linalg.norm(outline - point, axis=1).min() for point in points_xy])


@st.composite
def stars(draw: st.DrawFn) -> npt.NDArray[np.float64]:
    """Corners (P, 2) of an outline that goes once round the middle of the picture, near to it and far."""
    count = draw(st.integers(4, 9))
    shifts = draw(st.lists(st.floats(0, 0.8), min_size=count, max_size=count))
    radii = draw(st.lists(st.floats(0.05, 0.5), min_size=count, max_size=count))
    angles = (np.arange(count) + shifts) / count * 2 * np.pi
    return 0.5 + np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


@given(stars(), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_polygon_contains_the_points_that_its_outline_goes_round(
    corners: npt.NDArray[np.float64], points: list[tuple[float, float]]
) -> None:
    polygon, points_xy = np.array(parse_polygon(corners.tolist())), np.array(points)
    clear = distance_to_outline(polygon, points_xy) > 1e-3
    expected = np.array(winding_numbers(polygon, points_xy)) != 0
    np.testing.assert_array_equal(contains(polygon, points_xy)[clear], expected[clear])


@given(stars(), st.integers(0, 8))
def test_round_outline_with_two_neighbours_exchanged_is_refused(corners: npt.NDArray[np.float64], first: int) -> None:
    from_middle = corners - 0.5
    convex = 0.5 + 0.4 * from_middle / np.linalg.norm(from_middle, axis=1, keepdims=True)
    first %= len(convex)
    convex[[first, first - 1]] = convex[[first - 1, first]]
    with pytest.raises(ValueError, match="its outline meets itself"):
        parse_polygon(convex.tolist())


def test_notch_of_a_polygon_is_outside() -> None:
    polygon = np.array(parse_polygon("0,0,0.9,0,0.9,0.9,0.6,0.9,0.6,0.3,0.3,0.3,0.3,0.9,0,0.9"))
    points = np.array([[0.45, 0.6], [0.15, 0.6], [0.75, 0.6], [0.45, 0.15]])
    assert contains(polygon, points).tolist() == [False, True, True, True]


@given(st.floats(0, 1), st.integers(0, 3))
def test_outline_belongs_to_the_polygon(share: float, side: int) -> None:
    polygon = np.array(parse_polygon("0.1,0.2,0.7,0.3,0.9,0.8,0.2,0.6"))
    point = polygon[side] + share * (polygon[(side + 1) % 4] - polygon[side])
    assert contains(polygon, point[None]).tolist() == [True]
