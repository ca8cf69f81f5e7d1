from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("ai_edge_litert", reason="calibration runs on LiteRT: pip install ai-edge-litert")

from edge_detector.assets import DEMO_CLIP
from tools.quantize.lookalike import warnings_about

Photo = npt.NDArray[np.uint8]


def places(count: int) -> list[Photo]:
    """Return pictures of different scenes: smooth random patterns."""
    random = np.random.default_rng(0)
    return [
        cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
        for _ in range(count)
    ]


def clip() -> Iterator[Photo]:
    capture = cv2.VideoCapture(str(DEMO_CLIP))
    while True:
        good, frame = capture.read()
        if not good:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8)


def test_many_different_photos_call_for_no_warning() -> None:
    assert warnings_about(places(120)) == ()


def test_few_photos_call_for_a_warning() -> None:
    assert warnings_about(places(30)) == ("only 30 photos to calibrate on; with 100 or more ranges are reliable",)


def test_the_frames_of_a_fixed_camera_are_alike() -> None:
    (warning,) = warnings_about(clip())
    assert warning == "100% of the photos look like another one of them; add other places, times of day and weather"


def test_real_photos_of_different_places_are_not_alike(shared: Path) -> None:
    files = sorted((shared / "data" / "calibration").glob("*.jpg"))[:120]
    assert warnings_about(cv2.imread(str(file)) for file in files) == ()


def test_plain_pictures_divide_by_nothing() -> None:
    assert len(warnings_about([np.zeros((8, 8, 3), np.uint8)] * 2)) == 1
