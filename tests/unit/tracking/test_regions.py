from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_detector.object_config import RegionsConfig
from edge_detector.tracking.regions import SMALL_PX, Region, Regions, whole_in

Floats = npt.NDArray[np.float64]
SIZE_WH = (1280, 720)
CANVAS_WH = (320, 320)
NOTHING = np.zeros((0, 4))


def regions(whole_every: int = 3, zoom: float = 2.0, canvas_wh: tuple[int, int] = CANVAS_WH) -> Regions:
    return Regions(RegionsConfig(enabled=True, whole_every=whole_every, zoom=zoom), canvas_wh)


def at(x: float, y: float, width: float = 0.02, height: float = 0.05) -> list[float]:
    """Return a target whose middle is there, in fractions of the picture; small unless told otherwise."""
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def asked(turns: int, targets: Floats, of: Regions, size_wh: tuple[int, int] = SIZE_WH) -> list[Region | None]:
    """Let that many searches be proposed and done, half a second apart."""
    proposals = []
    for turn in range(turns):
        proposals.append(of.propose(targets, size_wh))
        of.searched(proposals[-1], size_wh, turn / 2)
    return proposals


def holds(region: Region, target: Floats, size_wh: tuple[int, int] = SIZE_WH) -> bool:
    """Return whether a target lies in a region; a region's corner is a whole pixel."""
    pixels = target * np.tile(size_wh, 2)
    x1, y1, x2, y2 = region
    return bool((pixels[:2] >= [x1 - 1, y1 - 1]).all() and (pixels[2:] <= [x2 + 1, y2 + 1]).all())


# Whole or part.


@pytest.mark.parametrize("whole_every", [1, 2, 3, 5])
def test_first_and_every_so_manyth_search_is_of_the_whole(whole_every: int) -> None:
    proposals = asked(15, np.array([at(0.3, 0.3)]), regions(whole_every))
    assert [region is None for region in proposals] == [turn % whole_every == 0 for turn in range(15)]


def test_proposal_that_is_not_searched_uses_up_no_turn() -> None:
    of = regions(2)
    assert of.propose(np.array([at(0.3, 0.3)]), SIZE_WH) is None
    assert of.propose(np.array([at(0.3, 0.3)]), SIZE_WH) is None
    of.searched(None, SIZE_WH, 0.0)
    assert of.propose(np.array([at(0.3, 0.3)]), SIZE_WH) is not None


@pytest.mark.parametrize(
    "settings", [RegionsConfig(), RegionsConfig(enabled=False, zoom=3), RegionsConfig(enabled=True, zoom=1)]
)
def test_without_enlarging_all_searches_are_of_the_whole(settings: RegionsConfig) -> None:
    assert asked(6, np.array([at(0.3, 0.3)]), Regions(settings, CANVAS_WH)) == [None] * 6


def test_without_targets_the_whole_is_searched() -> None:
    assert asked(6, NOTHING, regions()) == [None] * 6


@pytest.mark.parametrize(("width", "height"), [(0.2, 0.9), (0.6, 0.1), (1.0, 1.0)])
def test_big_objects_ask_for_no_region(width: float, height: float) -> None:
    assert asked(6, np.array([at(0.5, 0.5, width, height)]), regions()) == [None] * 6


def test_what_is_small_depends_on_the_canvas_of_the_model() -> None:
    target = np.array([at(0.5, 0.5, 0.1, 0.4)])  # 288 of 720 pixels high
    assert 288 * 640 / 1280 > SMALL_PX > 288 * 192 / 1280
    assert asked(2, target, regions(canvas_wh=(192, 192)))[1] is not None
    assert asked(2, target, regions(canvas_wh=(640, 640)))[1] is None


# Where.


targets_anywhere = st.lists(
    st.builds(at, st.floats(0, 1), st.floats(0, 1), st.floats(0.005, 0.1), st.floats(0.005, 0.15)),
    min_size=1,
    max_size=6,
).map(np.array)


@given(targets_anywhere, st.floats(1.05, 4), st.sampled_from([(1280, 720), (641, 479), (320, 240), (37, 500)]))
def test_region_lies_in_the_picture_and_has_its_size(targets: Floats, zoom: float, size_wh: tuple[int, int]) -> None:
    for region in asked(5, targets, regions(2, zoom), size_wh):
        if region is None:
            continue
        x1, y1, x2, y2 = region
        assert all(type(value) is int for value in region)
        assert 0 <= x1 < x2 <= size_wh[0]
        assert 0 <= y1 < y2 <= size_wh[1]
        assert x2 - x1 == pytest.approx(size_wh[0] / zoom, abs=1.5)
        assert y2 - y1 == pytest.approx(size_wh[1] / zoom, abs=1.5)


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([1.5, 2.0, 4.0]))
def test_region_shows_all_of_a_small_target_that_is_in_the_picture(x: float, y: float, zoom: float) -> None:
    target = np.clip(at(x, y), 0, 1)
    region = asked(2, target[np.newaxis], regions(zoom=zoom))[1]
    assert region is not None
    assert holds(region, target)


def test_region_shows_a_neighbour_too_if_both_fit() -> None:
    targets = np.array([at(0.3, 0.5), at(0.6, 0.5)])
    region = asked(2, targets, regions())[1]
    assert region is not None
    assert all(holds(region, target) for target in targets)


def test_big_object_does_not_pull_the_region_from_a_small_one() -> None:
    targets = np.array([at(0.8, 0.6, 0.3, 0.8), at(0.1, 0.1)])
    region = asked(2, targets, regions())[1]
    assert region is not None
    assert holds(region, targets[1])


def turns_until_all_were_shown(targets: Floats, of: Regions, most: int) -> int | None:
    waiting = set(range(len(targets)))
    for turn, region in enumerate(asked(most, targets, of)):
        if region is not None:
            waiting -= {number for number in waiting if holds(region, targets[number])}
        if not waiting:
            return turn + 1
    return None


def test_every_one_of_several_targets_gets_its_turn() -> None:
    corners = np.array([at(0.1, 0.1), at(0.9, 0.1), at(0.9, 0.9), at(0.1, 0.9), at(0.5, 0.5)])
    assert turns_until_all_were_shown(corners, regions(3), 12) is not None
    # And again and again, in turn.
    of = regions(2, zoom=3.0)
    shown = [[holds(region, target) for target in corners] for region in asked(80, corners, of) if region is not None]
    counts = np.array(shown).sum(axis=0)
    assert counts.min() >= 0.5 * counts.max()


@given(
    st.lists(st.builds(at, st.floats(0.05, 0.95), st.floats(0.05, 0.95)), min_size=2, max_size=4).map(np.array),
)
@example(np.array([at(0.718, 0.464), at(0.68, 0.826), at(0.244, 0.636), at(0.176, 0.115)]))
def test_no_target_waits_for_ever(targets: Floats) -> None:
    assert turns_until_all_were_shown(targets, regions(2), 4 * len(targets) + 2) is not None


def test_target_at_the_very_edge_of_its_region_does_not_keep_the_others_waiting() -> None:
    targets = np.array(
        [at(0.7173, 0.0367, 0.05, 0.065), at(0.3311, 0.7547, 0.05, 0.065), at(0.2677, 0.2638, 0.05, 0.065)]
    )
    assert turns_until_all_were_shown(targets, regions(2), 60) is not None


def test_target_that_has_left_the_picture_is_no_error() -> None:
    left = np.array([at(-0.6, 0.4), at(1.7, 0.4), at(0.5, 1.3)])
    for region in asked(6, left, regions(2)):
        if region is not None:
            assert 0 <= region[0] < region[2] <= SIZE_WH[0]
            assert 0 <= region[1] < region[3] <= SIZE_WH[1]


def test_target_that_is_far_outside_is_no_error() -> None:
    asked(4, np.array([at(-1.4, 0.4)]), regions(2))


def test_target_that_has_left_the_picture_takes_no_turns_from_those_in_it() -> None:
    targets = np.array([at(1.7, 0.9), at(0.1, 0.1)])
    parts = [region for region in asked(6, targets, regions(2)) if region is not None]
    assert all(holds(region, targets[1]) for region in parts)


# What the region's edges cut.


REGION = (320, 180, 960, 540)


def cut(xyxy: list[float], region: Region = REGION) -> bool:
    return not whole_in(region, SIZE_WH, np.array([xyxy]))[0]


def test_box_within_the_region_is_whole_and_one_at_an_edge_inside_the_picture_is_not() -> None:
    assert not cut([400, 250, 500, 400])
    for touching in ([321, 250, 500, 400], [400, 181, 500, 400], [400, 250, 959, 400], [400, 250, 500, 539]):
        assert cut(touching)
    assert cut([100, 250, 500, 400])
    assert cut([0, 0, 100, 100])


def test_box_at_an_edge_of_the_picture_is_whole() -> None:
    assert not cut([0, 0, 100, 100], (0, 0, 640, 360))
    assert not cut([1200, 650, 1280, 720], (640, 360, 1280, 720))
    assert cut([600, 300, 640, 360], (0, 0, 640, 360))
    assert cut([0, 300, 100, 360], (0, 0, 640, 360))
    assert not cut([0, 0, 1280, 720], (0, 0, 1280, 720))


def test_no_boxes_are_fine() -> None:
    assert whole_in(REGION, SIZE_WH, NOTHING).shape == (0,)
