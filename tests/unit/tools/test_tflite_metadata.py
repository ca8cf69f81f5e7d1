"""The standard metadata, read back by the runtime's own reader and, where it is installed, by Google's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert.tools", reason="needs LiteRT's flatbuffer tools: pip install ai-edge-litert")

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.loader import load_manifest
from edge_detector.manifest import InputSpec, ModelManifest
from edge_detector.model_file import read_model_file, with_manifest
from edge_detector.registry import resolve_model
from edge_detector.tflite_schema import read_tflite
from tools.quantize.head import append_detection_op
from tools.quantize.tflite_metadata import NAME, with_tflite_metadata

MODEL = resolve_model("ssd_resnet50_fpn_person_320_int8")


@pytest.fixture(scope="module")
def manifest() -> ModelManifest:
    """That of a shipped model with a normalization which is not the identity."""
    spec = InputSpec(width=320, height=320, mean=(123.68, 116.779, 103.939), std=(58.0, 57.0, 56.0))
    return load_manifest(MODEL).model_copy(update={"input": spec, "labels": ("pérson",)})


@pytest.fixture(scope="module")
def content(manifest: ModelManifest) -> bytes:
    return with_tflite_metadata(read_model_file(MODEL), manifest)


@pytest.fixture(scope="module")
def with_operator(manifest: ModelManifest) -> bytes:
    content, described = append_detection_op(read_model_file(MODEL), manifest)
    return with_tflite_metadata(content, described)


def test_the_runtime_reads_the_normalization_from_it(content: bytes, manifest: ModelManifest) -> None:
    stated = read_tflite(content, "model").normalization
    assert stated is not None
    assert stated.mean == pytest.approx(manifest.input.mean)
    assert stated.std == pytest.approx(manifest.input.std)


def test_what_the_model_computes_stays_the_same(content: bytes) -> None:
    tensor = np.random.default_rng(0).integers(-128, 128, (1, 320, 320, 3)).astype(np.int8)
    wanted, got = TfliteBackend(MODEL).infer(tensor), TfliteBackend(content).infer(tensor)
    assert all(np.array_equal(output.values, got[name].values) for name, output in wanted.items())


def test_the_same_input_gives_the_same_bytes_and_twice_is_once(content: bytes, manifest: ModelManifest) -> None:
    assert with_tflite_metadata(content, manifest) == content


def test_the_labels_that_it_names_are_behind_the_model(content: bytes, manifest: ModelManifest, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(with_manifest(content, manifest))
    assert load_manifest(tmp_path / "model.tflite").labels == ("pérson",)


def test_googles_reader_understands_it(content: bytes, manifest: ModelManifest) -> None:
    schema = pytest.importorskip(
        "mediapipe.tasks.metadata.metadata_schema_py_generated", reason="needs mediapipe's metadata reader"
    )
    model = read_tflite_metadata(content)
    found = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(model, 0))
    (graph,) = found.subgraphMetadata
    (picture,) = graph.inputTensorMetadata
    assert found.name.decode() == manifest.name
    assert picture.content.contentProperties.colorSpace == schema.ColorSpaceType.RGB
    options = picture.processUnits[0].options
    assert isinstance(options, schema.NormalizationOptionsT)
    assert list(options.mean) == pytest.approx(manifest.input.mean)
    assert list(picture.stats.min) == pytest.approx([-123.68 / 58, -116.779 / 57, -103.939 / 56])
    files = [output.associatedFiles for output in graph.outputTensorMetadata]
    assert {file[0].name.decode() for file in files if file} == {"labels.txt"}
    names = [output.name.decode() for output in graph.outputTensorMetadata]
    assert names == [output.name for output in read_tflite(content, "model").outputs]


def test_outputs_of_the_detection_operator_are_called_what_mediapipe_looks_for(with_operator: bytes) -> None:
    metadata = bytes(read_tflite_metadata(with_operator))
    assert all(name in metadata for name in (b"location", b"category", b"score", b"number of detections"))
    assert np.array([4, 1, 0, 3, 2], np.uint32).tobytes() in metadata  # a vector: left, top, right, bottom


def test_googles_reader_understands_the_detection_operators_outputs(with_operator: bytes) -> None:
    schema = pytest.importorskip(
        "mediapipe.tasks.metadata.metadata_schema_py_generated", reason="needs mediapipe's metadata reader"
    )
    found = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(read_tflite_metadata(with_operator), 0))
    boxes, classes, scores, count = found.subgraphMetadata[0].outputTensorMetadata
    assert boxes.content.contentProperties.type == schema.BoundingBoxType.BOUNDARIES
    assert boxes.content.contentProperties.index.tolist() == [1, 0, 3, 2]
    assert boxes.content.contentProperties.coordinateType == schema.CoordinateType.RATIO
    assert classes.associatedFiles[0].type == schema.AssociatedFileType.TENSOR_VALUE_LABELS
    for output in (classes, scores, count):
        assert output.content.contentPropertiesType == schema.ContentProperties.FeatureProperties


def read_tflite_metadata(content: bytes) -> bytearray:
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (entry,) = model.metadata
    assert entry.name.decode() == NAME
    return bytearray(bytes(model.buffers[entry.buffer].data))
