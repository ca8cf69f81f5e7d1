"""Decoder for models that end in TFLite_Detection_PostProcess. Source: TensorFlow's detection_postprocess.cc."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from edge_detector.errors import ModelError
from edge_detector.manifest import DetectionOpOutputs, InputSpec
from edge_detector.quantization import RawOutputs


class DetectionOpDecoder:
    """Takes what the operator kept: its boxes and scores are final, so that no NMS follows.

    Outputs: boxes [1, M, 4] (y1, x1, y2, x2 as fractions of the canvas, not clipped), classes [1, M] (0-based, without
    background), scores [1, M], count [1]; rows after count are void.
    """

    def __init__(
        self, outputs: DetectionOpOutputs, input_spec: InputSpec, num_classes: int, score_threshold: float
    ) -> None:
        self.score_threshold = score_threshold
        self._outputs = outputs
        self._canvas_wh = input_spec.width, input_spec.height
        self._num_classes = num_classes

    def decode(self, raw: RawOutputs) -> Detections:
        """Return detections in canvas pixels, clipped to the canvas, best first.

        Raises:
            ModelError: the outputs are not those of the operator, or a class has no label.
        """
        boxes, classes, scores, count = (
            raw[name].dequantized()
            for name in (self._outputs.boxes, self._outputs.classes, self._outputs.scores, self._outputs.count)
        )
        rows = scores.size
        if boxes.size != 4 * rows or classes.size != rows or count.size != 1 or not 0 <= count.item() <= rows:
            raise ModelError(
                f"outputs do not fit together (boxes {boxes.shape}, classes {classes.shape}, scores {scores.shape}, "
                f"count {count.ravel()[:1]}); name them in the model's manifest"
            )
        valid = slice(int(count.item()))
        width, height = self._canvas_wh
        xyxy = boxes.reshape(-1, 4)[valid, [1, 0, 3, 2]] * np.array([width, height, width, height], np.float32)
        xyxy = np.clip(xyxy, 0, np.array([width, height, width, height], np.float32))
        confidence, class_id = scores.reshape(-1)[valid], np.rint(classes.reshape(-1)[valid]).astype(np.int64)
        has_area = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
        kept = np.flatnonzero(has_area & (confidence >= self.score_threshold))
        kept = kept[np.argsort(-confidence[kept], kind="stable")]
        self._check_classes(class_id[kept])
        return Detections(xyxy[kept], confidence[kept], class_id[kept])

    def _check_classes(self, class_id: npt.NDArray[np.int64]) -> None:
        if class_id.size and (class_id.min() < 0 or class_id.max() >= self._num_classes):
            raise ModelError(
                f"the model found classes {class_id.min()} to {class_id.max()}, but there are {self._num_classes} "
                "labels; give the labels that belong to it"
            )
