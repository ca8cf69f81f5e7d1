"""Before and behind an ONNX network: what the examples of ONNX Runtime and OpenCV do, letterbox to cv2's NMS.

The ONNX file ends in sigmoid and decoded boxes, as exported detectors do: scores (A, C) and boxes (A, 4) x1, y1, x2, y2
in pixels of the canvas. Mean and std are inside of it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tools.bench.contenders import Found
from tools.bench.kit import Kit


def blob_of(picture: npt.NDArray[np.uint8], kit: Kit) -> tuple[npt.NDArray[np.float32], float, tuple[int, int]]:
    """Return the float32 input (1, 3, side, side), the letterbox's scale and its bars left and above."""
    height, width = picture.shape[:2]
    scale = min(kit.side / width, kit.side / height)
    new_width, new_height = round(width * scale), round(height * scale)
    resized = cv2.resize(picture, (new_width, new_height))
    left, top = (kit.side - new_width) // 2, (kit.side - new_height) // 2
    right, bottom = kit.side - new_width - left, kit.side - new_height - top
    canvas = cv2.copyMakeBorder(resized, top, bottom, left, right, cv2.BORDER_CONSTANT, value=kit.fill)
    return np.asarray(cv2.dnn.blobFromImage(canvas), np.float32), scale, (left, top)


def found_in(
    scores: npt.NDArray[Any], boxes: npt.NDArray[Any], kit: Kit, scale: float, pad: tuple[int, int], size: Any
) -> Found:
    """Return the detections in pixels of the picture of `size` (height, width, ..)."""
    classes, confidence = scores.argmax(axis=1), scores.max(axis=1)
    chosen = confidence >= kit.threshold
    classes, confidence, boxes = classes[chosen], confidence[chosen], boxes[chosen]
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    best = cv2.dnn.NMSBoxesBatched(
        xywh.tolist(), confidence.tolist(), classes.tolist(), kit.threshold, kit.iou_threshold, top_k=0
    )
    kept = np.asarray(best, int).reshape(-1)[: kit.max_detections]
    xyxy = np.clip((boxes[kept] - [*pad, *pad]) / scale, 0, [size[1], size[0]] * 2)
    return Found(xyxy, confidence[kept], classes[kept])
