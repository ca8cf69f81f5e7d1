from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, ModelError
from edge_detector.frame import Frame
from edge_detector.sources.synthetic import SyntheticSource

BLUE = 2  # drawn last: never covered


def frame_of(image: np.ndarray) -> Frame:
    return Frame(image, 0, 0.0, 0.0, "test")


@pytest.mark.parametrize("input_wh", [(320, 240), (160, 160), (96, 200)])
def test_boxes_are_in_pixels_of_the_frame_whatever_the_canvas(
    color_detector: Callable[..., Detector], input_wh: tuple[int, int]
) -> None:
    detector = color_detector(input_wh)
    source = SyntheticSource(width=640, height=480, frames=20)
    scale = max(640 / input_wh[0], 480 / input_wh[1])
    for frame_id in range(20):
        frame = source.read(0)
        assert frame is not None
        found = detector.detect(frame)
        expected = np.clip(source.boxes(frame_id)[BLUE], 0, [640, 480, 640, 480])
        assert np.abs(found.xyxy[found.class_id == BLUE][0] - expected).max() <= scale


def test_timings_name_the_three_stages(color_detector: Callable[..., Detector]) -> None:
    _, timings_s = color_detector(delay_s=0.02).detect_timed(frame_of(np.zeros((120, 160, 3), np.uint8)))
    assert set(timings_s) == {"preprocess", "inference", "postprocess"}
    assert timings_s["inference"] >= 0.02
    assert all(seconds > 0 for seconds in timings_s.values())


def test_what_lies_in_the_bars_of_the_letterbox_is_no_detection(color_detector: Callable[..., Detector]) -> None:
    detector = color_detector((100, 100))
    bars_are_red = detector.manifest.model_copy(
        update={"input": detector.manifest.input.model_copy(update={"fill": (255, 0, 0)})}
    )
    wide = np.zeros((50, 100, 3), np.uint8)
    wide[10:20, 10:30] = (0, 255, 0)
    found = Detector(bars_are_red, detector.backend).detect(frame_of(wide))
    # The red of both bars spans the picture; a box in one bar alone has no area in the picture.
    assert found.class_id.tolist() == [0, 1]
    upper_only = bars_are_red.model_copy(
        update={"input": bars_are_red.input.model_copy(update={"placement": "top_left"})}
    )
    found = Detector(upper_only, detector.backend).detect(frame_of(wide))
    assert found.class_id.tolist() == [1]
    assert np.abs(found.xyxy[0] - [10, 10, 30, 20]).max() <= 1


def test_picture_of_one_pixel_gives_no_detections(color_detector: Callable[..., Detector]) -> None:
    assert len(color_detector().detect(frame_of(np.zeros((1, 1, 3), np.uint8)))) == 0


def test_threshold_of_the_caller_replaces_that_of_the_manifest(color_detector: Callable[..., Detector]) -> None:
    frame = SyntheticSource(frames=1).read(0)
    assert frame is not None
    assert color_detector().threshold == pytest.approx(0.4)
    assert len(color_detector(threshold=0.85).detect(frame)) == 3
    assert len(color_detector(threshold=0.95).detect(frame)) == 0


@pytest.mark.parametrize("threshold", [-0.1, 1.01, float("nan")])
def test_threshold_outside_0_to_1_is_a_config_error(color_detector: Callable[..., Detector], threshold: float) -> None:
    with pytest.raises(ConfigError, match="give a number from 0 to 1"):
        color_detector(threshold=threshold)


def test_manifest_for_another_input_size_is_a_model_error(color_detector: Callable[..., Detector]) -> None:
    with pytest.raises(ModelError, match="manifest says 160x120, but the model takes 32x16"):
        Detector(color_detector((160, 120)).manifest, color_detector((32, 16)).backend)


def test_unknown_model_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="no such model file"):
        Detector.open("missing.tflite")


def test_open_runs_a_real_model(shared: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"class {number}\n" for number in range(90)))
    detector = Detector.open(
        str(shared / "reference/tflite/tiny_tf215_float.tflite"), labels=labels, num_threads=1, threshold=0.0
    )
    image = np.random.default_rng(0).integers(0, 255, (300, 500, 3), dtype=np.uint8)
    found = detector.detect(frame_of(image))
    detector.close()
    assert len(found) > 0
    assert (np.diff(found.confidence) <= 0).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [500, 300, 500, 300]).all()
    assert (found.xyxy[:, :2] < found.xyxy[:, 2:]).all()
