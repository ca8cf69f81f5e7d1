"""JSON, schema 1: the one shape in which results and events leave as text (JSONL, HTTP and later sinks)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from edge_detector.events import Alert, Event
from edge_detector.frame import FrameResult

SCHEMA_VERSION = 1


def to_json(result: FrameResult, labels: Sequence[str], model_name: str) -> str:
    """Return one result as compact JSON on one line, without a line feed.

    `ts` is in seconds since the epoch, of a video file since its beginning; `box` in pixels of the original frame,
    `box_norm` in fractions of its width and height, both x1, y1, x2, y2; `age_ms` says how much older than the frame
    the newest search is, and that of an object when the model found it last; `still` that nothing moves, so that
    searches are rare; `device` what computed them. Of files `latency_ms` is empty, so that the same file gives the
    same text.
    """
    width, height = result.frame.size_wh
    document: dict[str, Any] = {
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
        "still": result.still,
        "detections": list(_detections(result, labels)),
    }
    if result.line_counts:
        document["lines"] = result.line_counts
    return compact(document)


def event_to_json(event: Event | Alert) -> str:
    """Return an event or alert as compact JSON on one line, without a line feed.

    `ts` is when it happened, in seconds since the epoch: of an event, when its object was last seen.
    """
    document: dict[str, Any] = {"schema": SCHEMA_VERSION}
    if isinstance(event, Alert):
        document |= {"type": "alert", "rule": event.rule, "ts": round(event.ts, 3), "count": event.count}
    else:
        seen = event.object
        document |= {"type": event.kind, "ts": round(seen.seen_ts if seen.end_ts is None else seen.end_ts, 3)}
    return compact(document | {"object": event.object.to_json()})


def compact(document: Any) -> str:
    """Return JSON values as text on one line, without spaces, other scripts as they are.

    Raises:
        ValueError: a number is not finite.
    """
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
        if result.ages_s is not None:
            detection["age_ms"] = round(float(result.ages_s[index]) * 1e3, 1)
        if result.zones:
            detection["zones"] = list(result.zones[index])
        yield detection
