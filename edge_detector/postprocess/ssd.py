"""SsdDecoder: raw SSD heads -> detections, touching no more values than needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from edge_detector.errors import ModelError
from edge_detector.manifest import LevelOutputs, NmsSpec, SsdRawOutputs
from edge_detector.postprocess.anchors import anchors_per_cell, generate_anchors, level_grids
from edge_detector.postprocess.boxes import decode_boxes, decode_corners
from edge_detector.postprocess.nms import suppress, vote
from edge_detector.postprocess.scores import ScoreFilter
from edge_detector.quantization import QuantizedTensor, RawOutputs

# Of each pyramid level only the best so many (anchor, class) pairs are decoded, as in torchvision's RetinaNet. At
# usual thresholds there are fewer; at very low ones this bounds the time per picture.
MAX_CANDIDATES_PER_LEVEL = 1000


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """One pyramid level: its anchors, and the slots of the output tensors that belong to them."""

    names: LevelOutputs
    first_anchor: int  # 0 unless the tensors hold several levels
    anchors: npt.NDArray[np.float32]
    scores: ScoreFilter


class SsdDecoder:
    """Score filter, box decoding and class-aware NMS of a model with raw outputs. Used by one thread only."""

    def __init__(
        self,
        outputs: SsdRawOutputs,
        input_wh: tuple[int, int],
        nms: NmsSpec,
        num_classes: int,
        score_threshold: float | None = None,
    ) -> None:
        """Lay out the anchors.

        Args:
            outputs: roles of the output tensors.
            input_wh: size of the canvas in pixels.
            nms: thresholds and the number of detections wanted.
            num_classes: without background.
            score_threshold: 0..1, replaces the one in `nms`.

        Raises:
            ModelError: the number of outputs fits no pyramid.
        """
        self._outputs = outputs
        self._canvas = np.array([*input_wh, *input_wh], np.float32)
        self._nms = nms
        self._num_classes = num_classes
        self._threshold = nms.score_threshold if score_threshold is None else score_threshold
        self._grids = level_grids(outputs.anchors, input_wh)
        counts = [rows * columns * anchors_per_cell(outputs.anchors) for rows, columns in self._grids]
        self._anchors = np.split(generate_anchors(outputs.anchors, input_wh), np.cumsum(counts)[:-1])
        if len(outputs.levels) not in (1, len(self._grids)):
            raise ModelError(
                f"the manifest names {len(outputs.levels)} pairs of outputs; wanted {len(self._grids)}, one per "
                "pyramid level, or 1 for all: correct outputs.levels or outputs.anchors"
            )
        self._levels: list[_Level] = []

    def decode(self, raw: RawOutputs) -> Detections:
        """Return the detections of one picture in canvas pixels, clipped to the canvas, best first.

        Boxes of which nothing is left after clipping are dropped before NMS; NMS and voting take unclipped boxes.

        Raises:
            ModelError: at the first call, if the outputs do not fit the manifest.
        """
        if not self._levels:
            self._levels = self._fit(raw)
        found = [self._candidates(level, raw) for level in self._levels]
        confidence, class_id, encodings, anchors = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if len(confidence) == 0:
            return Detections.empty()
        best_first = np.argsort(-confidence, kind="stable")
        decode = decode_corners if self._outputs.box_coding == "corners" else decode_boxes
        boxes = decode(encodings[best_first], anchors[best_first], self._outputs.box_coder) * self._canvas
        clipped = np.clip(boxes, 0, self._canvas)
        visible = np.flatnonzero((clipped[:, 2:] > clipped[:, :2]).all(axis=1))
        boxes, best_first = boxes[visible], best_first[visible]
        confidence, class_id = confidence[best_first], class_id[best_first]
        kept = suppress(boxes, class_id, self._nms.iou_threshold, self._nms.max_detections)
        if self._nms.vote_iou is None:
            chosen = clipped[visible[kept]]
        else:
            chosen = np.clip(vote(boxes, class_id, confidence, kept, self._nms.vote_iou), 0, self._canvas)
        return Detections(chosen, confidence[kept], class_id[kept])

    def _candidates(self, level: _Level, raw: RawOutputs) -> tuple[npt.NDArray[Any], ...]:
        """Return confidence (K,), class_id (K,), box encodings (K, 4) and anchors (K, 4) of what passes the filter."""
        background = int(self._outputs.background)
        own = slice(level.first_anchor, level.first_anchor + len(level.anchors))
        class_outputs = raw[level.names.class_logits].values.reshape(-1, self._num_classes + background)
        stored = class_outputs[own, background:].reshape(-1)
        passing = level.scores.best(stored, MAX_CANDIDATES_PER_LEVEL)
        anchor, class_id = np.divmod(passing.astype(np.int64), self._num_classes)
        boxes = raw[level.names.box_encodings]
        encodings = QuantizedTensor(boxes.values.reshape(-1, 4)[own][anchor], boxes.params).dequantized()
        return level.scores.confidence(stored[passing]), class_id, encodings, level.anchors[anchor]

    def _fit(self, raw: RawOutputs) -> list[_Level]:
        """Return the pyramid levels with their places in the outputs, after checking that these fit."""
        pairs = self._outputs.levels
        per_pair = len(self._anchors) // len(pairs)  # levels: one, or all
        levels = []
        for index, names in enumerate(pairs):
            own = slice(index * per_pair, (index + 1) * per_pair)
            slots = self._num_classes + int(self._outputs.background)
            class_logits = self._check(names.class_logits, raw, own, slots)
            self._check(names.box_encodings, raw, own, 4)
            scores = ScoreFilter.build(class_logits.params, self._outputs.scores, self._threshold)
            first_anchor = 0
            for anchors in self._anchors[own]:
                levels.append(_Level(names, first_anchor, anchors, scores))
                first_anchor += len(anchors)
        return levels

    def _check(self, name: str, raw: RawOutputs, levels: slice, depth: int) -> QuantizedTensor:
        """Return the output `name` if it holds `depth` numbers for each anchor of the pyramid levels, else raise."""
        if name not in raw:
            raise ModelError(f"the model has no output {name!r}, only {', '.join(raw)}: correct outputs.levels")
        output = raw[name]
        wanted: list[tuple[int, ...]] = [(1, sum(map(len, self._anchors[levels])), depth)]
        if len(self._grids[levels]) == 1:
            per_cell = anchors_per_cell(self._outputs.anchors)
            wanted += [(1, rows, columns, per_cell * depth) for rows, columns in self._grids[levels]]
        if output.values.shape not in wanted:
            raise ModelError(
                f"output {name!r} has shape {output.values.shape}, wanted {' or '.join(map(str, wanted))}: "
                "the manifest's labels, background, anchors or input size do not fit this model"
            )
        if output.params is None and output.values.dtype.kind != "f":
            raise ModelError(
                f"output {name!r} holds {output.values.dtype} without scale and zero point: convert it anew"
            )
        return output
