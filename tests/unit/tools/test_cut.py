"""Float .tflite files with raw heads that others made: what is cut, against Keras' own outputs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")
pytest.importorskip("litert_quantizer", reason="needs litert-quantizer: pip install 'edge-detector[quantize]'")

import keras
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from edge_detector.loader import load_manifest
from edge_detector.manifest import SsdRawOutputs
from edge_detector.model_file import with_manifest
from tools.quantize.calibrate import collect
from tools.quantize.flatbuffer import operator_name
from tools.quantize.float_model import FloatModel
from tools.quantize.float_tflite import load
from tools.quantize.precision import activation_ranges, quantize
from tools.quantize.ranges import RangeMethod
from tools.quantize.verify import compare_with_source

SIDE, SLOTS = 64, 3
LABELS = ("cat", "dog", "cow")
Score = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def network(tail: str = "", slots: int = SLOTS, per_cell: int = 6) -> keras.Model:
    """Return a pyramid of strided convolutions with heads (1, N, 4) and (1, N, slots); `tail` follows the classes."""
    keras.utils.set_random_seed(0)
    start = keras.initializers.RandomNormal(stddev=0.5)
    source = keras.Input((SIDE, SIDE, 3), name="images")
    values = keras.layers.Conv2D(18, 3, strides=4, padding="same", activation="relu", name="resnet")(source)
    values = keras.layers.Rescaling(1 / 50)(values)
    classes, boxes = [], []
    for level in range(3, 8):
        values = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6", name=f"p{level}")(values)
        logits = keras.layers.Conv2D(per_cell * slots, 1, bias_initializer=start, name=f"class{level}")(values)
        if tail == "sigmoid of maps":
            logits = keras.layers.Activation("sigmoid")(logits)
        logits = keras.layers.Reshape((-1, slots))(logits)
        if tail == "sigmoid of levels":
            logits = keras.layers.Activation("sigmoid")(logits)
        classes.append(logits)
        encodings = keras.layers.Conv2D(per_cell * 4, 1, bias_initializer=start, name=f"box{level}")(values)
        boxes.append(keras.layers.Reshape((-1, 4))(encodings))
    scores = keras.layers.Concatenate(axis=1)(classes)
    if tail in ("sigmoid", "softmax"):
        scores = keras.layers.Activation(tail)(scores)
    return keras.Model(source, {"boxes": keras.layers.Concatenate(axis=1)(boxes), "scores": scores})


def converted(model: keras.Model, path: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, "tf_saved_model", verbose=False)
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
    return path


def label_file(folder: Path, *labels: str) -> Path:
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    return folder / "labels.txt"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(network(), tmp_path_factory.mktemp("plain") / "plain.tflite")


def pixels(seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-120, 150, (1, SIDE, SIDE, 3)).astype(np.float32)


def heads_of(model: FloatModel, tensor: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    """Return all scores, as the runtime makes them, and all encodings."""
    outputs = model.manifest.outputs
    assert isinstance(outputs, SsdRawOutputs)
    found = TfliteBackend(model.content).infer(tensor)
    slots = len(model.manifest.labels) + outputs.background
    values = np.concatenate([found[level.class_logits].values.reshape(-1, slots) for level in outputs.levels])
    boxes = np.concatenate([found[level.box_encodings].values.reshape(-1, 4) for level in outputs.levels])
    return 1 / (1 + np.exp(-values)) if outputs.scores == "sigmoid" else values, boxes


def kinds(content: bytes) -> set[str]:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    return {operator_name(model, operator) for operator in model.subgraphs[0].operators}


@pytest.mark.parametrize(
    ("tail", "scores", "levels"),
    [
        ("", "sigmoid", 5),
        ("sigmoid", "sigmoid", 5),
        ("sigmoid of maps", "sigmoid", 5),
        ("sigmoid of levels", "sigmoid", 5),
        ("softmax", "identity", 1),
    ],
)
def test_scores_are_those_of_the_source_whatever_made_them(tail: str, scores: str, levels: int, tmp_path: Path) -> None:
    source = network(tail)
    model = load(converted(source, tmp_path / "heads.tflite"), label_file(tmp_path, *LABELS))
    outputs = model.manifest.outputs
    assert isinstance(outputs, SsdRawOutputs)
    assert (outputs.scores, len(outputs.levels), outputs.background) == (scores, levels, False)
    assert "LOGISTIC" not in kinds(model.content)
    tensor = pixels(1)
    wanted = {name: np.asarray(values)[0] for name, values in source(tensor).items()}
    if not tail:
        wanted["scores"] = 1 / (1 + np.exp(-wanted["scores"]))
    got, boxes = heads_of(model, tensor)
    assert wanted["scores"].std() > 0.1
    np.testing.assert_allclose(got, wanted["scores"], atol=1e-5)
    np.testing.assert_allclose(boxes, wanted["boxes"], atol=1e-5)
    (reference,) = model.references
    photo = np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    assert max(compare_with_source(model.content, model.manifest, [photo], reference).max_error.values()) < 1e-6


@pytest.mark.parametrize(
    ("lines", "slots"),
    [
        (("background", "cat", "dog"), [1, 2]),
        (("cat", "???", "cow"), [0, 2]),
        (("background", "???", "dog"), [2]),
    ],
)
def test_background_and_unused_ids_are_left_out(
    plain: Path, tmp_path: Path, lines: tuple[str, ...], slots: list[int]
) -> None:
    model = load(plain, label_file(tmp_path, *lines))
    assert model.manifest.labels == tuple(lines[slot] for slot in slots)
    whole, boxes = heads_of(load(plain, label_file(tmp_path, *LABELS)), pixels(3))
    got, same_boxes = heads_of(model, pixels(3))
    np.testing.assert_array_equal(got, whole[:, slots])
    np.testing.assert_array_equal(same_boxes, boxes)


def edited(path: Path, target: Path, edit: Callable[[Any, Any], None]) -> Path:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
    edit(model, model.subgraphs[0])
    target.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return target


def test_constants_that_other_layers_use_keep_their_channels(plain: Path, tmp_path: Path) -> None:
    """The first convolution has as many channels as a class head: converters keep equal biases once."""

    def share_bias(model: Any, graph: Any) -> None:
        wide = [
            operator
            for operator in graph.operators
            if operator_name(model, operator) == "CONV_2D" and graph.tensors[operator.outputs[0]].shape[-1] == 18
        ]
        assert len(wide) == 6
        wide[1].inputs = [*wide[1].inputs[:2], wide[0].inputs[2]]

    path = edited(plain, tmp_path / "shared.tflite", share_bias)
    model = load(path, label_file(tmp_path, "background", "cat", "dog"))
    assert isinstance(model.manifest.outputs, SsdRawOutputs)
    assert model.manifest.outputs.background
    wanted, _ = heads_of(load(path, label_file(tmp_path, *LABELS)), pixels(4))
    np.testing.assert_array_equal(heads_of(model, pixels(4))[0], wanted)


def test_other_anchors_are_not_guessed_but_can_be_stated(tmp_path: Path) -> None:
    path = converted(network(per_cell=9), tmp_path / "nine.tflite")
    labels = label_file(tmp_path, *LABELS)
    with pytest.raises(ModelError, match=r'774 boxes, where .* are 516; state "outputs" .* in nine\.json'):
        load(path, labels)
    stated = {
        "levels": [{"class_logits": "StatefulPartitionedCall_1:1", "box_encodings": "StatefulPartitionedCall_1:0"}],
        "anchors": {"generator": "torchvision", "aspect_ratios": [2.0, 1.0, 0.5], "scales_per_octave": 3},
        "box_coder": [1, 1, 1, 1],
        "kind": "ssd_raw",
    }
    spec = {"width": SIDE, "height": SIDE, "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "resize": "letterbox"}
    (tmp_path / "nine.json").write_text(json.dumps({"outputs": stated, "input": spec, "labels": list(LABELS)}))
    model = load(path, None)
    assert model.manifest == load_manifest(path)
    assert model.manifest.input.mean == (1.0, 2.0, 3.0)
    assert model.outputs == ("StatefulPartitionedCall_1:1", "StatefulPartitionedCall_1:0")
    wanted = network(per_cell=9)(pixels(5))
    got, boxes = heads_of(model, pixels(5))
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-np.asarray(wanted["scores"])[0])), atol=1e-5)
    np.testing.assert_allclose(boxes, np.asarray(wanted["boxes"])[0], atol=1e-5)


def test_normalization_beside_a_model_is_taken(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "beside.tflite"
    path.write_bytes(plain.read_bytes())
    spec = {"width": SIDE, "height": SIDE, "std": [255.0, 255.0, 255.0]}
    path.with_suffix(".json").write_text(json.dumps({"input": spec, "nms": {"iou_threshold": 0.6}}))
    manifest = load(path, label_file(tmp_path, *LABELS)).manifest
    assert (manifest.input.mean, manifest.input.std, manifest.input.resize) == ((0, 0, 0), (255, 255, 255), "letterbox")
    assert manifest.nms.iou_threshold == 0.6
    path.with_suffix(".json").write_text('{"input": {"width": "wide"}}')
    with pytest.raises(ModelError, match=r"input\.width"):
        load(path, None)


def test_four_classes_cannot_be_told_from_boxes(tmp_path: Path) -> None:
    path = converted(network(slots=4), tmp_path / "four.tflite")
    with pytest.raises(ModelError, match="cannot be told apart"):
        load(path, label_file(tmp_path, *LABELS, "hen"))


def test_a_file_that_is_cut_off_is_an_error(plain: Path, tmp_path: Path) -> None:
    whole = plain.read_bytes()
    for size in (9, 100, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.tflite").write_bytes(whole[:size])
        with pytest.raises(ModelError, match="damaged or cut off"):
            load(tmp_path / "cut.tflite", None)


def test_what_is_cut_becomes_int8(plain: Path, tmp_path: Path) -> None:
    """The converter's graph computes the shapes of its reshapes, which nothing may need after the cut."""
    assert "SHAPE" in kinds(plain.read_bytes())
    model = load(plain, label_file(tmp_path, *LABELS))
    photos = [np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8) for seed in range(20)]
    histograms = collect(model.content, photos, model.manifest.input, 1)
    ranges = activation_ranges(histograms, model.manifest.input, model.outputs, RangeMethod.MINMAX, 0)
    path = tmp_path / "int8.tflite"
    path.write_bytes(with_manifest(quantize(model.content, ranges), model.manifest))
    assert load_manifest(path) == model.manifest
    backend = TfliteBackend(path)
    assert backend.input_params is not None
    tensor = pixels(6)
    found = backend.infer(backend.input_params.quantize(tensor))
    for name, wanted in TfliteBackend(model.content).infer(tensor).items():
        assert np.corrcoef(found[name].dequantized().ravel(), wanted.values.ravel())[0, 1] > 0.99
