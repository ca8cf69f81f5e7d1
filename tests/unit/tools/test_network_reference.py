# ruff: noqa: E402 - what needs TensorFlow is imported only where it is installed
"""The network against outputs of the TF Object Detection API itself (its tiny variant, random weights)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")

from tools.network.architecture import odapi_tf2
from tools.network.keras_model import LEVELS, build_keras
from tools.network.weights import Weights

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_STAGES = {2: 3, 3: 4, 4: 6, 5: 3}


class Checkpoint:
    """Reads a TF2 checkpoint of the OD API under our names and layouts."""

    def __init__(self, path: Path) -> None:
        self.reader = tf.train.load_checkpoint(str(path))
        self.left = {name for name in self.reader.get_variable_to_shape_map() if name.startswith("model/")}
        self.weights: Weights = {}

    def take(self, key: str) -> np.ndarray:
        name = f"model/{key}/.ATTRIBUTES/VARIABLE_VALUE"
        self.left.discard(name)
        return np.asarray(self.reader.get_tensor(name))

    def conv(self, target: str, key: str, bias: bool = False) -> None:
        self.weights[f"{target}.conv.weight"] = self.take(f"{key}/kernel").transpose(3, 2, 0, 1)
        if bias:
            self.weights[f"{target}.conv.bias"] = self.take(f"{key}/bias")

    def norm(self, target: str, key: str) -> None:
        for theirs, ours in _NORM.items():
            self.weights[f"{target}.{ours}"] = self.take(f"{key}/{theirs}")


def read_odapi(path: Path) -> Checkpoint:
    found = Checkpoint(path)
    place = iter(range(106))

    def layer() -> str:
        return f"_feature_extractor/classification_backbone/layer_with_weights-{next(place)}"

    found.conv("backbone.conv1", layer())
    found.norm("backbone.conv1.norm", layer())
    for stage, count in _STAGES.items():
        for block in range(count):
            name = f"backbone.conv{stage}.{block}"
            for part in ("conv1", "conv2"):
                found.conv(f"{name}.{part}", layer())
                found.norm(f"{name}.{part}.norm", layer())
            last = ("shortcut", "conv3") if block == 0 else ("conv3",)
            for part in last:
                found.conv(f"{name}.{part}", layer())
            for part in last:
                found.norm(f"{name}.{part}.norm", layer())

    fpn = "_feature_extractor/_fpn_features_generator"
    found.conv("fpn.lateral5", f"{fpn}/top_layers/0", bias=True)
    for index, level in enumerate((4, 3)):
        found.conv(f"fpn.lateral{level}", f"{fpn}/residual_blocks/{index}/0", bias=True)
        found.conv(f"fpn.smooth{level}", f"{fpn}/conv_layers/{index}/0")
        found.norm(f"fpn.smooth{level}.norm", f"{fpn}/conv_layers/{index}/1")
        coarse = f"_feature_extractor/_coarse_feature_layers/{index}"
        found.conv(f"fpn.coarse{6 + index}", f"{coarse}/0")
        found.norm(f"fpn.coarse{6 + index}.norm", f"{coarse}/1")

    heads = {
        "class_head": ("ClassPredictionTower", "class_predictions_with_background"),
        "box_head": ("BoxPredictionTower", "box_encodings"),
    }
    for head, (tower, norms) in heads.items():
        for index in range(4):
            found.conv(f"{head}.conv{index}", f"_box_predictor/_head_scope_conv_layers/{tower}/{index}")
            for level in range(5):
                key = f"_box_predictor/_base_tower_layers_for_heads/{norms}/{level}/{1 + 3 * index}"
                found.norm(f"{head}.norms{index}.{level}", key)
    found.conv("box_head.output", "_box_predictor/_box_prediction_head/_box_encoder_layers/0", bias=True)
    classes = "_box_predictor/_prediction_heads/class_predictions_with_background/_class_predictor_layers/0"
    found.conv("class_head.output", classes, bias=True)
    return found


@pytest.mark.parametrize("side", [320, 640])
def test_outputs_equal_the_object_detection_apis(side: int, shared: Path) -> None:
    folder = shared / "reference" / "odapi_tiny"
    checkpoint = read_odapi(folder / "checkpoint" / "ckpt-0")
    assert not checkpoint.left
    reference = np.load(folder / f"compact_{side}.npz")
    outputs = build_keras(odapi_tf2(input_side=side), checkpoint.weights)(reference["image_uint8"].astype(np.float32))

    def joined(name: str, depth: int) -> np.ndarray:
        return np.concatenate([outputs[f"{name}_p{level}"].numpy().reshape(-1, depth) for level in LEVELS])

    wanted_logits, wanted_boxes = reference["class_logits_sub"][0, :, 1:], reference["box_encodings_sub"][0]
    assert wanted_logits.std() > 0.01  # else nothing would be compared
    assert np.abs(joined("class_logits", 90)[reference["anchor_index"]] - wanted_logits).max() < 2e-4
    assert np.abs(joined("box_encodings", 4)[reference["anchor_index"]] - wanted_boxes).max() < 2e-4
