# ruff: noqa: E402 - what needs TensorFlow is imported only where it is installed
"""Checkpoints of the TF Object Detection API: names, the equations of TF1, and everything that can be wrong."""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")

from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from edge_detector.errors import ModelError
from tools.network.architecture import Architecture
from tools.network.importers import ImportedNetwork, canonical, odapi_tf1, odapi_tf2, registry
from tools.network.keras_model import LEVELS, build_keras

BLOCKS = (3, 4, 6, 3)
DEPTHS = {50: BLOCKS, 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
ARCH = Architecture(num_classes=3, base_width=8, fpn_channels=32, head_channels=16)
CONFIG = """
# written by hand, fields in an order of their own
train_input_reader < label_map_path: '/somewhere/else/label_map.pbtxt' >
model { ssd {
  post_processing { batch_non_max_suppression { iou_threshold: 0.6; max_total_detections: 50 }
    score_converter: SIGMOID }
  anchor_generator { multiscale_anchor_generator {
    anchor_scale: 4.0 aspect_ratios: [1.0, 2.0, 0.5] scales_per_octave: 2 } }
  box_predictor { weight_shared_convolutional_box_predictor {
    depth: 16 num_layers_before_predictor: 4 kernel_size: 3
    conv_hyperparams { activation: RELU_6 batch_norm { scale: true epsilon: 0.001 } } } }
  feature_extractor { type: "TYPE" depth_multiplier: 0.125 min_depth: 8
    override_base_feature_extractor_hyperparams: true
    fpn { min_level: 3 max_level: 7 }
    conv_hyperparams { activation: RELU_6 batch_norm { epsilon: 0.001 scale: true } } }
  image_resizer { fixed_shape_resizer { height: 160 width: 192 } }
  box_coder { faster_rcnn_box_coder { y_scale: 10.0 x_scale: 10.0 height_scale: 5.0 width_scale: 5.0 } }
  num_classes: 3
} }
"""
LABEL_MAP = "".join(f"item {{ id: {number} name: '{name}' }}\n" for number, name in enumerate(("cat", "dog", "cow"), 1))
TF2, TF1 = "ssd_resnet50_v1_fpn_keras", "ssd_resnet50_v1_fpn"
Tensors = dict[str, np.ndarray]


def values_for(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Return weights (HWIO) and statistics in a usual range."""
    if len(shape) == 4:
        return random.normal(0, (2 / np.prod(shape[:3])) ** 0.5, shape).astype(np.float32)
    if name.endswith(("gamma", "variance")):
        return random.uniform(0.7, 1.3, shape).astype(np.float32)
    return random.normal(0, 0.1, shape).astype(np.float32)


def shape_of(target: str) -> tuple[int, ...]:
    """Return the shape (HWIO) of a tensor of `ARCH`, by our name for it."""
    part, layer, *rest = target.split(".")
    leaf = target.rpartition(".")[2]
    inputs, outputs, side = 32, 32, 3
    if part == "backbone" and layer == "conv1":
        inputs, outputs, side = 3, 8, 7
    elif part == "backbone":
        stage, block, name = int(layer[4:]), int(rest[0]), rest[1]
        width = 8 * 2 ** (stage - 2)
        before = 8 if stage == 2 and block == 0 else (4 * width if block else 2 * width)
        inputs = {"conv1": before, "shortcut": before}.get(name, width)
        outputs, side = (4 * width if name in ("conv3", "shortcut") else width), (3 if name == "conv2" else 1)
    elif layer.startswith("lateral"):
        inputs, side = 8 * 2 ** (int(layer[7:]) - 2) * 4, 1
    elif part.endswith("head"):
        inputs = 32 if layer == "conv0" else 16
        outputs = {"class_head": 24, "box_head": 24}[part] if layer == "output" else 16
    return (side, side, inputs, outputs) if leaf == "weight" and "conv" in target.split(".")[-2] else (outputs,)


def save(prefix: Path, tensors: dict[str, Any]) -> None:
    names = sorted(tensors)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )


@pytest.fixture
def tf2(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a TF2 training checkpoint with its config and labels."""

    def write(
        change: Callable[[Tensors, dict[str, str]], None] | None = None, names: bool = True, depth: int = 50
    ) -> Path:
        random = np.random.default_rng(0)
        tensors: Tensors = {}
        full_names: dict[str, str] = {}
        for variable in odapi_tf2.variables(dataclasses.replace(ARCH, blocks=DEPTHS[depth])):
            key = f"model/{variable.key}/.ATTRIBUTES/VARIABLE_VALUE"
            tensors[key] = values_for(variable.key, shape_of(variable.target), random)
            full_names[key] = f"ResNet50V1_FPN/{variable.full_name}"
        tensors["optimizer/learning_rate/.ATTRIBUTES/VARIABLE_VALUE"] = np.float32(0.1)
        tensors["save_counter/.ATTRIBUTES/VARIABLE_VALUE"] = np.int64(3)
        if change is not None:
            change(tensors, full_names)
        graph = TrackableObjectGraph()
        for key, full_name in full_names.items() if names else ():
            graph.nodes.add().attributes.add(name="VARIABLE_VALUE", checkpoint_key=key, full_name=full_name)
        folder = tmp_path / "training"
        save(folder / "ckpt-7", {**tensors, "_CHECKPOINTABLE_OBJECT_GRAPH": graph.SerializeToString()})
        (folder / "pipeline.config").write_text(CONFIG.replace("TYPE", TF2.replace("50", str(depth))))
        (folder / "label_map.pbtxt").write_text(LABEL_MAP)
        return folder

    return write


def load(path: Path, workdir: Path, **options: Any) -> ImportedNetwork:
    name = registry.recognise(path)
    assert name is not None
    return registry.load(path, name, workdir, options.get("labels"), options.get("pipeline_config"))


def test_a_training_checkpoint_with_ones_own_classes(tf2: Callable[..., Path], tmp_path: Path) -> None:
    folder = tf2()
    network = load(folder, tmp_path)
    assert network.labels == ("cat", "dog", "cow")
    assert (network.arch.blocks, network.arch.num_classes, network.arch.background) == (BLOCKS, 3, True)
    assert (network.input.width, network.input.height, network.input.resize) == (192, 160, "stretch")
    assert (network.nms.iou_threshold, network.nms.max_detections) == (0.6, 50)
    assert network.arch.residual_activation == "relu6"
    small = canonical(network)
    outputs = build_keras(small.arch, small.weights, (192, 160))(np.zeros((1, 160, 192, 3), np.float32))
    assert outputs["class_logits_p3"].shape == (1, 20, 24, 6 * 3)
    by_prefix = load(folder / "ckpt-7", tmp_path)
    assert all(np.array_equal(values, by_prefix.weights[name]) for name, values in network.weights.items())


@pytest.mark.parametrize("depth", [101, 152])
def test_deeper_backbones(tf2: Callable[..., Path], tmp_path: Path, depth: int) -> None:
    network = canonical(load(tf2(depth=depth), tmp_path))
    assert (network.arch.blocks, network.family.split()[-2]) == (DEPTHS[depth], str(depth))
    outputs = build_keras(network.arch, network.weights, (96, 96))(np.zeros((1, 96, 96, 3), np.float32))
    assert np.isfinite(outputs["class_logits_p7"].numpy()).all()


def test_names_of_all_variables_are_those_of_the_real_checkpoints(shared: Path) -> None:
    full = Architecture()
    rows = [line.split("\t") for line in (shared / "reference/odapi_full/checkpoint_keys.txt").read_text().splitlines()]
    real = {
        row[0].removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): row[3] for row in rows[1:] if row[0].startswith("model")
    }
    ours = {f"model/{variable.key}": variable.full_name for variable in odapi_tf2.variables(full)}
    assert set(ours) == set(real)
    assert all(f"/{real[key]}".endswith(f"/{name}") for key, name in ours.items())
    rows = [
        line.split("\t") for line in (shared / "reference/odapi_full/checkpoint_keys_tf1.txt").read_text().splitlines()
    ]
    assert {name for _, name in odapi_tf1.variables(full)} == {row[0] for row in rows if not row[0].startswith("#")}


def test_keys_alone_and_names_alone_are_enough(tf2: Callable[..., Path], tmp_path: Path) -> None:
    wanted = load(tf2(), tmp_path).weights
    by_key = load(tf2(names=False), tmp_path).weights

    def hide_keys(tensors: Tensors, full_names: dict[str, str]) -> None:
        for number, key in enumerate([key for key in tensors if key.startswith("model/")]):
            hidden = f"_model/variables/{number}/.ATTRIBUTES/VARIABLE_VALUE"
            tensors[hidden], full_names[hidden] = tensors.pop(key), f"{full_names.pop(key)}_1"  # made unique by Keras

    by_name = load(tf2(hide_keys), tmp_path).weights
    for name, values in wanted.items():
        assert np.array_equal(values, by_key[name])
        assert np.array_equal(values, by_name[name])


SHORTCUT = "model/_feature_extractor/classification_backbone/layer_with_weights-6/kernel/.ATTRIBUTES/VARIABLE_VALUE"
LAST = "model/_feature_extractor/classification_backbone/layer_with_weights-7/kernel/.ATTRIBUTES/VARIABLE_VALUE"


def test_a_swap_that_shapes_do_not_show_is_found_by_names(tf2: Callable[..., Path], tmp_path: Path) -> None:
    def swap(tensors: Tensors, full_names: dict[str, str]) -> None:
        assert tensors[SHORTCUT].shape == tensors[LAST].shape
        tensors[SHORTCUT], tensors[LAST] = tensors[LAST], tensors[SHORTCUT]
        full_names[SHORTCUT], full_names[LAST] = full_names[LAST], full_names[SHORTCUT]

    message = r"2 variables are swapped, such as .*layer_with_weights-6/kernel holds .*conv2_block1_3_conv/kernel"
    with pytest.raises(ModelError, match=message):
        load(tf2(swap), tmp_path)


def test_missing_and_extra_variables_are_named(tf2: Callable[..., Path], tmp_path: Path) -> None:
    def lose(tensors: Tensors, full_names: dict[str, str]) -> None:
        del tensors[LAST], full_names[LAST]

    with pytest.raises(ModelError, match=r"1 variables are missing, such as .*layer_with_weights-7/kernel; give the"):
        load(tf2(lose), tmp_path)

    def add(tensors: Tensors, _: dict[str, str]) -> None:
        tensors["model/_mask_head/kernel/.ATTRIBUTES/VARIABLE_VALUE"] = np.zeros(3, np.float32)

    with pytest.raises(ModelError, match="1 variables belong to no layer, such as model/_mask_head/kernel"):
        load(tf2(add), tmp_path)


def test_numbers_of_classes_that_differ_are_an_error(tf2: Callable[..., Path], tmp_path: Path) -> None:
    folder = tf2()
    (folder / "pipeline.config").write_text(CONFIG.replace("TYPE", TF2).replace("num_classes: 3", "num_classes: 5"))
    with pytest.raises(
        ModelError, match="5 classes with 6 anchors per cell make 36 channels, but the checkpoint has 24"
    ):
        load(folder, tmp_path)


def test_labels_are_needed_and_have_to_fit(tf2: Callable[..., Path], tmp_path: Path) -> None:
    folder = tf2()
    (tmp_path / "more.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(ModelError, match="holds 4 labels, but the network has 3 classes"):
        load(folder, tmp_path, labels=tmp_path / "more.txt")
    (folder / "label_map.pbtxt").unlink()
    with pytest.raises(
        ModelError, match=r"has 3 classes and no label map beside it; give label_map\.pbtxt with --labels"
    ):
        load(folder, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TF2, "ssd_mobilenet_v2_fpn_keras", "describes ssd_mobilenet_v2_fpn_keras; supported are ssd_resnet50_v1_fpn"),
        ("kernel_size: 3", "use_depthwise: true", "use_depthwise: such a network is not supported"),
        ("min_level: 3", "min_level: 2", r"fpn levels other than 3\.\.7"),
        ("score_converter: SIGMOID", "score_converter: SOFTMAX", "score_converter other than SIGMOID"),
        ("multiscale_anchor_generator", "ssd_anchor_generator", "anchor_generator ssd_anchor_generator"),
        ("activation: RELU_6", "activation: SWISH", "activation SWISH is not supported"),
        ("num_classes: 3", "num_classes: three", "wanted a number"),
        ("image_resizer {", "image_resizer [", "is no pipeline.config in proto text"),
    ],
)
def test_networks_of_another_kind_are_refused_by_name(
    tf2: Callable[..., Path], tmp_path: Path, old: str, new: str, message: str
) -> None:
    folder = tf2()
    (folder / "pipeline.config").write_text(CONFIG.replace("TYPE", TF2).replace(old, new))
    with pytest.raises(ModelError, match=message):
        load(folder, tmp_path)


def test_a_config_elsewhere_can_be_given_and_is_asked_for(tf2: Callable[..., Path], tmp_path: Path) -> None:
    folder = tf2()
    elsewhere = tmp_path / "elsewhere" / "my.config"
    elsewhere.parent.mkdir()
    (folder / "pipeline.config").rename(elsewhere)
    with pytest.raises(ModelError, match=r"no pipeline\.config beside the checkpoint or above it; give it with"):
        load(folder, tmp_path)
    (folder / "label_map.pbtxt").rename(elsewhere.parent / "label_map.pbtxt")
    assert load(folder, tmp_path, pipeline_config=elsewhere).labels == ("cat", "dog", "cow")


def test_archives_and_data_that_are_cut_off(tf2: Callable[..., Path], tmp_path: Path) -> None:
    folder = tf2()
    whole = tmp_path / "net.tar.gz"
    with tarfile.open(whole, "w:gz") as archive:
        archive.add(folder, "net/checkpoint")
    (tmp_path / "unpacked").mkdir()
    assert load(whole, tmp_path / "unpacked").labels == ("cat", "dog", "cow")
    for share in (0.02, 0.5, 0.99):
        cut = tmp_path / "cut.tar.gz"
        cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        with pytest.raises(ModelError, match=r"cut\.tar\.gz: the archive is cut off or damaged"):
            load(cut, tmp_path / f"cut{share}")
    data = next(folder.glob("ckpt-7.data*"))
    data.write_bytes(data.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="cannot be read as a checkpoint"):
        load(folder, tmp_path)


# --- TF1: the equations of its network, written down from slim and the Object Detection API, by its own names.


@pytest.fixture
def tf1(tmp_path: Path) -> tuple[Path, Tensors]:
    random = np.random.default_rng(1)
    tensors = {name: values_for(name, shape_of(target), random) for target, name in odapi_tf1.variables(ARCH)}
    conv = "FeatureExtractor/resnet_v1_50/conv1/weights"
    tensors[conv] = tensors[conv] * 0.05  # of pixels
    training = {
        "global_step": np.int64(5),
        f"{conv}/Momentum": tensors[conv],
        f"{conv}/ExponentialMovingAverage": tensors[conv],
    }
    save(tmp_path / "tf1" / "model.ckpt", tensors | training)
    (tmp_path / "tf1" / "pipeline.config").write_text(CONFIG.replace("TYPE", TF1))
    (tmp_path / "tf1" / "label_map.pbtxt").write_text(LABEL_MAP)
    return tmp_path / "tf1", tensors


class Tf1Network:
    """relu(residual), backbone epsilon 1e-5, the plain sum carried down; one picture (1, H, W, 3) RGB."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def conv(self, x: Any, scope: str, stride: int = 1, padding: str = "SAME") -> Any:
        return tf.nn.conv2d(x, self.tensors[f"{scope}/weights"], stride, padding)

    def norm(self, x: Any, scope: str, epsilon: float) -> Any:
        mean, variance, beta, gamma = (
            self.tensors[f"{scope}/{leaf}"] for leaf in ("moving_mean", "moving_variance", "beta", "gamma")
        )
        return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta

    def bias(self, x: Any, scope: str) -> Any:
        return self.conv(x, scope) + self.tensors[f"{scope}/biases"]

    def features(self, x: Any) -> list[Any]:
        net = "FeatureExtractor/resnet_v1_50"
        x = tf.pad(x - np.array([123.68, 116.779, 103.939], np.float32), [[0, 0], [3, 3], [3, 3], [0, 0]])
        x = tf.nn.relu6(self.norm(self.conv(x, f"{net}/conv1", 2, "VALID"), f"{net}/conv1/BatchNorm", 1e-5))
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        found = []
        for block, count in enumerate(BLOCKS, 1):
            for unit in range(1, count + 1):
                scope = f"{net}/block{block}/unit_{unit}/bottleneck_v1"
                stride = 2 if unit == 1 and block > 1 else 1

                def part(x: Any, name: str, stride: int = 1, scope: str = scope) -> Any:
                    return self.norm(self.conv(x, f"{scope}/{name}", stride), f"{scope}/{name}/BatchNorm", 1e-5)

                shortcut = part(x, "shortcut", stride) if unit == 1 else x
                x = tf.nn.relu6(part(x, "conv1", stride))
                x = tf.nn.relu(shortcut + part(tf.nn.relu6(part(x, "conv2")), "conv3"))
            found.append(x)
        return found[1:]

    def pyramid(self, features: list[Any]) -> list[Any]:
        scope = "FeatureExtractor/resnet_v1_50/fpn"

        def smooth(x: Any, name: str, stride: int = 1) -> Any:
            return tf.nn.relu6(self.norm(self.conv(x, f"{scope}/{name}", stride), f"{scope}/{name}/BatchNorm", 1e-3))

        p5 = self.bias(features[2], f"{scope}/projection_3")
        carried, maps = p5, [p5]
        for level in (2, 1):
            up = tf.repeat(tf.repeat(carried, 2, 1), 2, 2)
            carried = self.bias(features[level - 1], f"{scope}/projection_{level}") + up
            maps.insert(0, smooth(carried, f"smoothing_{level}"))
        p6 = smooth(p5, "bottom_up_block5", 2)
        return [*maps, p6, smooth(p6, "bottom_up_block6", 2)]

    def head(self, maps: list[Any], tower: str, output: str) -> list[Any]:
        scope = "WeightSharedConvolutionalBoxPredictor"
        outputs = []
        for level, x in enumerate(maps):
            for layer in range(4):
                name = f"{scope}/{tower}/conv2d_{layer}"
                x = tf.nn.relu6(self.norm(self.conv(x, name), f"{name}/BatchNorm/feature_{level}", 1e-3))
            outputs.append(self.bias(x, f"{scope}/{output}"))
        return outputs


def test_outputs_equal_the_equations_of_tf1(tf1: tuple[Path, Tensors], tmp_path: Path) -> None:
    folder, tensors = tf1
    assert registry.recognise(folder) == "odapi-tf1"
    imported = load(folder, tmp_path)
    assert len(imported.weights) == len(tensors) == 463
    network = canonical(imported)
    picture = np.random.default_rng(2).integers(0, 256, (1, 160, 192, 3)).astype(np.float32)
    outputs = build_keras(network.arch, network.weights, (192, 160))(picture)
    theirs = Tf1Network(tensors)
    maps = theirs.pyramid(theirs.features(picture))
    classes, boxes = (
        theirs.head(maps, "ClassPredictionTower", "ClassPredictor"),
        theirs.head(maps, "BoxPredictionTower", "BoxPredictor"),
    )
    for level, logits, encodings in zip(LEVELS, classes, boxes, strict=True):
        wanted = logits.numpy().reshape(-1, 4)[:, 1:]
        assert wanted.std() > 0.05
        assert np.abs(outputs[f"class_logits_p{level}"].numpy().reshape(-1, 3) - wanted).max() < 1e-4
        assert np.abs(outputs[f"box_encodings_p{level}"].numpy() - encodings.numpy()).max() < 1e-4


def test_a_config_of_the_other_generation_is_refused(
    tf1: tuple[Path, Tensors], tf2: Callable[..., Path], tmp_path: Path
) -> None:
    (tf1[0] / "pipeline.config").write_text(CONFIG.replace("TYPE", TF2))
    with pytest.raises(ModelError, match="describes a TF2 network, but the checkpoint is TF1's"):
        load(tf1[0], tmp_path)
    folder = tf2()
    (folder / "pipeline.config").write_text(CONFIG.replace("TYPE", TF1))
    with pytest.raises(ModelError, match="describes a TF1 network, but the checkpoint is TF2's"):
        load(folder, tmp_path)
