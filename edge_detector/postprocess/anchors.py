"""Anchors: the boxes that a model's box encodings refer to.

Sources: multiscale_grid_anchor_generator of the TensorFlow Object Detection API; torchvision's
models/detection/anchor_utils.py; keras-retinanet's utils/anchors.py. Tests hold them equal to those.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_detector.manifest import AnchorSpec


def level_grids(spec: AnchorSpec, input_wh: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (rows, columns) of each pyramid level in ascending order; strided SAME convolutions round up."""
    strides = [2**level for level in range(spec.min_level, spec.max_level + 1)]
    return [(-(-input_wh[1] // stride), -(-input_wh[0] // stride)) for stride in strides]


def anchors_per_cell(spec: AnchorSpec) -> int:
    """Return the number of anchors at each place of a grid."""
    return len(spec.aspect_ratios) * spec.scales_per_octave


def generate_anchors(spec: AnchorSpec, input_wh: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return anchors (A, 4) as (y_center, x_center, height, width), in fractions of the canvas, not clipped.

    Order: level, row, column, aspect ratio, scale, which is the order of the model's outputs.
    """
    levels = enumerate(level_grids(spec, input_wh), spec.min_level)
    return np.concatenate([_level_anchors(spec, input_wh, 2**level, grid) for level, grid in levels])


def _level_anchors(
    spec: AnchorSpec, input_wh: tuple[int, int], stride: int, grid: tuple[int, int]
) -> npt.NDArray[np.float32]:
    width, height = input_wh
    sizes_hw = _sizes_hw(spec, stride)
    shifts_yx = np.zeros_like(sizes_hw)
    if spec.generator == "torchvision":
        corners = np.concatenate([-sizes_hw, sizes_hw], axis=1).astype(np.float32) / 2
        top, left, bottom, right = np.round(corners).T.astype(np.float64)
        sizes_hw = np.stack([bottom - top, right - left], axis=1)
        shifts_yx = np.stack([bottom + top, right + left], axis=1) / 2
    anchors = np.empty((*grid, anchors_per_cell(spec), 4))
    anchors[..., 0] = (_centers(spec, grid[0], stride, height)[:, None, None] + shifts_yx[:, 0]) / height
    anchors[..., 1] = (_centers(spec, grid[1], stride, width)[None, :, None] + shifts_yx[:, 1]) / width
    anchors[..., 2:] = sizes_hw / (height, width)
    return anchors.reshape(-1, 4).astype(np.float32)


def _centers(spec: AnchorSpec, count: int, stride: int, side: int) -> npt.NDArray[np.float64]:
    """Return the centres along one axis in pixels.

    The Object Detection API shifts them by half a stride only where the stride divides the side: at 320 not on level 7.
    """
    cells = np.arange(count, dtype=np.float64)
    if spec.generator == "torchvision":
        return cells * (side // count)
    if spec.generator == "keras_retinanet":
        return (cells + 0.5) * stride
    return cells * stride + (stride / 2 if side % stride == 0 else 0.0)


def _sizes_hw(spec: AnchorSpec, stride: int) -> npt.NDArray[np.float64]:
    """Return height and width in pixels of the anchors of one cell; aspect = width / height, outer loop."""
    root_aspect = np.sqrt(np.array(spec.aspect_ratios, np.float64))[:, None]
    octave_scale = np.exp2(np.arange(spec.scales_per_octave, dtype=np.float64) / spec.scales_per_octave)
    side = spec.anchor_scale * stride * octave_scale
    if spec.generator == "torchvision":
        side = np.floor(side)
    return np.stack([side / root_aspect, side * root_aspect], axis=-1).reshape(-1, 2)
