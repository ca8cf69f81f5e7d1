"""Detection JSON, schema 1: the one shape in which results leave as text (JSONL, HTTP and later sinks)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from edge_detector.frame import FrameResult

SCHEMA_VERSION = 1


def to_json(result: FrameResult, labels: Sequence[str], model_name: str) -> str:
    """Return one result as compact JSON on one line, without a line feed.

    `ts` is in seconds since the epoch; `box` in pixels of the original frame, `box_norm` in fractions of its width
    and height, both x1, y1, x2, y2; `age_ms` says how much older the detections are than the frame; `device` what
    computed them.
    """
    width, height = result.frame.size_wh
    document = {
        "schema": SCHEMA_VERSION,
        "ts": round(result.frame.wall_time, 3),
        "frame_id": result.frame.frame_id,
        "camera": result.camera,
        "source": result.frame.source,
        "width": width,
        "height": height,
        "model": model_name,
        "device": result.device,
        "latency_ms": {stage: round(seconds * 1e3, 3) for stage, seconds in result.timings_s.items()},
        "age_ms": round(result.age_s * 1e3, 1),
        "detections": list(_detections(result, labels)),
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _detections(result: FrameResult, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    width, height = result.frame.size_wh
    found = result.detections
    for index, box in enumerate(found.xyxy.tolist()):
        class_id = int(found.class_id[index])
        detection: dict[str, Any] = {
            "label": labels[class_id],
            "class_id": class_id,
            "score": round(float(found.confidence[index]), 4),
            "box": [round(value, 2) for value in box],
            "box_norm": [round(value / side, 5) for value, side in zip(box, (width, height) * 2, strict=True)],
        }
        if found.tracker_id is not None:
            detection["track_id"] = int(found.tracker_id[index])
        yield detection
