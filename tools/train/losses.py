"""Focal loss (Lin et al. 2017) and GIoU loss (Rezatofighi et al. 2019) on raw network outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from tools.train.assign import IGNORED


def focal_loss(logits: Tensor, labels: Tensor, exhaustive: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the summed sigmoid focal loss.

    Args:
        logits: (N, A, C).
        labels: (N, A) class index, BACKGROUND or IGNORED.
        exhaustive: (N, C) bool; where False, an anchor without an object of the class teaches nothing.
        alpha: weight of the positive term.
        gamma: focusing exponent.
    """
    positive = labels >= 0
    target = torch.zeros_like(logits)
    target[positive] = F.one_hot(labels[positive], logits.shape[2]).to(logits.dtype)
    probability = torch.sigmoid(logits)
    certainty = torch.where(target > 0, probability, 1 - probability)
    weight = torch.where(target > 0, alpha, 1 - alpha) * (1 - certainty) ** gamma
    counted = (labels != IGNORED)[..., None] & (exhaustive[:, None] | (target > 0))
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * weight * counted).sum()


def decode_boxes(codes: Tensor, anchors: Tensor, scales: tuple[float, float, float, float]) -> Tensor:
    """Return (N, 4) x1, y1, x2, y2 from codes ty, tx, th, tw and anchors y, x, h, w of the same unit."""
    ty, tx, th, tw = (codes / codes.new_tensor(scales)).unbind(1)
    y, x, h, w = anchors.unbind(1)
    cy, cx = ty * h + y, tx * w + x
    half_h, half_w = th.clamp(-4, 4).exp() * h / 2, tw.clamp(-4, 4).exp() * w / 2
    return torch.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h], 1)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the summed 1 - GIoU of boxes (N, 4) x1, y1, x2, y2."""
    size_p, size_t = predicted[:, 2:] - predicted[:, :2], target[:, 2:] - target[:, :2]
    shared = torch.minimum(predicted[:, 2:], target[:, 2:]) - torch.maximum(predicted[:, :2], target[:, :2])
    intersection = shared.clamp(min=0).prod(1)
    union = size_p.prod(1) + size_t.prod(1) - intersection
    hull = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
    hull_area = hull.prod(1).clamp(min=1e-6)
    return (1 - intersection / union.clamp(min=1e-6) + (hull_area - union) / hull_area).sum()
