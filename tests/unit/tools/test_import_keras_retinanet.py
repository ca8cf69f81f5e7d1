# ruff: noqa: E402 - what needs TensorFlow is imported only where it is installed
"""keras-retinanet's HDF5 files: its network rebuilt layer by layer in plain Keras, its anchors and its box decoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")

import h5py
import keras

from edge_detector.errors import ModelError
from edge_detector.manifest import LevelOutputs, NmsSpec, SsdRawOutputs
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.quantization import QuantizedTensor
from tools.network.importers import canonical, registry
from tools.network.keras_model import LEVELS, build_keras
from tools.network.manifest import anchor_spec

SIDE, WIDTH, FEATURES, CLASSES = 160, 8, 16, 3
BLOCKS = (3, 4, 6, 3)
LABELS = "cat\ndog\ncow\n"


def conv(filters: int, size: int, name: str, stride: int = 1, padding: str = "valid", **options: Any) -> Any:
    return keras.layers.Conv2D(filters, size, stride, padding, name=name, **options)


def bottleneck(x: Any, filters: int, stage: int, block: int) -> Any:
    """keras-resnet's bottleneck_2d: the stride in the first convolution, padding as a layer of its own."""
    name, stride = f"{stage}{'abcdef'[block]}_branch", 2 if block == 0 and stage > 2 else 1

    def normed(y: Any, branch: str) -> Any:
        return keras.layers.BatchNormalization(epsilon=1e-5, name=f"bn{name}{branch}")(y)

    y = normed(conv(filters, 1, f"res{name}2a", stride, use_bias=False)(x), "2a")
    y = keras.layers.ZeroPadding2D(1)(keras.layers.ReLU()(y))
    y = keras.layers.ReLU()(normed(conv(filters, 3, f"res{name}2b", use_bias=False)(y), "2b"))
    y = normed(conv(4 * filters, 1, f"res{name}2c", use_bias=False)(y), "2c")
    shortcut = normed(conv(4 * filters, 1, f"res{name}1", stride, use_bias=False)(x), "1") if block == 0 else x
    return keras.layers.ReLU()(keras.layers.Add()([y, shortcut]))


def retinanet() -> Any:
    """keras-retinanet's network: per level regression (N, 4) and classification logits (N, classes)."""
    inputs = keras.Input((SIDE, SIDE, 3), batch_size=1)
    x = conv(WIDTH, 7, "conv1", 2, use_bias=False)(keras.layers.ZeroPadding2D(3)(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(epsilon=1e-5, name="bn_conv1")(x))
    x = keras.layers.MaxPooling2D(3, 2, "same")(x)
    features = []
    for stage, count in enumerate(BLOCKS, 2):
        for block in range(count):
            x = bottleneck(x, WIDTH * 2 ** (stage - 2), stage, block)
        features.append(x)
    _, c3, c4, c5 = features
    p5 = conv(FEATURES, 1, "C5_reduced")(c5)
    p4 = keras.layers.Add()([keras.layers.UpSampling2D()(p5), conv(FEATURES, 1, "C4_reduced")(c4)])
    p3 = keras.layers.Add()([keras.layers.UpSampling2D()(p4), conv(FEATURES, 1, "C3_reduced")(c3)])
    p6 = conv(FEATURES, 3, "P6", 2, "same")(c5)
    p7 = conv(FEATURES, 3, "P7", 2, "same")(keras.layers.ReLU()(p6))
    maps = [conv(FEATURES, 3, f"P{n}", padding="same")(p) for n, p in ((3, p3), (4, p4), (5, p5))] + [p6, p7]

    def head(name: str, channels: int) -> list[Any]:
        layers = [conv(FEATURES, 3, f"{name}_{n}", padding="same", activation="relu") for n in range(4)]
        layers.append(conv(channels, 3, name, padding="same"))
        outputs = []
        for x in maps:
            for layer in layers:
                x = layer(x)
            outputs.append(x)
        return outputs

    return keras.Model(inputs, [*head("pyramid_regression", 36), *head("pyramid_classification", 9 * CLASSES)])


@pytest.fixture(scope="module")
def model() -> Any:
    random = np.random.default_rng(0)
    network = retinanet()
    for layer in network.layers:
        arrays = []
        for weight in layer.weights:
            shape, positive = tuple(weight.shape), "variance" in weight.path or "gamma" in weight.path
            if len(shape) == 4:
                arrays.append(random.normal(0, np.prod(shape[:3]) ** -0.5, shape))
            else:
                arrays.append(random.uniform(0.7, 1.0, shape) if positive else random.normal(0, 0.1, shape))
        layer.set_weights(arrays)
    first = network.get_layer("conv1")
    first.set_weights([first.get_weights()[0] * 0.02])  # of pixels
    return network


def save(model: Any, path: Path, layout: str) -> Path:
    """Write the weights where Keras 2 puts them, in files of three kinds."""
    with h5py.File(path, "w") as file:
        root = file if layout == "weights" else file.create_group("model_weights")
        for layer in model.layers:
            kind = layer.name.split("_")[1] if layer.name.startswith("pyramid") else ""
            group = f"{kind}_submodel" if kind else layer.name
            for weight in layer.weights:
                root[f"{group}/{layer.name}/{weight.name}:0"] = weight.numpy()
        if layout == "training":
            file["optimizer_weights/training/Adam/conv1/kernel:0"] = np.zeros((7, 7, 3, WIDTH))
        if layout == "inference":
            root.create_group("boxes")
            root.create_group("filtered_detections")
    return path


@pytest.mark.parametrize("layout", ["training", "inference", "weights"])
def test_outputs_and_boxes_equal_keras_retinanets(model: Any, tmp_path: Path, layout: str) -> None:
    path = save(model, tmp_path / "resnet50_csv_50.h5", layout)
    (tmp_path / "labels.txt").write_text(LABELS)
    assert registry.recognise(path) == "keras-retinanet"
    network = canonical(registry.load(path, "keras-retinanet", tmp_path, tmp_path / "labels.txt", None))
    assert (network.labels, network.arch.blocks) == (("cat", "dog", "cow"), BLOCKS)
    picture = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3)).astype(np.float32)
    caffe = picture[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)  # preprocess_image, mode caffe
    theirs = [output.numpy() for output in model(caffe)]
    outputs = build_keras(network.arch, network.weights, (SIDE, SIDE))(picture)
    regression = np.concatenate([output.reshape(-1, 4) for output in theirs[:5]])
    for level, wanted in zip(LEVELS, theirs[5:], strict=True):
        assert wanted.std() > 0.05
        assert np.abs(outputs[f"class_logits_p{level}"].numpy() - wanted).max() < 1e-4 * max(1, wanted.std())

    levels = [LevelOutputs(class_logits=f"class_logits_p{n}", box_encodings=f"box_encodings_p{n}") for n in LEVELS]
    coder = network.arch.box_coder
    spec = SsdRawOutputs(
        levels=tuple(levels), anchors=anchor_spec(network.arch), box_coder=coder.scales, box_coding=coder.coding
    )
    raw = {name: QuantizedTensor(values.numpy()) for name, values in outputs.items()}
    nms = NmsSpec(score_threshold=0.5, iou_threshold=1.0, max_detections=1000)
    found = SsdDecoder(spec, (SIDE, SIDE), nms, CLASSES).decode(raw)
    boxes = np.clip(decoded(regression), 0, SIDE)  # ClipBoxes
    scores = 1 / (1 + np.exp(-np.concatenate([output.reshape(-1, CLASSES) for output in theirs[5:]])))
    anchor, class_id = np.unravel_index(np.argsort(-scores, axis=None)[:50], scores.shape)
    visible = (boxes[anchor, 2:] > boxes[anchor, :2]).all(axis=1)
    assert visible.sum() > 20
    for index, label in zip(anchor[visible], class_id[visible], strict=True):
        same = (np.abs(found.confidence - scores[index, label]) < 1e-4) & (found.class_id == label)
        assert np.abs(found.xyxy[same] - boxes[index]).max(axis=1).min() < 0.02


def decoded(regression: Any) -> Any:
    """Return x1, y1, x2, y2 in pixels: anchors of keras-retinanet's utils/anchors.py, moved by bbox_transform_inv."""
    anchors = []
    for level in range(3, 8):
        stride, size = 2**level, 2 ** (level + 2)
        cells = (SIDE + stride - 1) // stride
        base = []
        for ratio in (0.5, 1, 2):
            for scale in (1, 2 ** (1 / 3), 2 ** (2 / 3)):
                width = np.sqrt((size * scale) ** 2 / ratio)
                base.append((-width / 2, -width * ratio / 2, width / 2, width * ratio / 2))
        for row in range(cells):
            for column in range(cells):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                anchors += [np.add(box, (x, y, x, y)) for box in base]
    boxes = np.array(anchors)
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return boxes + regression * 0.2 * sizes


@pytest.fixture
def changed(model: Any, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    def write(change: Callable[[Any], None]) -> Path:
        path = save(model, tmp_path / "net.h5", "training")
        with h5py.File(path, "r+") as file:
            change(file["model_weights"])
        (tmp_path / "labels.txt").write_text(LABELS)
        return path

    return write


def load(path: Path, labels: str = "labels.txt") -> Any:
    return registry.load(path, "keras-retinanet", path.parent, path.parent / labels, None)


def test_layers_that_are_missing_or_unknown_are_named(changed: Callable[..., Path]) -> None:
    def lose(weights: Any) -> None:
        del weights["C4_reduced"]

    with pytest.raises(ModelError, match="the layer C4_reduced with its kernel is missing"):
        load(changed(lose))

    def add(weights: Any) -> None:
        weights["masks/mask_1/kernel:0"] = np.zeros((1, 1, 1, 1))

    with pytest.raises(ModelError, match="1 arrays belong to no layer of keras-retinanet, such as mask_1's"):
        load(changed(add))


def test_shapes_that_do_not_fit_are_an_error(changed: Callable[..., Path]) -> None:
    def widen(weights: Any) -> None:
        del weights["P6/P6/kernel:0"]
        weights["P6/P6/kernel:0"] = np.zeros((3, 3, 7, FEATURES))

    network = canonical(load(changed(widen)))
    with pytest.raises(ModelError, match="the weights do not fit their architecture"):
        build_keras(network.arch, network.weights, (SIDE, SIDE))


def test_labels_are_needed_and_have_to_fit(changed: Callable[..., Path]) -> None:
    path = changed(lambda weights: None)
    with pytest.raises(ModelError, match="has 3 classes; name them with --labels"):
        registry.load(path, "keras-retinanet", path.parent, None, None)
    (path.parent / "more.txt").write_text(LABELS + "pig\n")
    with pytest.raises(ModelError, match="holds 4 labels, but the network has 3 classes"):
        load(path, "more.txt")


def test_other_and_damaged_files_are_not_recognised(changed: Callable[..., Path], tmp_path: Path) -> None:
    path = changed(lambda weights: weights.pop("classification_submodel"))
    assert registry.recognise(path) is None
    whole = changed(lambda weights: None)
    whole.write_bytes(whole.read_bytes()[:5000])
    assert registry.recognise(whole) is None
    with pytest.raises(ModelError, match="cannot be read as HDF5"):
        load(whole)
