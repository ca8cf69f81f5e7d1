from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from edge_detector.manifest import DetectionOpOutputs, InputSpec
from edge_detector.postprocess.detection_op import DetectionOpDecoder
from edge_detector.quantization import QuantizedTensor, RawOutputs

CANVAS = InputSpec(width=200, height=100)


def decoder(threshold: float = 0.1, canvas: InputSpec = CANVAS) -> DetectionOpDecoder:
    outputs = DetectionOpOutputs(boxes="port:0", classes="port:1", scores="port:2", count="port:3")
    return DetectionOpDecoder(outputs, canvas, num_classes=2, score_threshold=threshold)


def raw(boxes: npt.ArrayLike, classes: npt.ArrayLike, scores: npt.ArrayLike, count: float) -> RawOutputs:
    arrays = ([boxes], [classes], [scores], [count])
    return {f"port:{i}": QuantizedTensor(np.array(array, np.float32)) for i, array in enumerate(arrays)}


def test_boxes_of_a_real_model_are_its_anchors_clipped_to_the_canvas(repository: Path) -> None:
    backend = TfliteBackend(repository / "tests" / "fixtures" / "detection_op.tflite", 1)
    tensor = np.full((1, 64, 64, 3), (0.9, 0.8, 0.3), np.float32)
    found = decoder(0.1, InputSpec(width=64, height=64)).decode(backend.infer(tensor))
    # Anchors 0, 1 and 3; anchor 2 lies below the canvas.
    np.testing.assert_allclose(found.confidence, [0.9, 0.72, 0.63], atol=1e-4)
    np.testing.assert_array_equal(found.class_id, [0, 1, 1])
    np.testing.assert_allclose(found.xyxy, [[24, 16, 40, 48], [48, 16, 64, 48], [0, 0, 32, 32]], atol=1e-3)
    assert (found.xyxy.dtype, found.confidence.dtype, found.class_id.dtype) == (np.float32, np.float32, np.int64)


def test_rows_after_count_are_void() -> None:
    boxes = [[0, 0, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]]
    assert len(decoder().decode(raw(boxes, [0, 1], [0.9, 0.8], 2))) == 2
    assert len(decoder().decode(raw(boxes, [0, 1], [0.9, 0.8], 1))) == 1
    assert len(decoder().decode(raw(boxes, [0, 1], [0.9, 0.8], 0))) == 0


def test_threshold_is_inclusive_and_best_comes_first() -> None:
    boxes = [[0, 0, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 1, 1]]
    found = decoder(0.5).decode(raw(boxes, [0, 1, 1], [0.5, 0.49, 0.75], 3))
    np.testing.assert_array_equal(found.confidence, [0.75, 0.5])
    np.testing.assert_array_equal(found.xyxy, [[100, 50, 200, 100], [0, 0, 100, 50]])


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.5, 0.9], [0.6, 0.1, 0.4, 0.9], [0.1, 1.1, 0.9, 1.5], [np.nan, 0, 1, 1]])
def test_boxes_without_area_on_the_canvas_are_dropped(box: list[float]) -> None:
    found = decoder().decode(raw([box, [0.1, 0.2, 0.3, 0.4]], [0, 1], [0.9, 0.8], 2))
    np.testing.assert_array_equal(found.class_id, [1])


@pytest.mark.parametrize("count", [-1, 3, np.nan])
def test_count_that_is_no_count_says_that_outputs_are_mixed_up(count: float) -> None:
    with pytest.raises(ModelError, match="do not fit together"):
        decoder().decode(raw([[0, 0, 1, 1], [0, 0, 1, 1]], [0, 1], [0.9, 0.8], count))


def test_class_without_label_is_an_error_only_if_it_is_found() -> None:
    outputs = raw([[0, 0, 1, 1], [0, 0, 1, 1]], [0, 2], [0.9, 0.2], 2)
    assert len(decoder(0.5).decode(outputs)) == 1
    with pytest.raises(ModelError, match="classes 0 to 2, but there are 2 labels"):
        decoder(0.1).decode(outputs)
