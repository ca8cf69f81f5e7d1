"""TFLite_Detection_PostProcess behind a shipped model, against the runtime's own decoder of the raw heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert.tools", reason="needs LiteRT's flatbuffer tools: pip install ai-edge-litert")

import cv2

from edge_detector.assets import DEMO_CLIP
from edge_detector.backends.tflite import TfliteBackend
from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError
from edge_detector.frame import Frame
from edge_detector.loader import load_manifest
from edge_detector.manifest import DetectionOpOutputs, ModelManifest
from edge_detector.model_file import read_model_file, with_manifest
from edge_detector.registry import resolve_model
from tools.quantize.head import SCORE_THRESHOLD, append_detection_op

MODEL = resolve_model("ssd_resnet50_fpn_person_320_int8")


@pytest.fixture(scope="module")
def manifest() -> ModelManifest:
    """That of a shipped model, with four different scales so that none can stand for another."""
    found = load_manifest(MODEL)
    nms = found.nms.model_copy(update={"vote_iou": None})  # the operator has no voting: boxes are compared exactly
    outputs = found.outputs.model_copy(update={"box_coder": (10.0, 9.0, 5.0, 4.5)})
    return found.model_copy(update={"outputs": outputs, "nms": nms})


@pytest.fixture(scope="module")
def appended(manifest: ModelManifest) -> tuple[bytes, ModelManifest]:
    return append_detection_op(read_model_file(MODEL), manifest)


@pytest.fixture(scope="module")
def frame() -> Frame:
    capture = cv2.VideoCapture(str(DEMO_CLIP))
    good, image = capture.read()
    assert good
    return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8), 0, 0.0, 0.0, "clip")


def detect(manifest: ModelManifest, content: bytes, frame: Frame, threshold: float) -> Detections:
    detector = Detector(manifest, TfliteBackend(content), threshold)
    try:
        return detector.detect(frame)
    finally:
        detector.close()


@pytest.mark.parametrize("threshold", [0.4, SCORE_THRESHOLD + 0.01])
def test_detections_are_those_of_the_raw_heads(
    manifest: ModelManifest, appended: tuple[bytes, ModelManifest], frame: Frame, threshold: float
) -> None:
    content, described = appended
    wanted = detect(manifest, read_model_file(MODEL), frame, threshold)
    got = detect(described, content, frame, threshold)
    assert len(wanted) == len(got) > 2
    np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-5)
    for box, confidence in zip(wanted.xyxy, wanted.confidence, strict=True):
        same = np.abs(got.confidence - confidence) < 1e-5
        assert np.abs(got.xyxy[same] - box).max(axis=1).min() < 0.05  # pixels


def test_fast_nms_finds_the_same_where_there_is_one_class(
    manifest: ModelManifest, appended: tuple[bytes, ModelManifest], frame: Frame
) -> None:
    content, described = append_detection_op(read_model_file(MODEL), manifest, per_class=False)
    assert content != appended[0]
    wanted, got = detect(appended[1], appended[0], frame, 0.4), detect(described, content, frame, 0.4)
    np.testing.assert_array_equal(got.xyxy, wanted.xyxy)
    np.testing.assert_array_equal(got.confidence, wanted.confidence)


def test_the_operator_has_no_words_for_voting(manifest: ModelManifest, appended: tuple[bytes, ModelManifest]) -> None:
    voting = manifest.model_copy(update={"nms": manifest.nms.model_copy(update={"vote_iou": 0.7})})
    content, described = append_detection_op(read_model_file(MODEL), voting)
    assert described.nms.vote_iou is None
    assert content == appended[0]


def test_the_operator_drops_what_is_below_its_threshold(manifest: ModelManifest, frame: Frame) -> None:
    content, described = append_detection_op(read_model_file(MODEL), manifest, score_threshold=0.5)
    wanted = detect(manifest, read_model_file(MODEL), frame, 0.5)
    got = detect(described, content, frame, 0.0)
    assert 0 < len(got) == len(wanted)


def test_the_ports_are_in_the_operators_order(appended: tuple[bytes, ModelManifest], tmp_path: Path) -> None:
    content, described = appended
    backend = TfliteBackend(content)
    outputs = backend.infer(np.zeros(backend.input_shape, np.int8))
    kept = described.nms.max_detections
    assert [values.values.shape for values in outputs.values()] == [(1, kept, 4), (1, kept), (1, kept), (1,)]


def test_the_runtime_needs_no_manifest_for_it(
    appended: tuple[bytes, ModelManifest], manifest: ModelManifest, tmp_path: Path
) -> None:
    content, described = appended
    (tmp_path / "with.tflite").write_bytes(with_manifest(content, described))
    assert load_manifest(tmp_path / "with.tflite") == described
    (tmp_path / "without.tflite").write_bytes(content)
    (tmp_path / "labels.txt").write_text("person\n")
    found = load_manifest(tmp_path / "without.tflite", tmp_path / "labels.txt").outputs
    assert found == described.outputs
    assert isinstance(found, DetectionOpOutputs)


def test_corner_codes_are_refused(manifest: ModelManifest) -> None:
    outputs = manifest.outputs.model_copy(update={"box_coding": "corners"})
    with pytest.raises(ConfigError, match="cannot decode corner codes"):
        append_detection_op(read_model_file(MODEL), manifest.model_copy(update={"outputs": outputs}))
