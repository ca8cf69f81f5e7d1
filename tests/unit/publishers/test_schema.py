from __future__ import annotations

import json
from collections.abc import Callable

from edge_detector.frame import FrameResult
from edge_detector.publishers.schema import to_json

MakeResult = Callable[..., FrameResult]


def test_document_has_the_fields_of_schema_1(make_result: MakeResult) -> None:
    result = make_result([(16, 12, 80, 60)], frame_id=7, age_s=0.25)
    assert json.loads(to_json(result, ("person",), "tiny")) == {
        "schema": 1,
        "ts": 1700000000.123,
        "frame_id": 7,
        "camera": "camera",
        "source": "clip.mp4",
        "width": 160,
        "height": 120,
        "model": "tiny",
        "device": "",
        "latency_ms": {"preprocess": 2.0, "inference": 400.0},
        "age_ms": 250.0,
        "still": False,
        "detections": [
            {"label": "person", "class_id": 0, "score": 0.9, "box": [16, 12, 80, 60], "box_norm": [0.1, 0.1, 0.5, 0.5]}
        ],
    }


def test_track_id_is_there_only_where_something_tracks(make_result: MakeResult) -> None:
    boxes = [(0, 0, 9, 9), (5, 5, 9, 9)]
    tracked = json.loads(to_json(make_result(boxes, tracker_ids=[31, 8]), ("person",), "tiny"))
    plain = json.loads(to_json(make_result(boxes), ("person",), "tiny"))
    assert [found["track_id"] for found in tracked["detections"]] == [31, 8]
    assert all("track_id" not in found for found in plain["detections"])


def test_text_is_one_line_and_keeps_other_scripts(make_result: MakeResult) -> None:
    text = to_json(make_result(source="a\nb"), ("犬",), "tiny")
    assert "\n" not in text
    assert "犬" in text
    assert json.loads(text)["source"] == "a\nb"


def test_nothing_found_is_an_empty_list(make_result: MakeResult) -> None:
    assert json.loads(to_json(make_result([]), (), "tiny"))["detections"] == []
