"""Importer, network and decoder against the TF Object Detection API itself (its tiny variant, random weights)."""

from __future__ import annotations

import dataclasses
import tarfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")

from edge_detector.labels import UNUSED
from edge_detector.manifest import LevelOutputs, NmsSpec, SsdRawOutputs
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.quantization import QuantizedTensor
from tools.network.importers import ImportedNetwork, canonical, registry
from tools.network.keras_model import LEVELS, build_keras
from tools.network.manifest import anchor_spec


def imported(path: Path, workdir: Path) -> ImportedNetwork:
    name = registry.recognise(path)
    assert name == "odapi-tf2"
    return registry.load(path, name, workdir, None, None)


def joined(outputs: dict[str, np.ndarray], name: str, depth: int) -> np.ndarray:
    return np.concatenate([outputs[f"{name}_p{level}"].numpy().reshape(-1, depth) for level in LEVELS])


@pytest.mark.parametrize("layout", ["checkpoint", "zoo_format"])
@pytest.mark.parametrize("side", [320, 640])
def test_outputs_equal_the_object_detection_apis(side: int, layout: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "reference" / "odapi_tiny"
    source = imported(folder / layout, tmp_path)
    assert len(source.weights) == 463
    assert (source.input.width, source.input.height, source.input.resize) == (640, 640, "stretch")
    network = canonical(source)
    assert (network.arch.num_classes, len(network.labels), network.labels[79]) == (80, 80, "toothbrush")
    reference = np.load(folder / f"compact_{side}.npz")
    outputs = build_keras(network.arch, network.weights, (side, side))(reference["image_uint8"].astype(np.float32))

    used = np.array([label != UNUSED for label in source.labels])
    wanted_logits = reference["class_logits_sub"][0, :, 1:][:, used]
    wanted_boxes = reference["box_encodings_sub"][0]
    assert wanted_logits.std() > 0.01  # else nothing would be compared
    assert np.abs(joined(outputs, "class_logits", 80)[reference["anchor_index"]] - wanted_logits).max() < 2e-4
    assert np.abs(joined(outputs, "box_encodings", 4)[reference["anchor_index"]] - wanted_boxes).max() < 2e-4


@pytest.mark.parametrize("side", [320, 640])
def test_detections_equal_the_object_detection_apis(side: int, shared: Path, tmp_path: Path) -> None:
    """With a name for each of the 90 ids, since the API detects unused ones too."""
    folder = shared / "reference" / "odapi_tiny"
    source = imported(folder / "zoo_format", tmp_path)
    network = canonical(dataclasses.replace(source, labels=tuple(f"class {n}" for n in range(90))))
    reference = np.load(folder / f"compact_{side}.npz")
    outputs = build_keras(network.arch, network.weights, (side, side))(reference["image_uint8"].astype(np.float32))
    raw = {name: QuantizedTensor(values.numpy()) for name, values in outputs.items()}
    levels = [LevelOutputs(class_logits=f"class_logits_p{n}", box_encodings=f"box_encodings_p{n}") for n in LEVELS]
    spec = SsdRawOutputs(
        levels=tuple(levels), anchors=anchor_spec(network.arch), box_coder=network.arch.box_coder.scales
    )
    nms = NmsSpec(score_threshold=1e-8, iou_threshold=source.nms.iou_threshold, max_detections=100)
    found = SsdDecoder(spec, (side, side), nms, 90).decode(raw)

    boxes = reference["detection_boxes"][0][:, [1, 0, 3, 2]] * side
    scores, classes = reference["detection_scores"][0], reference["detection_classes_zero_based"][0].astype(int)
    np.testing.assert_allclose(found.confidence, scores, atol=2e-4)
    # Scores lie so close together that neighbours may change places: each detection has its twin somewhere.
    for box, score, class_id in zip(boxes, scores, classes, strict=True):
        twin = (np.abs(found.xyxy - box).max(axis=1) < 0.05) & (found.class_id == class_id)
        assert twin.any()
        assert np.abs(found.confidence[twin] - score).min() < 2e-4


def test_an_archive_is_read_like_its_folder(shared: Path, tmp_path: Path) -> None:
    folder = shared / "reference" / "odapi_tiny" / "zoo_format"
    with tarfile.open(tmp_path / "tiny.tar.gz", "w:gz") as archive:
        archive.add(folder, "tiny")
    (tmp_path / "unpacked").mkdir()
    packed, plain = imported(tmp_path / "tiny.tar.gz", tmp_path / "unpacked"), imported(folder, tmp_path)
    assert packed.arch == plain.arch
    assert packed.saved_model is not None
    assert packed.saved_model.name == "saved_model"
    assert all(np.array_equal(values, plain.weights[name]) for name, values in packed.weights.items())


def test_variables_of_the_saved_model_alone_are_enough(shared: Path, tmp_path: Path) -> None:
    """They have other keys, and the same full names."""
    folder = shared / "reference" / "odapi_tiny" / "zoo_format"
    (tmp_path / "saved_model" / "variables").mkdir(parents=True)
    for file in (folder / "saved_model" / "variables").iterdir():
        (tmp_path / "saved_model" / "variables" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pipeline.config").write_bytes((folder / "pipeline.config").read_bytes())
    alone, plain = imported(tmp_path, tmp_path), imported(folder, tmp_path)
    assert all(np.array_equal(values, plain.weights[name]) for name, values in alone.weights.items())
