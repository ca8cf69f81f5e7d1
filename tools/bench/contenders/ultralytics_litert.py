"""LiteRT with ultralytics' LetterBox, non_max_suppression and scale_boxes, as its own TFLite loop has them.

The package reports usage to its makers unless told not to: `YOLO_OFFLINE`, which is set before the import, sees to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ultralytics.data.augment import LetterBox
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes

from tools.bench.contenders import Found, Laps
from tools.bench.contenders.numpy_heads import Heads, Network, normalized
from tools.bench.kit import Kit, Stored


class UltralyticsDecoding:
    """Stored outputs to detections."""

    def __init__(self, kit: Kit) -> None:
        torch.set_num_threads(kit.threads)
        self._kit, self._heads = kit, Heads(kit)

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        found = self.decode(given)
        laps("postprocess")
        return _found(found)

    def decode(self, stored: Stored) -> torch.Tensor:
        """Return (N, 6) x1, y1, x2, y2 in pixels of the canvas, score, class."""
        scores, boxes = self._heads(stored)
        boxes *= self._kit.side
        xywh = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        predictions = torch.from_numpy(np.concatenate([xywh, scores], axis=1).T[None])
        return non_max_suppression(
            predictions,
            conf_thres=self._kit.threshold,
            iou_thres=self._kit.iou_threshold,
            max_det=self._kit.max_detections,
            nc=self._kit.classes,
        )[0]


class UltralyticsLiteRT:
    """The whole way."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._network, self._decoding = kit, Network(kit), UltralyticsDecoding(kit)
        self._letterbox = LetterBox((kit.side, kit.side), auto=False, padding_value=kit.fill[0])

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        canvas = self._letterbox(image=given)
        tensor = self._network.quantize(normalized(canvas, self._kit))[None]
        laps("preprocess")
        stored = self._network.run(tensor)
        laps("invoke")
        found = self._decoding.decode(stored)
        found[:, :4] = scale_boxes(canvas.shape[:2], found[:, :4], given.shape)
        laps("postprocess")
        return _found(found)


def _found(rows: torch.Tensor) -> Found:
    values: npt.NDArray[np.float32] = rows.numpy()
    return Found(values[:, :4], values[:, 4], values[:, 5].astype(int))
