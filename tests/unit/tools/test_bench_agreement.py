"""When a contender's times count: hand-made boxes against the rules of tools/bench/agreement.py."""

from __future__ import annotations

import numpy as np
import pytest

from edge_detector.detections import Detections
from tools.bench.agreement import compare_detections, partnered

Row = tuple[float, float, float]  # x of a box 10 wide and 10 high, score, class


def boxes(*rows: Row) -> Detections:
    x, confidence, class_id = np.array(rows, np.float32).reshape(-1, 3).T
    xyxy = np.stack([x, np.zeros_like(x), x + 10, np.full_like(x, 10)], axis=1)
    return Detections(xyxy, confidence, class_id.astype(np.int64))


TEN = [(20.0 * number, 0.9, 0) for number in range(10)]


def test_the_same_detections_agree() -> None:
    found = compare_detections([boxes(*TEN)], [boxes(*TEN)])
    assert (found.share, found.extra, found.reason) == (1.0, 0.0, "")


def test_nine_of_ten_are_enough_and_eight_are_not() -> None:
    assert compare_detections([boxes(*TEN)], [boxes(*TEN[1:])]).reason == ""
    assert compare_detections([boxes(*TEN)], [boxes(*TEN[2:])]).reason.startswith("finds 80% of the reference's")


@pytest.mark.parametrize(("shift", "same"), [(3.3, True), (3.4, False)])  # IoU 0.504 and 0.493
def test_partners_overlap_by_half(shift: float, same: bool) -> None:
    assert compare_detections([boxes((0, 0.9, 0))], [boxes((shift, 0.9, 0))]).share == same


def test_partners_are_of_one_class() -> None:
    assert compare_detections([boxes((0, 0.9, 0))], [boxes((0, 0.9, 1))]).share == 0


def test_a_partner_may_have_a_lower_score_on_either_side() -> None:
    ours, theirs = boxes((0, 0.51, 0), (40, 0.25, 0)), boxes((0, 0.41, 0), (40, 0.55, 0))
    found = compare_detections([ours], [theirs])
    assert (found.share, found.extra) == (1.0, 0.0)


def test_unsure_detections_of_the_reference_are_not_asked_for() -> None:
    assert compare_detections([boxes((0, 0.9, 0), (40, 0.49, 0))], [boxes((0, 0.9, 0))]).share == 1.0


def test_inventions_and_duplicates_are_extra() -> None:
    invented = compare_detections([boxes(*TEN)], [boxes(*TEN, (500, 0.6, 0))])
    doubled = compare_detections([boxes(*TEN)], [boxes(*TEN, (1, 0.6, 0))])
    assert invented.extra == doubled.extra == pytest.approx(100 / 11)
    assert invented.reason == ""
    more = compare_detections([boxes(*TEN)], [boxes(*TEN, (500, 0.6, 0), (600, 0.6, 0))])
    assert "17 of 100 of its detections are not the reference's" in more.reason


def test_pictures_are_kept_apart() -> None:
    swapped = compare_detections([boxes((0, 0.9, 0)), boxes()], [boxes(), boxes((0, 0.9, 0))])
    assert (swapped.share, swapped.extra) == (0.0, 100.0)


def test_nothing_agrees_with_nothing() -> None:
    assert compare_detections([boxes()], [boxes()]).reason == ""


def test_the_best_pairs_go_first() -> None:
    first, second = boxes((0, 0.9, 0), (2, 0.9, 0)), boxes((2, 0.9, 0), (-2, 0.9, 0))
    assert partnered(first, second).tolist() == [True, True]
