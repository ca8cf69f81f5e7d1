"""The shipped models find the same people in the demo clip on every runtime and version.

The expectation was written by LiteRT 2.3.0 on x86-64: `python tests/integration/test_shipped_models.py` writes it anew.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_detector.assets import DEMO_CLIP
from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.frame import Frame
from edge_detector.postprocess.boxes import pairwise_iou
from edge_detector.registry import list_models
from edge_detector.sources import open_source

EXPECTED = Path(__file__).parents[1] / "fixtures" / "demo_detections.json"
FRAMES = (0, 120, 240)
SURE = 0.5
SCORE_TOLERANCE = 0.1  # int8 kernels of different runtimes differ by up to 19 steps


def demo_frames() -> dict[int, Frame]:
    with closing(open_source(str(DEMO_CLIP))) as clip:
        frames = [clip.read(1.0) for _ in range(max(FRAMES) + 1)]
    return {index: frame for index in FRAMES if (frame := frames[index]) is not None}


def unmatched(detections: Detections, others: Detections) -> int:
    """Return how many of the sure `detections` have no like among `others`."""
    sure = detections[detections.confidence >= SURE]
    alike = pairwise_iou(sure.xyxy, others.xyxy) >= 0.7
    alike &= np.abs(sure.confidence[:, None] - others.confidence) <= SCORE_TOLERANCE
    return int((~alike.any(axis=1)).sum())


@pytest.mark.parametrize("name", sorted(json.loads(EXPECTED.read_text())))
def test_shipped_model_finds_the_people_of_the_demo_clip(name: str) -> None:
    expected = json.loads(EXPECTED.read_text())[name]
    with closing(Detector.open(name, threshold=0.3)) as detector:
        for index, frame in demo_frames().items():
            wanted = from_rows(expected[str(index)])
            found = detector.detect(frame)
            assert sum(wanted.confidence >= SURE) >= 2  # people are in each of these frames
            assert unmatched(wanted, found) == 0, f"frame {index}: people are missed"
            assert unmatched(found, wanted) == 0, f"frame {index}: people are invented"


def test_every_shipped_model_is_expected_to_find_something() -> None:
    assert set(list_models()) == set(json.loads(EXPECTED.read_text()))


def from_rows(rows: list[list[float]]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4], np.zeros(len(table), np.int64))


def write_expectation() -> None:
    expected: dict[str, dict[int, list[list[float]]]] = {}
    for name in list_models():
        with closing(Detector.open(name, threshold=0.3)) as detector:
            expected[name] = {}
            for index, frame in demo_frames().items():
                found = detector.detect(frame)
                rows = np.column_stack([found.xyxy.round(1), found.confidence.round(3)]).astype(float)
                expected[name][index] = [[round(value, 3) for value in row] for row in rows.tolist()]
    EXPECTED.write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    write_expectation()
