from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_detector.errors import ConfigError
from edge_detector.events import Crossing
from edge_detector.object_config import LineConfig, ZoneConfig
from edge_detector.tracking.zones import LINE_MARGIN, Lines, Presence, Whereabouts, Zones

SQUARE_WH = (1000, 1000)
LEFT = "0,0,0.5,0,0.5,1,0,1"
INSIDE, OUTSIDE = (0.2, 0.5), (0.8, 0.5)


def presence(
    zones: dict[str, dict[str, Any]] | None = None,
    lines: dict[str, dict[str, Any]] | None = None,
    size_wh: tuple[int, int] = SQUARE_WH,
) -> Presence:
    return Presence(
        Zones({name: ZoneConfig(**zone) for name, zone in (zones or {}).items()}, size_wh),
        Lines({name: LineConfig(**line) for name, line in (lines or {}).items()}, size_wh),
    )


def walk(
    follower: Presence,
    points_xy: Sequence[tuple[float, float]],
    times_s: Sequence[float] | None = None,
    label: str = "person",
) -> list[Whereabouts]:
    """Lead object 1 through points, each found by the model, one a second unless `times_s` says otherwise."""
    times = range(len(points_xy)) if times_s is None else times_s
    return [
        follower.update([1], [label], np.array([point]), at_s, np.array([True]))[0]
        for point, at_s in zip(points_xy, times, strict=True)
    ]


def directions(steps: Sequence[Whereabouts]) -> list[str]:
    return [crossing.direction for crossing in steps[-1].crossings]


@pytest.mark.parametrize("kind", [Zones, Lines])
def test_pixels_outside_the_picture_are_a_config_error_with_the_path(kind: type[Zones | Lines]) -> None:
    settings: dict[str, Any] = {
        "zones": {"door": ZoneConfig(coordinates="0,0,700,0,0,100")},
        "lines": {"gate": LineConfig(coordinates="0,0,700,0")},
    }
    path = "zones.door" if kind is Zones else "lines.gate"
    with pytest.raises(ConfigError, match=rf"{path}\.coordinates: 700,0 lies outside the picture of 640x480"):
        kind(settings[kind.__name__.lower()], (640, 480))


def test_no_zone_and_no_point_are_fine() -> None:
    assert Zones({}, SQUARE_WH).contains(np.zeros((3, 2))).shape == (3, 0)
    assert Zones({"left": ZoneConfig(coordinates=LEFT)}, SQUARE_WH).contains(np.zeros((0, 2))).shape == (0, 1)
    assert presence().update([], [], np.zeros((0, 2)), 0.0, np.zeros(0, bool)) == []


def test_each_zone_has_its_column() -> None:
    zones = Zones(
        {"left": ZoneConfig(coordinates=LEFT), "top": ZoneConfig(coordinates="0,0,1,0,1,0.4,0,0.4")}, SQUARE_WH
    )
    assert zones.contains(np.array([INSIDE, (0.8, 0.2), (0.2, 0.2)])).tolist() == [[1, 0], [0, 1], [1, 1]]


# Presence over time


def test_object_is_in_a_zone_after_so_many_pictures_in_a_row() -> None:
    steps = walk(presence({"left": {"coordinates": LEFT}}), [INSIDE, INSIDE, OUTSIDE, INSIDE, INSIDE, INSIDE, INSIDE])
    assert [step.zones for step in steps] == [(), (), (), (), (), ("left",), ("left",)]


def test_object_has_left_after_as_many_pictures_outside() -> None:
    steps = walk(
        presence({"left": {"coordinates": LEFT, "inertia": 2}}), [INSIDE, INSIDE, OUTSIDE, INSIDE, OUTSIDE, OUTSIDE]
    )
    assert [step.zones for step in steps] == [(), *[("left",)] * 4, ()]
    assert steps[-1].entered_zones == ("left",)


def test_stay_is_the_time_since_the_object_entered_last() -> None:
    points = [INSIDE, INSIDE, INSIDE, OUTSIDE, OUTSIDE, INSIDE, INSIDE]
    steps = walk(presence({"left": {"coordinates": LEFT, "inertia": 2}}), points, [0, 1, 3, 4, 5, 6, 8])
    assert [step.stay_s.get("left") for step in steps] == [None, 1.0, 3.0, 3.0, None, None, 2.0]
    assert steps[-1].dwell_s == {"left": 5.0}


def test_time_inside_counts_from_the_first_picture_inside_to_the_last() -> None:
    points = [OUTSIDE, INSIDE, INSIDE, INSIDE, OUTSIDE, OUTSIDE]
    steps = walk(presence({"left": {"coordinates": LEFT, "inertia": 2}}), points, [0, 1, 1.5, 4, 10, 11])
    assert [step.dwell_s.get("left") for step in steps] == [None, None, 0.5, 3.0, 3.0, 3.0]


def test_time_inside_is_summed_over_visits_and_what_never_counted_is_left_out() -> None:
    outside = [OUTSIDE] * 3
    way = [INSIDE, INSIDE, INSIDE, *outside, INSIDE, INSIDE, *outside, INSIDE, INSIDE, INSIDE, INSIDE, *outside]
    assert walk(presence({"left": {"coordinates": LEFT}}), way)[-1].dwell_s == {"left": 2.0 + 3.0}


def test_loitering_time_must_have_passed_before_an_object_counts_as_in() -> None:
    follower = presence({"left": {"coordinates": LEFT, "inertia": 1, "loitering_time": 5}})
    steps = walk(follower, [INSIDE] * 4, [0, 3, 4.9, 5.0])
    assert [step.zones for step in steps] == [(), (), (), ("left",)]
    assert steps[-1].dwell_s == {"left": 5.0}


def test_loitering_begins_anew_after_leaving() -> None:
    follower = presence({"left": {"coordinates": LEFT, "inertia": 1, "loitering_time": 5}})
    assert walk(follower, [INSIDE, INSIDE, OUTSIDE, INSIDE, INSIDE], [0, 4, 5, 6, 10])[-1].zones == ()


def test_pictures_that_did_not_show_the_object_change_nothing() -> None:
    follower = presence({"left": {"coordinates": LEFT, "inertia": 2}})
    walk(follower, [INSIDE, INSIDE])
    unseen = [follower.update([1], ["person"], np.array([OUTSIDE]), at_s, np.array([False]))[0] for at_s in (2, 3, 4)]
    assert (
        unseen
        == [Whereabouts(zones=("left",), entered_zones=("left",), dwell_s={"left": 1.0}, stay_s={"left": 1.0})] * 3
    )
    (seen,) = walk(follower, [INSIDE], [6])
    assert seen.dwell_s == {"left": 6.0}


def test_object_that_was_never_found_is_nowhere() -> None:
    follower = presence({"left": {"coordinates": LEFT, "inertia": 1}})
    assert follower.update([1], ["person"], np.array([INSIDE]), 0.0, np.array([False])) == [Whereabouts()]


def test_zone_is_for_its_labels_only() -> None:
    zones = {"left": {"coordinates": LEFT, "inertia": 1, "objects": ["car"]}}
    assert walk(presence(zones), [INSIDE], label="car")[0].zones == ("left",)
    assert walk(presence(zones), [INSIDE], label="person")[0].zones == ()


def test_objects_are_kept_apart_and_forgotten_by_their_ids() -> None:
    follower = presence({"left": {"coordinates": LEFT, "inertia": 2}})
    points, both = np.array([INSIDE, OUTSIDE]), np.array([True, True])
    follower.update([1, 2], ["person"] * 2, points, 0.0, both)
    assert [here.zones for here in follower.update([2, 1], ["person"] * 2, points[::-1], 1.0, both)] == [(), ("left",)]
    follower.forget(1)
    follower.forget(7)
    assert walk(follower, [INSIDE], [2.0])[0] == Whereabouts()


# Lines

MIDDLE = {"coordinates": "0.2,0.5,0.8,0.5"}  # drawn from left to right: "in" is downwards
ABOVE, BELOW = (0.5, 0.4), (0.5, 0.6)


def test_crossing_from_left_to_right_of_the_line_is_in() -> None:
    follower = presence(lines={"gate": MIDDLE})
    steps = walk(follower, [ABOVE, BELOW, ABOVE], [10.0, 11.5, 14.0])
    assert steps[1].crossings == (Crossing("gate", "in", 1.5),)
    assert steps[2].crossings == (Crossing("gate", "in", 1.5), Crossing("gate", "out", 4.0))


@pytest.mark.parametrize(
    ("coordinates", "way", "direction"),
    [
        ("0.8,0.5,0.2,0.5", [BELOW, ABOVE], "in"),
        ("0.5,0.8,0.5,0.2", [(0.4, 0.5), (0.6, 0.5)], "in"),  # drawn upwards
        ("0.5,0.2,0.5,0.8", [(0.4, 0.5), (0.6, 0.5)], "out"),
        ("200,200,800,800", [(0.6, 0.3), (0.3, 0.6)], "in"),
    ],
)
def test_direction_turns_with_the_line(coordinates: str, way: list[tuple[float, float]], direction: str) -> None:
    assert directions(walk(presence(lines={"gate": {"coordinates": coordinates}}), way)) == [direction]


def test_of_many_crossings_the_newest_are_remembered_and_all_are_counted() -> None:
    steps = walk(presence(lines={"gate": MIDDLE}), [ABOVE, BELOW] * 80, list(range(160)))
    assert steps[-1].crossing_count == 159
    assert [crossing.at_s for crossing in steps[-1].crossings] == list(range(60, 160))


@given(st.lists(st.floats(-0.9, 0.9), max_size=20))
def test_object_that_trembles_on_the_line_crosses_once(trembling: list[float]) -> None:
    reach = LINE_MARGIN * np.hypot(1, 1)
    points = [ABOVE, *((0.5, 0.5 + reach * step) for step in trembling), BELOW]
    assert directions(walk(presence(lines={"gate": MIDDLE}), points)) == ["in"]
    assert directions(walk(presence(lines={"gate": MIDDLE}), [*points[:-1], ABOVE])) == []


def test_slow_walk_over_the_line_counts_once() -> None:
    points = [(0.5, 0.4 + step / 100) for step in range(21)]
    assert directions(walk(presence(lines={"gate": MIDDLE}), points)) == ["in"]


def test_way_round_the_end_of_the_line_does_not_count() -> None:
    points = [ABOVE, (0.9, 0.4), (0.9, 0.499), (0.9, 0.501), (0.9, 0.6), BELOW]
    assert directions(walk(presence(lines={"gate": MIDDLE}), points)) == []
    assert directions(walk(presence(lines={"gate": MIDDLE}), [*points, ABOVE])) == ["out"]


def test_way_along_the_line_and_round_its_end_does_not_count() -> None:
    round_the_end = [(0.5, 0.495), (0.9, 0.495), (0.9, 0.505), (0.5, 0.505), BELOW]
    assert directions(walk(presence(lines={"gate": MIDDLE}), [ABOVE, *round_the_end])) == []
    there_and_back = (0.5, 0.505)
    assert directions(walk(presence(lines={"gate": MIDDLE}), [ABOVE, there_and_back, *round_the_end])) == []


def test_object_that_begins_on_the_line_has_not_crossed_it() -> None:
    assert directions(walk(presence(lines={"gate": MIDDLE}), [(0.5, 0.495), BELOW])) == []


def test_points_that_the_model_did_not_find_do_not_cross() -> None:
    follower = presence(lines={"gate": MIDDLE})
    walk(follower, [ABOVE])
    (step,) = follower.update([1], ["person"], np.array([BELOW]), 1.0, np.array([False]))
    assert step.crossings == ()
    assert directions(walk(follower, [BELOW], [2.0])) == ["in"]


def test_line_is_for_its_labels_only() -> None:
    lines = {"gate": MIDDLE | {"objects": ["car"]}}
    assert directions(walk(presence(lines=lines), [ABOVE, BELOW], label="person")) == []
    assert directions(walk(presence(lines=lines), [ABOVE, BELOW], label="car")) == ["in"]


def test_distance_to_a_line_is_the_same_in_all_directions_of_a_wide_picture() -> None:
    lines = Lines(
        {"flat": LineConfig(coordinates="0,0.5,1,0.5"), "steep": LineConfig(coordinates="0.5,1,0.5,0")}, (1600, 900)
    )
    np.testing.assert_allclose(lines.distances(np.array([0.5 + 90 / 1600, 0.6])), 90 / np.hypot(1600, 900))
