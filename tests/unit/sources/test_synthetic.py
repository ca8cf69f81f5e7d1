from __future__ import annotations

import numpy as np
import pytest

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


def test_options_of_the_uri() -> None:
    source = open_synthetic("?width=64&height=32&fps=10&frames=2")
    frame = source.read(0)
    assert frame is not None
    assert frame.size_wh == (64, 32)
    source.read(0)
    with pytest.raises(EndOfStream):
        source.read(0)
