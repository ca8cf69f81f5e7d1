from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import ModelError
from edge_detector.frame import Frame
from edge_detector.loader import load_manifest, load_model
from edge_detector.manifest import SsdRawOutputs
from edge_detector.model_file import append_manifest

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n")
    return path


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copy(FIXTURES / f"{name}.tflite", folder))


def test_model_with_metadata_needs_nothing_else() -> None:
    loaded = load_model(FIXTURES / "detection_op.tflite", num_threads=1)
    assert loaded.manifest.name == "detection_op"
    assert loaded.manifest.labels == ("cat", "dog")
    assert loaded.manifest.input.std == (255.0, 255.0, 255.0)
    assert loaded.manifest.outputs.kind == "detection_postprocess_op"
    assert "1 threads" in loaded.backend.name
    picture = np.full((64, 64, 3), (230, 204, 77), np.uint8)
    found = Detector(loaded.manifest, loaded.backend, 0.5).detect(Frame(picture, 0, 0.0, 0.0, "test"))
    np.testing.assert_allclose(found.confidence, [0.902, 0.72, 0.631], atol=1e-3)


def test_manifest_in_the_file_goes_before_rules(tmp_path: Path, labels: Path) -> None:
    path = copied("raw_heads", tmp_path)
    derived = load_manifest(path, labels)
    assert isinstance(derived.outputs, SsdRawOutputs)
    stated = derived.model_copy(update={"name": "mine", "labels": ("a", "b")})
    append_manifest(path, stated)
    assert load_manifest(path) == stated
    assert load_manifest(path, labels).labels == ("cat", "dog")


def test_parts_in_the_file_beside_the_model_go_before_the_models_own(tmp_path: Path) -> None:
    path = copied("detection_op", tmp_path)
    spec = {"width": 64, "height": 64, "mean": [1, 2, 3], "resize": "letterbox"}
    path.with_suffix(".json").write_text(json.dumps({"input": spec, "labels": ["x", "y"]}))
    manifest = load_manifest(path)
    assert (manifest.input.mean, manifest.input.resize) == ((1.0, 2.0, 3.0), "letterbox")
    assert manifest.labels == ("x", "y")
    assert manifest.outputs == load_manifest(FIXTURES / "detection_op.tflite").outputs


def test_faults_in_the_file_beside_the_model_are_named(tmp_path: Path) -> None:
    path = copied("detection_op", tmp_path)
    path.with_suffix(".json").write_text('{"inputs": {}}')
    with pytest.raises(ModelError, match="inputs: Extra inputs are not permitted"):
        load_manifest(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ModelError, match=r"detection_op\.json: not valid JSON"):
        load_manifest(path)


def test_model_without_labels_or_with_unknown_outputs_is_refused(labels: Path) -> None:
    with pytest.raises(ModelError, match=r"raw_heads\.tflite: has no labels; give a labels file"):
        load_manifest(FIXTURES / "raw_heads.tflite")
    with pytest.raises(ModelError, match=r"unknown outputs: embedding float32 \[1,2064\]"):
        load_manifest(FIXTURES / "unknown_outputs.tflite")


def test_labels_that_do_not_match_are_refused_with_both_numbers(labels: Path) -> None:
    with pytest.raises(ModelError, match="has 90 classes, but there are 2 labels"):
        load_model(FIXTURES / "od_api_tiny_int8.tflite", labels)


@pytest.mark.parametrize("kept", [0, 5, 8, 300, 1_000_000])
def test_cut_off_file_is_refused_in_one_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes((FIXTURES / "od_api_tiny_int8.tflite").read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"cut\.tflite: ") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def find_in_reference(shared: Path, name: str) -> Detections:
    names = shared / "reference" / "odapi_full" / "coco_91_categories.txt"
    loaded = load_model(shared / "reference" / "tflite" / f"{name}.tflite", names, num_threads=1)
    picture = np.load(shared / "reference" / "odapi_tiny" / "compact_640.npz")["image_uint8"][0]
    return Detector(loaded.manifest, loaded.backend, 0.3).detect(Frame(picture, 0, 0.0, 0.0, "reference"))


@pytest.mark.parametrize("name", ["tiny_tf215_float", "tiny_tf219_float"])
def test_exported_model_finds_what_the_object_detection_api_found(shared: Path, name: str) -> None:
    reference = np.load(shared / "reference" / "odapi_tiny" / "compact_640.npz")
    wanted = reference["detection_boxes"][0][:, [1, 0, 3, 2]] * 640
    classes, scores = reference["detection_classes_zero_based"][0], reference["detection_scores"][0]
    found = find_in_reference(shared, name)
    assert len(found) == 10
    for xyxy, class_id, confidence in zip(found.xyxy, found.class_id, found.confidence, strict=True):
        # The operator's NMS ignores classes, so that it keeps a part of what the API's keeps, with the same scores.
        same = (classes == class_id) & (np.abs(scores - confidence) < 1e-3)
        assert np.abs(wanted[same] - xyxy).max(axis=1).min() < 0.1


def test_exports_with_signed_and_unsigned_input_find_the_same(shared: Path) -> None:
    signed, unsigned = (find_in_reference(shared, name) for name in ("tiny_tf219_int8_io", "tiny_tf215_uint8_io"))
    assert len(signed) == 10
    np.testing.assert_array_equal(signed.class_id, unsigned.class_id)
    np.testing.assert_allclose(signed.confidence, unsigned.confidence, atol=0.01)
    np.testing.assert_allclose(signed.xyxy, unsigned.xyxy, atol=1)
