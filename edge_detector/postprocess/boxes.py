"""Box arithmetic: decoding of box encodings, areas of overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Keeps exp(), and areas made of it, finite in float32; a box is beyond any canvas long before.
_MAX_LOG_SIZE = 20.0


def decode_boxes(
    encodings: npt.NDArray[np.float32],
    anchors: npt.NDArray[np.float32],
    box_coder: tuple[float, float, float, float],
) -> npt.NDArray[np.float32]:
    """Return boxes (N, 4) as x1, y1, x2, y2 in the anchors' unit, not clipped.

    Source: faster_rcnn_box_coder of the TensorFlow Object Detection API.

    Args:
        encodings: (N, 4) ty, tx, th, tw.
        anchors: (N, 4) y_center, x_center, height, width.
        box_coder: scales that ty, tx, th, tw were multiplied by.
    """
    offsets = encodings / np.asarray(box_coder, np.float32)
    center_yx = offsets[:, :2] * anchors[:, 2:] + anchors[:, :2]
    half_hw = np.exp(np.minimum(offsets[:, 2:], _MAX_LOG_SIZE)) * anchors[:, 2:] / 2
    return np.concatenate([center_yx - half_hw, center_yx + half_hw], axis=1)[:, [1, 0, 3, 2]]


def decode_corners(
    encodings: npt.NDArray[np.float32],
    anchors: npt.NDArray[np.float32],
    box_coder: tuple[float, float, float, float],
) -> npt.NDArray[np.float32]:
    """Return boxes (N, 4) as x1, y1, x2, y2 in the anchors' unit, not clipped.

    Source: bbox_transform_inv of keras-retinanet.

    Args:
        encodings: (N, 4) offsets of y1, x1, y2, x2 in fractions of the anchor's height and width.
        anchors: (N, 4) y_center, x_center, height, width.
        box_coder: scales that the offsets were multiplied by.
    """
    center, size = anchors[:, :2], anchors[:, 2:]
    corners = np.concatenate([center - size / 2, center + size / 2], axis=1)
    offsets = encodings / np.asarray(box_coder, np.float32) * np.concatenate([size, size], axis=1)
    moved: npt.NDArray[np.float32] = corners + offsets
    return moved[:, [1, 0, 3, 2]]


def pairwise_iou(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return intersection over union (N, M) of boxes (N, 4) and (M, 4), both x1, y1, x2, y2; 0 for empty boxes."""
    x1, y1, x2, y2 = first.T[:, :, None]
    other_x1, other_y1, other_x2, other_y2 = second.T[:, None, :]
    width = np.minimum(x2, other_x2) - np.maximum(x1, other_x1)
    height = np.minimum(y2, other_y2) - np.maximum(y1, other_y1)
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = (x2 - x1) * (y2 - y1) + (other_x2 - other_x1) * (other_y2 - other_y1) - intersection
    iou: npt.NDArray[np.float32] = intersection / np.maximum(union, np.finfo(np.float32).tiny)
    return iou
