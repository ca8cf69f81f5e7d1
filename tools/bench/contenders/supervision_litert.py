"""LiteRT with supervision: its letterbox, its Detections and its NMS; NumPy decodes the network's codes before."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import supervision as sv

from tools.bench.contenders import Found, Laps
from tools.bench.contenders.numpy_heads import Heads, Network, normalized
from tools.bench.kit import Kit, Stored


class SupervisionDecoding:
    """Stored outputs to detections: the best class of each anchor, as supervision's own connectors have it."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._heads = kit, Heads(kit)

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        found = self.decode(given)
        laps("postprocess")
        return _found(found)

    def decode(self, stored: Stored) -> sv.Detections:
        """Return the detections in pixels of the canvas."""
        scores, boxes = self._heads(stored)
        class_id, confidence = scores.argmax(axis=1), scores.max(axis=1)
        chosen = confidence >= self._kit.threshold
        detections = sv.Detections(
            xyxy=boxes[chosen] * self._kit.side, confidence=confidence[chosen], class_id=class_id[chosen]
        )
        return detections.with_nms(threshold=self._kit.iou_threshold)


class SupervisionLiteRT:
    """The whole way."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._network, self._decoding = kit, Network(kit), SupervisionDecoding(kit)

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        height, width = given.shape[:2]
        side = self._kit.side
        canvas = sv.letterbox_image(given, (side, side), color=self._kit.fill)
        tensor = self._network.quantize(normalized(canvas, self._kit))[None]
        laps("preprocess")
        stored = self._network.run(tensor)
        laps("invoke")
        detections = self._decoding.decode(stored)
        scale = min(side / width, side / height)
        pad = (side - int(width * scale)) // 2, (side - int(height * scale)) // 2
        detections.xyxy = _clipped((detections.xyxy - [*pad, *pad]) / scale, width, height)
        laps("postprocess")
        return _found(detections)


def _clipped(xyxy: npt.NDArray[Any], width: int, height: int) -> npt.NDArray[Any]:
    return np.asarray(sv.clip_boxes(xyxy, (width, height)))


def _found(detections: sv.Detections) -> Found:
    return Found(detections.xyxy, detections.confidence, detections.class_id)
