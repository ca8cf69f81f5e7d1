from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_detector.postprocess.boxes import decode_boxes, decode_corners, pairwise_iou

FLOATS = st.floats(-6, 6, width=32)
CORNERS = st.tuples(*[st.integers(-20, 20)] * 2, *[st.integers(0, 20)] * 2).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


def naive_iou(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    width = max(0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height) if width * height else 0.0


@settings(deadline=None)
@given(st.lists(CORNERS, max_size=6), st.lists(CORNERS, max_size=6))
def test_pairwise_iou_equals_the_definition(first: list[tuple[int, ...]], second: list[tuple[int, ...]]) -> None:
    iou = pairwise_iou(np.array(first, np.float32).reshape(-1, 4), np.array(second, np.float32).reshape(-1, 4))
    assert iou.shape == (len(first), len(second))
    expected = [[naive_iou(a, b) for b in second] for a in first]
    np.testing.assert_allclose(iou, np.array(expected).reshape(iou.shape), rtol=1e-6)


@settings(deadline=None)
@given(st.tuples(FLOATS, FLOATS, FLOATS, FLOATS))
def test_box_coder_equals_its_formula(encoding: tuple[float, float, float, float]) -> None:
    ya, xa, ha, wa = 0.25, 0.5, 0.125, 0.75
    ty, tx, th, tw = encoding
    y, x, h, w = ty / 10 * ha + ya, tx / 10 * wa + xa, math.exp(th / 5) * ha, math.exp(tw / 5) * wa
    boxes = decode_boxes(np.array([encoding], np.float32), np.array([[ya, xa, ha, wa]], np.float32), (10, 10, 5, 5))
    np.testing.assert_allclose(boxes, [[x - w / 2, y - h / 2, x + w / 2, y + h / 2]], rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(st.tuples(FLOATS, FLOATS, FLOATS, FLOATS))
def test_corner_coding_equals_its_formula(encoding: tuple[float, float, float, float]) -> None:
    ya, xa, ha, wa = 0.25, 0.5, 0.125, 0.75
    y1, x1, y2, x2 = (
        ya - ha / 2 + encoding[0] * 0.2 * ha,
        xa - wa / 2 + encoding[1] * 0.2 * wa,
        ya + ha / 2 + encoding[2] * 0.2 * ha,
        xa + wa / 2 + encoding[3] * 0.2 * wa,
    )
    boxes = decode_corners(np.array([encoding], np.float32), np.array([[ya, xa, ha, wa]], np.float32), (5, 5, 5, 5))
    np.testing.assert_allclose(boxes, [[x1, y1, x2, y2]], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_absurd_sizes_stay_finite() -> None:
    anchors = np.full((1, 4), 0.5, np.float32)
    boxes = decode_boxes(np.array([[0, 0, 1e6, -1e6]], np.float32), anchors, (1, 1, 1, 1))
    assert np.isfinite(boxes).all()
    assert np.isfinite(pairwise_iou(boxes, boxes)).all()
