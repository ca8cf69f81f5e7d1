# ruff: noqa: E402 - what builds on PyTorch is imported only where it is installed
"""What anchors learn, and from which loss: against formulas written down naively."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'edge-detector[train]'")

from edge_detector.postprocess import boxes as runtime
from tools.network.architecture import slim
from tools.train.assign import BACKGROUND, IGNORED, AtssAssigner
from tools.train.batches import CANDIDATE_CELLS, anchors_px
from tools.train.losses import decode_boxes, focal_loss, giou_loss

ARCH = slim(input_side=64)
PER_CELL = ARCH.anchors.per_cell
COUNTS = tuple(side * side * PER_CELL for side in ARCH.level_sides())
CANDIDATES = CANDIDATE_CELLS * PER_CELL


def corners() -> npt.NDArray[np.float32]:
    y, x, h, w = anchors_px(ARCH).T
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)


def assign(boxes: list[list[float]], classes: list[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    assigner = AtssAssigner(corners(), COUNTS, CANDIDATES)
    return assigner(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64))


def iou_of(a: npt.NDArray[np.float32], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


def learners(box: list[float]) -> dict[int, float]:
    """Return ATSS' positive anchors of one object with their IoU: algorithm 1 of the paper, step by step."""
    anchors = corners()
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    ious: dict[int, float] = {}
    start = 0
    for count in COUNTS:
        distance = {}
        for index in range(start, start + count):
            x1, y1, x2, y2 = anchors[index]
            distance[index] = math.hypot((x1 + x2) / 2 - centre[0], (y1 + y2) / 2 - centre[1])
        for index in sorted(distance, key=distance.__getitem__)[:CANDIDATES]:
            ious[index] = iou_of(anchors[index], box)
        start += count
    values = list(ious.values())
    mean = sum(values) / len(values)
    threshold = mean + math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    positive = {}
    for index, value in ious.items():
        x, y = (anchors[index, 0] + anchors[index, 2]) / 2, (anchors[index, 1] + anchors[index, 3]) / 2
        if value >= threshold and box[0] < x < box[2] and box[1] < y < box[3]:
            positive[index] = value
    return positive


def test_anchors_learn_as_the_paper_says() -> None:
    rng = np.random.default_rng(3)
    for _ in range(6):
        # Off the grid, so that no two cells are equally near and the nearest nine are well defined.
        centres, sizes = rng.uniform(20.3, 43.7, (2, 2)), rng.uniform(14, 40, (2, 2))
        boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1).astype(np.float32).tolist()
        labels, targets = assign(boxes, [0, 1])
        naive = [learners(box) for box in boxes]
        assert all(naive)
        for anchor in range(len(labels)):
            scores = [positive.get(anchor, 0.0) for positive in naive]
            owner = int(np.argmax(scores))  # the object that it covers best
            if scores[owner] == 0:
                assert labels[anchor] == BACKGROUND
            else:
                assert labels[anchor] == owner
                np.testing.assert_array_equal(targets[anchor], np.float32(boxes[owner]))


def test_an_empty_canvas_is_all_background() -> None:
    labels, targets = assign([], [])
    assert (labels == BACKGROUND).all()
    assert targets.shape == (sum(COUNTS), 4)


def test_in_a_crowd_nothing_is_learnt_but_objects_are() -> None:
    crowd, person = [0.0, 0.0, 40.0, 64.0], [10.0, 10.0, 30.0, 50.0]
    alone, _ = assign([person], [0])
    labels, targets = assign([crowd, person], [-1, 0])
    np.testing.assert_array_equal(labels == 0, alone == 0)
    assert (targets[labels == 0] == person).all()
    middle = anchors_px(ARCH)[:, 1]
    np.testing.assert_array_equal(labels == IGNORED, (alone == BACKGROUND) & (middle > 0) & (middle < 40))


@pytest.mark.parametrize("x", [3.0, 29.5, 61.0])
def test_an_object_smaller_than_a_cell_still_learns(x: float) -> None:
    box = [x, 30.5, x + 2, 32.0]
    assert not learners(box)  # the paper's rule gives it nothing: no centre lies inside
    labels, targets = assign([box], [1])
    learning = labels == 1
    assert learning.any()
    assert (targets[learning] == np.float32(box)).all()
    assert learning[: COUNTS[0]].sum() == learning.sum()  # by the finest level


def test_boxes_are_decoded_as_the_runtime_does() -> None:
    rng = np.random.default_rng(0)
    anchors = anchors_px(ARCH)[rng.integers(0, sum(COUNTS), 50)]
    codes = rng.normal(0, 4, (50, 4)).astype(np.float32)
    scales = ARCH.box_coder.scales
    decoded = decode_boxes(torch.from_numpy(codes), torch.from_numpy(anchors), scales).numpy()
    np.testing.assert_allclose(decoded, runtime.decode_boxes(codes, anchors, scales), rtol=1e-5, atol=1e-3)


def test_giou_loss_follows_its_formula() -> None:
    first = [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 4, 4], [2, 3, 9, 5]]
    second = [[0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10], [2, 2, 4, 4], [0, 0, 12, 8]]
    naive = []
    for a, b in zip(first, second, strict=True):
        iou = iou_of(np.array(a, np.float32), [float(value) for value in b])
        area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
        union = (area_a + area_b) / (1 + iou)  # iou = (a + b - union) / union
        hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        naive.append(1 - (iou - (hull - union) / hull))
    assert naive[:3] == pytest.approx([0, 1 - 1 / 3, 1 + 1 / 3])  # equal, half over, one width apart
    for a, b, wanted in zip(first, second, naive, strict=True):
        one = giou_loss(torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32))
        assert one.item() == pytest.approx(wanted, abs=1e-6)
    both = giou_loss(torch.tensor(first, dtype=torch.float32), torch.tensor(second, dtype=torch.float32))
    assert both.item() == pytest.approx(sum(naive), rel=1e-6)


def test_giou_loss_draws_boxes_together_that_do_not_touch() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]], requires_grad=True)
    giou_loss(box, torch.tensor([[40.0, 0.0, 50.0, 10.0]])).backward()
    assert box.grad is not None
    assert box.grad[0, 2] < 0  # descent moves the right edge to the right


def test_focal_loss_follows_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (2, 9, 3)), rng.integers(-2, 3, (2, 9))
    exhaustive = np.array([[True, True, False], [False, True, True]])
    total = 0.0
    for image in range(2):
        for anchor in range(9):
            for slot in range(3):
                p = 1 / (1 + math.exp(-logits[image, anchor, slot]))
                label = labels[image, anchor]
                if label == slot:
                    total += 0.25 * (1 - p) ** 2 * -math.log(p)
                elif label != IGNORED and exhaustive[image, slot]:
                    total += 0.75 * p**2 * -math.log(1 - p)
    tensors = torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(exhaustive)
    assert focal_loss(*tensors).item() == pytest.approx(total, rel=1e-9)


def test_what_is_not_labelled_completely_teaches_nothing_where_it_is_not_seen() -> None:
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    labels = torch.tensor([[1, BACKGROUND, IGNORED]])
    focal_loss(logits, labels, torch.tensor([[True, False]])).backward()
    assert logits.grad is not None
    learns = (logits.grad[0] != 0).tolist()
    assert learns == [[True, True], [True, False], [False, False]]


def test_confident_mistakes_cost_a_finite_sum() -> None:
    loss = focal_loss(torch.tensor([[[-200.0], [200.0]]]), torch.tensor([[0, BACKGROUND]]), torch.tensor([[True]]))
    assert loss.item() == pytest.approx(0.25 * 200 + 0.75 * 200)
