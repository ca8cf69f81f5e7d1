"""COCO average precision of detections, however they were made."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edge_detector.detections import Detections
from tools.evaluate.annotations import Annotations, LabelMatch

MAX_DETECTIONS = 100  # per picture, as COCO counts


@dataclass(frozen=True)
class Figures:
    """COCO's figures, each 0..1 and None where there is no object of the kind.

    `ap` is the mean over IoU 0.50:0.05:0.95; small, medium, large are areas below 32², below 96² and above, in square
    pixels of the picture; `ar_100` is the recall with 100 detections per picture.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar_100: float | None


@dataclass(frozen=True)
class Score:
    """Figures over all scored classes, and for each by name; `objects` counts the boxes that are no crowd."""

    overall: Figures
    per_class: Mapping[str, Figures]
    objects: Mapping[str, int]


def score(annotations: Annotations, match: LabelMatch, found: Mapping[int, Detections]) -> Score:
    """Return COCO's figures for detections in source pixels, by image id; only matched classes count."""
    category_ids = sorted(category for category in match.category_ids if category is not None)  # as COCOeval does
    results = [record for image_id, detections in found.items() for record in _records(image_id, detections, match)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports every step there
        truth = _index(annotations, list(annotations.objects))
        evaluation = COCOeval(truth, _index(annotations, results), "bbox")
        evaluation.params.imgIds = sorted(found)
        evaluation.params.catIds = category_ids
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    every = slice(None)
    names = [annotations.categories[category] for category in category_ids]
    return Score(
        _figures(precision, recall, every),
        {name: _figures(precision, recall, slice(index, index + 1)) for index, name in enumerate(names)},
        {name: _count(annotations, found, category) for name, category in zip(names, category_ids, strict=True)},
    )


def _records(image_id: int, detections: Detections, match: LabelMatch) -> list[dict[str, Any]]:
    """Return detections as COCO result records; area and id are those that its own reader adds."""
    records = []
    corners = detections.xyxy.astype(np.float64).tolist()
    rows = zip(corners, detections.confidence.tolist(), detections.class_id.tolist(), strict=True)
    for (x1, y1, x2, y2), confidence, class_id in rows:
        category = match.category_ids[class_id]
        if category is not None:
            bbox = [x1, y1, x2 - x1, y2 - y1]
            record = {"image_id": image_id, "category_id": category, "bbox": bbox, "score": confidence}
            records.append(record | {"area": bbox[2] * bbox[3], "iscrowd": 0})
    return records


def _index(annotations: Annotations, records: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": picture.image_id} for picture in annotations.pictures],
        "categories": [{"id": category, "name": name} for category, name in annotations.categories.items()],
        "annotations": [record | {"id": number} for number, record in enumerate(records, 1)],
    }
    coco.createIndex()
    return coco


def _figures(precision: npt.NDArray[np.float64], recall: npt.NDArray[np.float64], classes: slice) -> Figures:
    """Read COCOeval's arrays: precision (IoU, recall, class, area, limit), recall (IoU, class, area, limit)."""

    def ap(iou: slice, area: int) -> float | None:
        return _mean(precision[iou, :, classes, area, -1])

    every = slice(None)
    return Figures(
        ap(every, 0),
        ap(slice(0, 1), 0),
        ap(slice(5, 6), 0),
        ap(every, 1),
        ap(every, 2),
        ap(every, 3),
        _mean(recall[:, classes, 0, -1]),
    )


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """Return the mean of what is defined; COCOeval writes -1 where a class has no object."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _count(annotations: Annotations, found: Mapping[int, Detections], category: int) -> int:
    return sum(
        record["category_id"] == category and record["image_id"] in found and not record["iscrowd"]
        for record in annotations.objects
    )
