"""Float .tflite files as sources: what is cut off computes the same before and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert.tools", reason="needs LiteRT's flatbuffer tools: pip install ai-edge-litert")

from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from edge_detector.loader import load_manifest
from edge_detector.manifest import SsdRawOutputs
from edge_detector.model_file import read_model_file, with_manifest
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.registry import resolve_model
from tools.quantize.flatbuffer import operator_name
from tools.quantize.float_model import FloatModel
from tools.quantize.float_tflite import load, recognise
from tools.quantize.head import append_detection_op
from tools.quantize.verify import compare_with_source

OWN = Path(__file__).parents[2] / "fixtures" / "small_float.tflite"
TINY = ("tiny_tf215_float.tflite", "tiny_tf219_float.tflite")


def photo(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8).repeat(10, 0).repeat(10, 1)


@pytest.fixture(params=TINY)
def tiny(request: pytest.FixtureRequest, shared: Path) -> tuple[Path, FloatModel]:
    path = shared / "reference/tflite" / request.param
    return path, load(path, None)


def test_the_object_detection_apis_exports_lose_their_tail_and_nothing_else(tiny: tuple[Path, FloatModel]) -> None:
    path, model = tiny
    outputs = model.manifest.outputs
    assert isinstance(outputs, SsdRawOutputs)
    assert len(outputs.levels) == 5
    assert (outputs.background, outputs.scores, outputs.box_coder) == (False, "sigmoid", (10, 10, 5, 5))
    assert len(model.manifest.labels) == 80
    assert model.manifest.input.mean == (123.68, 116.779, 103.939)
    (reference,) = model.references
    parity = compare_with_source(model.content, model.manifest, [photo(0), photo(1)], reference)
    assert parity.max_error == {"boxes": 0.0, "classes": 0.0}
    assert min(parity.spread.values()) > 0.1
    parsed = flatbuffer_utils.read_model_from_bytearray(bytearray(model.content))
    (graph,) = parsed.subgraphs
    kinds = {operator_name(parsed, operator) for operator in graph.operators}
    assert kinds == {"PAD", "CONV_2D", "MAX_POOL_2D", "ADD", "PACK", "RESHAPE"}
    names = [tensor.name for tensor in graph.tensors]
    assert len(set(names)) == len(names)
    assert path.read_bytes() != model.content


def test_its_best_detections_are_those_of_the_operator(tiny: tuple[Path, FloatModel]) -> None:
    """The operator keeps the ten best of all classes, unused ids among them, and one NMS over all."""
    path, model = tiny
    tensor = prepare(photo(2), Normalizer(model.manifest.input, None))[0]
    backend = TfliteBackend(path)
    by_size = sorted(backend.infer(tensor).items())
    scores = next(output.values for name, output in by_size if name.endswith(":1"))
    assert isinstance(model.manifest.outputs, SsdRawOutputs)
    decoder = SsdDecoder(model.manifest.outputs, (640, 640), model.manifest.nms, 80, 0.01)
    found = decoder.decode(TfliteBackend(model.content).infer(tensor))
    assert abs(found.confidence[0] - scores.max()) < 1e-5 or scores.max() > found.confidence[0]
    assert (np.abs(found.confidence[:, None] - scores) < 1e-5).any(axis=0).sum() >= 5


@pytest.mark.parametrize("name", ["tiny_tf219_int8_io.tflite", "tiny_tf215_uint8_io.tflite"])
def test_a_quantized_model_is_no_source(shared: Path, name: str) -> None:
    path = shared / "reference/tflite" / name
    assert recognise(path)
    with pytest.raises(ModelError, match=r"is quantized already .* give the float \.tflite that it was made from"):
        load(path, None)


def test_a_shipped_model_is_no_source() -> None:
    with pytest.raises(ModelError, match="is quantized already"):
        load(resolve_model("ssd_resnet50_fpn_person_320_int8"), None)


def edited(path: Path, target: Path, edit: Callable[[Any, Any], None]) -> Path:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
    edit(model, model.subgraphs[0])
    target.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return target


def test_anchors_of_another_kind_are_an_error(shared: Path, tmp_path: Path) -> None:
    def move(model: Any, graph: Any) -> None:
        anchors = next(tensor for tensor in graph.tensors if tensor.name == b"anchors")
        values = np.frombuffer(bytes(model.buffers[anchors.buffer].data), np.float32) + np.float32(0.01)
        model.buffers[anchors.buffer].data = np.frombuffer(values.tobytes(), np.uint8)

    path = edited(shared / "reference/tflite" / TINY[1], tmp_path / "moved.tflite", move)
    with pytest.raises(ModelError, match=r"its 51150 anchors, the first at .* are none of the Object Detection API's"):
        load(path, None)


def test_inputs_and_outputs_of_other_models_are_listed(shared: Path, tmp_path: Path) -> None:
    def only_boxes(model: Any, graph: Any) -> None:
        graph.operators = graph.operators[:-1]
        graph.outputs = [graph.operators[-1].outputs[0]]
        model.signatureDefs = []

    path = edited(shared / "reference/tflite" / TINY[1], tmp_path / "other.tflite", only_boxes)
    with pytest.raises(ModelError, match=r"puts out \[\[1, 51150, 91\]\]; supported are \[1, N, 4\] with"):
        load(path, None)

    def unknown_size(model: Any, graph: Any) -> None:
        graph.tensors[graph.inputs[0]].shapeSignature = np.array([1, -1, -1, 3], np.int32)

    path = edited(shared / "reference/tflite" / TINY[1], tmp_path / "dynamic.tflite", unknown_size)
    with pytest.raises(ModelError, match=r"wanted one picture .* of fixed size"):
        load(path, None)


def test_labels_have_to_fit(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("".join(f"thing {n}\n" for n in range(95)))
    with pytest.raises(ModelError, match="has 91 class outputs, but there are 95 labels"):
        load(shared / "reference/tflite" / TINY[1], tmp_path / "labels.txt")


def test_a_model_with_our_manifest_keeps_it(tiny: tuple[Path, FloatModel], tmp_path: Path) -> None:
    _, model = tiny
    (tmp_path / "again.tflite").write_bytes(with_manifest(model.content, model.manifest))
    again = load(tmp_path / "again.tflite", None)
    assert (again.manifest, again.content) == (model.manifest, model.content)
    assert read_model_file(tmp_path / "again.tflite") != again.content


def test_our_own_model_loses_the_operator_that_was_appended(tmp_path: Path) -> None:
    """Normalization, letterbox, labels and NMS are not derived anew but those of its manifest."""
    manifest, content = load_manifest(OWN), read_model_file(OWN)
    (tmp_path / "op.tflite").write_bytes(with_manifest(*append_detection_op(content, manifest)))
    model = load(tmp_path / "op.tflite", None)
    assert model.family == "float .tflite with TFLite_Detection_PostProcess, cut off"
    assert model.manifest == manifest.model_copy(update={"outputs": model.manifest.outputs})
    assert model.manifest.outputs == manifest.outputs
    spec = manifest.input
    tensor = np.random.default_rng(4).uniform(0, 255, (1, spec.height, spec.width, 3)).astype(np.float32)
    found = TfliteBackend(model.content).infer(tensor)
    for name, wanted in TfliteBackend(content).infer(tensor).items():
        np.testing.assert_array_equal(found[name].values, wanted.values)
