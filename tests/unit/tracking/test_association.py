from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edge_detector.tracking.association import iou_matrix, match

Floats = npt.NDArray[np.float64]
LIMIT = 24.0
FAR = np.inf

costs = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=4),
    elements=st.one_of(st.floats(0, 1.3 * LIMIT), st.sampled_from([0.0, 1.0, LIMIT, FAR])),
)


def total(cost: Floats, limit: float, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> float:
    """Return what pairs cost, when a row that is left alone costs as much as the limit."""
    return float(cost[rows, columns].sum()) + limit * (len(cost) - len(rows))


def least_total(cost: Floats, limit: float) -> float:
    """Return the least total of all ways to pair, by trying all of them."""
    height, width = cost.shape
    padded = np.concatenate([np.minimum(cost, limit), np.full((height, height), limit)], axis=1)
    ways = itertools.permutations([*range(width), *([-1] * height)], height)
    return min(float(padded[np.arange(height), list(way)].sum()) for way in ways)


def pairs(cost: Floats, limit: float = LIMIT) -> set[tuple[int, int]]:
    rows, columns = match(np.asarray(cost, np.float64), limit)
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


# Pairs.


@given(costs)
def test_each_row_and_column_is_used_once_and_every_pair_is_below_the_limit(cost: Floats) -> None:
    rows, columns = match(cost, LIMIT)
    assert len(set(rows.tolist())) == len(rows) == len(columns) == len(set(columns.tolist()))
    assert (cost[rows, columns] < LIMIT).all()


@given(costs)
def test_no_pair_below_the_limit_is_left_apart(cost: Floats) -> None:
    rows, columns = match(cost, LIMIT)
    alone = np.delete(np.delete(cost, rows, axis=0), columns, axis=1)
    assert not (alone < LIMIT).any()


@given(costs, st.floats(1, 2 * LIMIT))
@example(np.array([[10.0, FAR], [1.0, 5.0]]), LIMIT)  # row 0 fits one column only, which row 1 likes best
@example(np.array([[1.0, 0.0, FAR], [FAR, 1.0, 0.9], [0.9, FAR, 1.0]]), LIMIT)  # three must exchange at once
def test_pairs_cost_least_in_total(cost: Floats, limit: float) -> None:
    assert total(cost, limit, *match(cost, limit)) == pytest.approx(least_total(cost, limit), abs=1e-6)


@pytest.mark.parametrize("side", [2, 3, 4, 5])
def test_random_matrices_with_forbidden_pairs_are_paired_at_the_least_cost(side: int) -> None:
    rng = np.random.default_rng(side)
    for _ in range(30 if side < 5 else 5):
        cost = rng.uniform(0, 1.2 * LIMIT, (side, side))
        cost[rng.random(cost.shape) < 0.3] = FAR
        assert total(cost, LIMIT, *match(cost, LIMIT)) == pytest.approx(least_total(cost, LIMIT), abs=1e-6)


def test_object_with_one_choice_gets_it_though_another_one_likes_it_better() -> None:
    assert pairs(np.array([[10, FAR], [1, 5]])) == {(0, 0), (1, 1)}
    assert pairs(np.array([[10, 1], [FAR, 5]])) == {(0, 0), (1, 1)}  # and so of a detection


def test_chain_of_neighbours_moves_up_by_one() -> None:
    chain = np.full((4, 4), FAR)
    chain[np.arange(4), np.arange(4)] = 5.0
    chain[np.arange(1, 4), np.arange(3)] = 1.0
    assert pairs(chain) == {(row, row) for row in range(4)}


def test_two_exchange_partners_when_the_sum_falls() -> None:
    assert pairs(np.array([[1.0, 2.0], [2.0, 9.0]])) == {(0, 1), (1, 0)}
    assert pairs(np.array([[1.0, 2.0], [2.0, 2.5]])) == {(0, 0), (1, 1)}


def test_pair_at_the_limit_is_none() -> None:
    assert pairs(np.array([[LIMIT]])) == set()
    assert pairs(np.array([[np.nextafter(LIMIT, 0)]])) == {(0, 0)}


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_pair_is_no_pair(shape: tuple[int, int]) -> None:
    rows, columns = match(np.zeros(shape), LIMIT)
    assert len(rows) == len(columns) == 0
    assert np.zeros((3, 3))[np.ix_(rows, columns)].shape == (0, 0)  # they still are indices


@given(costs)
def test_same_costs_give_the_same_pairs_and_are_not_written_to(cost: Floats) -> None:
    before = cost.copy()
    first, second = match(cost, LIMIT), match(cost.copy(), LIMIT)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert np.array_equal(cost, before)


@given(costs, st.floats(0.5, 20))
def test_unit_of_the_costs_does_not_matter(cost: Floats, scale: float) -> None:
    plain = total(cost, LIMIT, *match(cost, LIMIT))
    scaled = total(cost * scale, LIMIT * scale, *match(cost * scale, LIMIT * scale))
    assert scaled / scale == pytest.approx(plain, abs=0.01)


def test_many_equal_costs_end() -> None:
    assert len(pairs(np.ones((60, 60)))) == 60


# Overlap.


def test_overlap_of_known_boxes() -> None:
    one = np.array([[0, 0, 10, 10], [20, 20, 30, 40]], np.float32)
    other = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [22, 25, 28, 35]], np.float32)
    expected = [[1, 50 / 150, 0, 0], [0, 0, 0, 60 / 200]]
    np.testing.assert_allclose(iou_matrix(one, other), expected)


@given(arrays(np.int64, (6, 4), elements=st.integers(0, 15)))
def test_overlap_is_that_of_the_pixels_counted(corners: npt.NDArray[np.int64]) -> None:
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    drawn = np.zeros((6, 15, 15), bool)
    for picture, (x1, y1, x2, y2) in zip(drawn, boxes, strict=True):
        picture[y1:y2, x1:x2] = True
    shared = (drawn[:, None] & drawn[None]).sum(axis=(2, 3))
    either = (drawn[:, None] | drawn[None]).sum(axis=(2, 3))
    np.testing.assert_allclose(iou_matrix(boxes, boxes), shared / np.maximum(either, 1))


@pytest.mark.parametrize("count", [(0, 0), (0, 3), (3, 0)])
def test_no_boxes_have_no_overlap(count: tuple[int, int]) -> None:
    assert iou_matrix(np.zeros((count[0], 4)), np.zeros((count[1], 4))).shape == count
