from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_detector.postprocess import nms
from edge_detector.postprocess.nms import suppress, vote


def naive_suppress(
    xyxy: npt.NDArray[np.float32], class_id: npt.NDArray[np.int64], iou_threshold: float, max_kept: int
) -> list[int]:
    kept: list[int] = []
    for index, (box, own_class) in enumerate(zip(xyxy, class_id, strict=True)):
        for better in kept:
            if class_id[better] == own_class and scalar_iou(xyxy[better], box) > np.float32(iou_threshold):
                break
        else:
            kept.append(index)
    return kept[:max_kept]


def scalar_iou(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> np.float32:
    """Return the IoU of two boxes with whole corners: exact up to the one rounding of the division."""
    width = max(0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0, min(first[3], second[3]) - max(first[1], second[1]))
    union = (first[2] - first[0]) * (first[3] - first[1]) + (second[2] - second[0]) * (second[3] - second[1])
    return np.float32(width * height) / np.float32(union - width * height)


@settings(deadline=None)
@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2, st.integers(0, 2)), max_size=40),
    iou_threshold=st.sampled_from([0.0, 0.25, 0.5, 0.6, 1.0]),
    max_kept=st.integers(1, 40),
    block=st.sampled_from([1, 2, 7, 128]),
)
def test_equals_a_naive_loop(boxes: list[tuple[int, ...]], iou_threshold: float, max_kept: int, block: int) -> None:
    table = np.array(boxes, np.int64).reshape(-1, 5)
    xyxy, class_id = np.hstack([table[:, :2], table[:, :2] + table[:, 2:4]]).astype(np.float32), table[:, 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms, "_BLOCK", block)
        kept = suppress(xyxy, class_id, iou_threshold, max_kept)
    assert kept.tolist() == naive_suppress(xyxy, class_id, iou_threshold, max_kept)


def test_many_boxes_in_several_blocks_equal_a_naive_loop() -> None:
    random = np.random.default_rng(3)
    corner, size = random.integers(0, 60, (700, 2)), random.integers(5, 30, (700, 2))
    xyxy, class_id = np.hstack([corner, corner + size]).astype(np.float32), random.integers(0, 3, 700)
    for max_kept in (10, 150, 700):
        kept = suppress(xyxy, class_id, 0.5, max_kept)
        assert kept.tolist() == naive_suppress(xyxy, class_id, 0.5, max_kept)


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)  # IoU of neighbours 0.43
    assert suppress(chain, np.zeros(3, np.int64), 0.4, 10).tolist() == [0, 2]


def test_boxes_of_other_classes_are_left_alone() -> None:
    same_place = np.tile(np.array([[0, 0, 10, 10]], np.float32), (3, 1))
    assert suppress(same_place, np.array([0, 1, 0]), 0.5, 10).tolist() == [0, 1]


def test_nothing_in_nothing_out() -> None:
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0.5, 10).tolist() == []


# --- box voting ---


def test_a_kept_box_becomes_the_mean_of_its_voters_weighted_by_confidence() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 30], [1, 1, 9, 9]], np.float32)
    confidence, classes = np.array([0.6, 0.2, 0.9, 0.9], np.float32), np.array([0, 0, 0, 1])
    voted = vote(boxes, classes, confidence, np.array([0]), 0.5)  # the third overlaps too little, the fourth is another
    np.testing.assert_allclose(voted, [[0, 0, 10, 10.5]], rtol=1e-6)


def test_a_box_without_voters_or_of_no_confidence_stays_what_it_is() -> None:
    boxes, classes = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), np.zeros(2, np.int64)
    for confidence in ([0.9, 0.5], [0.0, 0.0]):
        voted = vote(boxes, classes, np.array(confidence, np.float32), np.array([0, 1]), 1.0)
        np.testing.assert_array_equal(voted, boxes)
    assert vote(boxes, classes, np.ones(2, np.float32), np.zeros(0, np.intp), 0.5).shape == (0, 4)
