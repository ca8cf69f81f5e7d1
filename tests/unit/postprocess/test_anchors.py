"""Anchors against the TensorFlow Object Detection API's own (tests/fixtures/odapi.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.manifest import AnchorSpec
from edge_detector.postprocess.anchors import anchors_per_cell, generate_anchors, level_grids


def corners_yxyx(anchors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=1)


@pytest.mark.parametrize("side", [320, 640])
def test_anchors_equal_those_of_the_object_detection_api(side: int, repository: Path) -> None:
    reference = np.load(repository / "tests/fixtures/odapi_anchors.npz")
    corners = corners_yxyx(generate_anchors(AnchorSpec(), (side, side)))
    assert len(corners) == reference[f"level_counts_{side}"].sum()
    np.testing.assert_allclose(
        corners[reference[f"index_{side}"]], reference[f"corners_yxyx_{side}"], rtol=0, atol=1e-6
    )
    # No anchor is off by more than 1e-6, so the sums cannot be either by more than that times their number.
    sums = corners.sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(sums, reference[f"corner_sums_{side}"], rtol=0, atol=1e-6 * len(corners))


@pytest.mark.parametrize("side", [320, 640])
def test_every_single_anchor_equals_the_reference(side: int, shared: Path) -> None:
    reference = np.load(shared / f"reference/odapi_full/anchors_{side}.npz")
    corners = corners_yxyx(generate_anchors(AnchorSpec(), (side, side)))
    np.testing.assert_allclose(corners, reference["anchors_ymin_xmin_ymax_xmax_normalized"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [320, 640])
def test_levels_hold_as_many_anchors_as_the_reference(side: int, repository: Path) -> None:
    reference = np.load(repository / "tests/fixtures/odapi_anchors.npz")
    counts = [
        rows * columns * anchors_per_cell(AnchorSpec()) for rows, columns in level_grids(AnchorSpec(), (side, side))
    ]
    assert counts == reference[f"level_counts_{side}"].tolist()


def test_a_canvas_that_is_not_square_has_its_own_grid_and_offset_per_axis() -> None:
    spec = AnchorSpec(min_level=7, max_level=7, aspect_ratios=(1.0,), scales_per_octave=1)
    anchors = generate_anchors(spec, (256, 320))  # stride 128 divides the width, not the height
    assert level_grids(spec, (256, 320)) == [(3, 2)]
    centers = [(y, x) for y in (0, 128, 256) for x in (64, 192)]
    np.testing.assert_allclose(anchors[:, :2] * (320, 256), centers, atol=1e-4)
    np.testing.assert_allclose(anchors[:, 2:] * (320, 256), [(512, 512)] * 6, atol=1e-4)


RETINANET = {"aspect_ratios": (2.0, 1.0, 0.5), "scales_per_octave": 3}


def torchvision_corners(input_wh: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return corners x1, y1, x2, y2 in pixels as torchvision's AnchorGenerator makes them, loop by loop."""
    rows = []
    for level in range(3, 8):
        side = 2 ** (level + 2)
        grid_w, grid_h = (-(-length // 2**level) for length in input_wh)
        bases = []
        for ratio in (0.5, 1.0, 2.0):  # height / width
            for size in (side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))):
                h, w = np.float32(size) * np.sqrt(np.float32(ratio)), np.float32(size) / np.sqrt(np.float32(ratio))
                bases.append(np.round(np.array([-w, -h, w, h], np.float32) / 2))
        for row in range(grid_h):
            for column in range(grid_w):
                x, y = column * (input_wh[0] // grid_w), row * (input_wh[1] // grid_h)
                rows += [base + np.array([x, y, x, y]) for base in bases]
    return np.array(rows, np.float32)


def keras_retinanet_corners(input_wh: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return corners x1, y1, x2, y2 in pixels as keras-retinanet's utils/anchors.py makes them."""
    rows = []
    for level in range(3, 8):
        stride, size = 2**level, 2 ** (level + 2)
        grid_w, grid_h = ((length + stride - 1) // stride for length in input_wh)
        for row in range(grid_h):
            for column in range(grid_w):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                for ratio in (0.5, 1, 2):  # height / width
                    for scale in (1, 2 ** (1 / 3), 2 ** (2 / 3)):
                        w = np.sqrt((size * scale) ** 2 / ratio)
                        rows.append((x - w / 2, y - w * ratio / 2, x + w / 2, y + w * ratio / 2))
    return np.array(rows, np.float32)


def test_torchvisions_anchors_of_one_cell_in_figures() -> None:
    """Sizes 32, 40, 50 at ratios 0.5, 1, 2 (height / width), rounded; at 320 cells of P7 are 106 px apart."""
    anchors = generate_anchors(AnchorSpec(generator="torchvision", **RETINANET), (320, 320)) * 320
    first = corners_yxyx(anchors[:9])[:, [1, 0, 3, 2]]
    halves = [(23, 11), (28, 14), (35, 18), (16, 16), (20, 20), (25, 25), (11, 23), (14, 28), (18, 35)]
    np.testing.assert_allclose(first, [(-w, -h, w, h) for w, h in halves], atol=1e-4)
    np.testing.assert_allclose(anchors[-1, :2], (212, 212), atol=1e-4)


@pytest.mark.parametrize("input_wh", [(320, 320), (640, 640), (416, 352)], ids=str)
@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (AnchorSpec(generator="torchvision", **RETINANET), torchvision_corners),
        (AnchorSpec(generator="keras_retinanet", **RETINANET), keras_retinanet_corners),
    ],
    ids=["torchvision", "keras_retinanet"],
)
def test_anchors_of_other_families(
    spec: AnchorSpec,
    reference: Callable[[tuple[int, int]], npt.NDArray[np.float32]],
    input_wh: tuple[int, int],
) -> None:
    corners = corners_yxyx(generate_anchors(spec, input_wh))[:, [1, 0, 3, 2]] * (input_wh * 2)
    np.testing.assert_allclose(corners, reference(input_wh), rtol=0, atol=2e-3)
    if input_wh[0] == input_wh[1]:
        assert len(corners) == {320: 19206, 640: 76725}[input_wh[0]]
