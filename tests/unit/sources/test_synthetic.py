from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from edge_detector.detector import Detector
from edge_detector.errors import EndOfStream, SourceError
from edge_detector.sources.synthetic import SyntheticSource, open_synthetic


def test_pictures_show_the_boxes_where_the_truth_says() -> None:
    source = SyntheticSource(width=200, height=100, frames=120)
    for frame_id in range(120):
        frame = source.read(0)
        assert frame is not None
        expected = np.full((100, 200), False)
        for x1, y1, x2, y2 in source.boxes(frame_id):
            assert 0 <= x1 < x2 <= 200
            assert 0 <= y1 < y2 <= 100
            expected[y1:y2, x1:x2] = True
        background = (frame.image == frame.image[..., :1]).all(axis=2)
        assert (background == ~expected).all()


def test_boxes_move() -> None:
    source = SyntheticSource()
    assert (source.boxes(0) != source.boxes(10)).any(axis=1).all()


def test_declared_fault_is_raised_once_and_leaves_a_gap() -> None:
    source = SyntheticSource(frames=4, faults={1: SourceError("planned")})
    first = source.read(0)
    with pytest.raises(SourceError, match="planned"):
        source.read(0)
    second = source.read(0)
    assert first is not None
    assert second is not None
    assert (first.frame_id, second.frame_id) == (0, 2)


@pytest.mark.parametrize("size_wh", [(768, 576), (640, 480)])
def test_people_of_the_scene_are_found_where_the_truth_says(size_wh: tuple[int, int]) -> None:
    source = open_synthetic(f"?scene=people&width={size_wh[0]}&height={size_wh[1]}&frames=200")
    assert isinstance(source, SyntheticSource)
    found = wanted = 0
    with closing(Detector.open("person-640", threshold=0.3)) as detector:
        for frame_id in range(200):
            frame = source.read(0)
            assert frame is not None
            assert frame.size_wh == size_wh
            if frame_id % 40:
                continue
            overlaps = iou(source.boxes(frame_id).astype(np.float32), detector.detect(frame).xyxy)
            wanted += len(overlaps)
            found += int((overlaps.max(axis=1, initial=0) > 0.5).sum())
    assert wanted == 15
    assert found >= 13


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the overlaps, (N, M), of boxes x1, y1, x2, y2."""
    low, high = np.maximum(first[:, None, :2], second[:, :2]), np.minimum(first[:, None, 2:], second[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)


@pytest.mark.parametrize("query", ["faults=melt@3", "faults=hang", "scene=moon", "faults=hang@x"])
def test_faults_and_scenes_that_there_are_none_of_are_refused(query: str) -> None:
    with pytest.raises(SourceError, match=r"give .*scene=boxes\|people, faults=unplug\|stall\|freeze\|hang@FRAME"):
        open_synthetic(f"?{query}")


def test_options_of_the_uri() -> None:
    source = open_synthetic("?width=64&height=32&fps=10&frames=2")
    frame = source.read(0)
    assert frame is not None
    assert frame.size_wh == (64, 32)
    source.read(0)
    with pytest.raises(EndOfStream):
        source.read(0)
