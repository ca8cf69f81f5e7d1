"""The loop of the usual TFLite examples, for a network with raw heads: stretch, floats everywhere, NMS per class.

Like the examples of TensorFlow, picamera2 and EdjeElectronics, which all stretch the picture onto the input; they leave
boxes and NMS to an operator in the model, so that this part is the NumPy of SSD and RetinaNet tutorials.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tools.bench.contenders import Found, Laps
from tools.bench.contenders.numpy_heads import Heads, Network, normalized
from tools.bench.kit import Kit, Stored


def nms(boxes: npt.NDArray[Any], scores: npt.NDArray[Any], iou_threshold: float) -> list[int]:
    """Return what to keep, best first: the NumPy NMS of Fast R-CNN that everybody copies."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    order = scores.argsort()[::-1]
    keep = []
    while order.size > 0:
        best = order[0]
        keep.append(int(best))
        width = np.maximum(0, np.minimum(x2[best], x2[order[1:]]) - np.maximum(x1[best], x1[order[1:]]))
        height = np.maximum(0, np.minimum(y2[best], y2[order[1:]]) - np.maximum(y1[best], y1[order[1:]]))
        overlap = width * height
        iou = overlap / (areas[best] + areas[order[1:]] - overlap)
        order = order[1:][iou <= iou_threshold]
    return keep


class ExampleDecoding:
    """Stored outputs to detections."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._heads = kit, Heads(kit)

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        found = self.decode(given, self._kit.side, self._kit.side)
        laps("postprocess")
        return found

    def decode(self, stored: Stored, width: int, height: int) -> Found:
        """Return the detections in a picture of this size."""
        scores, boxes = self._heads(stored)
        boxes = boxes * np.array([width, height, width, height], np.float32)
        found = []
        for class_id in range(self._kit.classes):
            passing = np.where(scores[:, class_id] >= self._kit.threshold)[0]
            for index in nms(boxes[passing], scores[passing, class_id], self._kit.iou_threshold):
                found.append((scores[passing[index], class_id], class_id, boxes[passing[index]]))
        if not found:
            return Found.nothing()
        found.sort(key=lambda item: -item[0])
        kept_scores, classes, kept_boxes = zip(*found[: self._kit.max_detections], strict=True)
        return Found(np.clip(kept_boxes, 0, [width, height] * 2), np.array(kept_scores), np.array(classes))


class ExampleLoop:
    """The whole way."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._network, self._decoding = kit, Network(kit), ExampleDecoding(kit)

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        height, width = given.shape[:2]
        resized = cv2.resize(given, (self._kit.side, self._kit.side))
        tensor = np.expand_dims(self._network.quantize(normalized(resized, self._kit)), axis=0)
        laps("preprocess")
        stored = self._network.run(tensor)
        laps("invoke")
        found = self._decoding.decode(stored, width, height)
        laps("postprocess")
        return found
