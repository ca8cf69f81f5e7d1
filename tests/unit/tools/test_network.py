# ruff: noqa: E402 - the builds are imported only where their frameworks are installed
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'edge-detector[train]'")
pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")

from edge_detector.errors import ModelError
from tools.evaluate.torch_backend import load_torch_model
from tools.network.architecture import (
    Architecture,
    keras_retinanet,
    odapi_tf1,
    odapi_tf2,
    slim,
    torchvision_v1,
    torchvision_v2,
)
from tools.network.keras_model import LEVELS, build_keras
from tools.network.torch_model import SsdResNetFpn, load_torch
from tools.network.weights import Weights, save_weights
from tools.train.__main__ import build_model

PRESETS: tuple[Callable[..., Architecture], ...] = (
    odapi_tf2,
    odapi_tf1,
    torchvision_v1,
    torchvision_v2,
    keras_retinanet,
    slim,
)


def small(preset: Callable[..., Architecture], side: int) -> Architecture:
    return preset(input_side=side, base_width=8, blocks=(1, 2, 1, 1), fpn_channels=16, head_channels=32, num_classes=5)


def random_model(arch: Architecture, seed: int = 0) -> Any:
    """Return the PyTorch build with random weights and BatchNorm statistics that keep values in a usual range."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Any, deviation: float) -> Any:
        return torch.randn(like.shape, generator=generator) * deviation

    model = SsdResNetFpn(arch).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data = torch.rand(module.num_features, generator=generator) + 0.5
            module.bias.data = normal(module.bias, 0.2)
            module.running_mean.copy_(normal(module.running_mean, 0.2))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
        elif isinstance(module, torch.nn.GroupNorm):
            module.weight.data = torch.rand(module.num_channels, generator=generator) + 0.5
            module.bias.data = normal(module.bias, 0.2)
        elif isinstance(module, torch.nn.Conv2d):
            module.weight.data = normal(module.weight, (1.5 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.data = normal(module.bias, 0.2)
    return model


def weights_of(model: Any) -> Weights:
    return {name: value.numpy() for name, value in model.state_dict().items() if "num_batches" not in name}


# Sides of P6 and P7: 3 and 2, 5 and 3; odd and even apart in the third.
@pytest.mark.parametrize("input_wh", [(160, 160), (320, 320), (224, 160)], ids=str)
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.__name__)
def test_keras_and_torch_builds_agree(preset: Callable[..., Architecture], input_wh: tuple[int, int]) -> None:
    arch = small(preset, 160)
    model = random_model(arch)
    image = np.random.default_rng(1).integers(0, 256, (1, *input_wh[::-1], 3)).astype(np.float32)
    with torch.no_grad():
        class_maps, box_maps = load_torch(arch, weights_of(model))(torch.from_numpy(image).permute(0, 3, 1, 2))
    outputs = build_keras(arch, weights_of(model), input_wh)(image)

    for level, class_map, box_map in zip(LEVELS, class_maps, box_maps, strict=True):
        logits = class_map.permute(0, 2, 3, 1).numpy()
        cells = (*logits.shape[:3], arch.anchors.per_cell, arch.class_slots)
        logits = logits.reshape(cells)[..., int(arch.background) :].reshape(*logits.shape[:3], -1)
        for name, wanted in (("class_logits", logits), ("box_encodings", box_map.permute(0, 2, 3, 1).numpy())):
            got = outputs[f"{name}_p{level}"].numpy()
            assert got.shape == wanted.shape
            scale = max(1.0, float(wanted.std()))
            assert wanted.std() > 0.1  # else nothing would be compared
            assert np.abs(got - wanted).max() <= 1e-4 * scale


@pytest.mark.parametrize("name", ["fpn.lateral4.conv.bias", "backbone.conv3.0.shortcut.norm.running_var"])
def test_a_missing_tensor_is_a_model_error(name: str) -> None:
    arch = small(slim, 160)
    weights = weights_of(random_model(arch))
    del weights[name]
    with pytest.raises(ModelError, match="do not fit"):
        build_keras(arch, weights)


def test_a_tensor_of_no_layer_is_a_model_error() -> None:
    arch = small(slim, 160)
    weights = weights_of(random_model(small(torchvision_v1, 160)))
    with pytest.raises(ModelError):
        build_keras(arch, weights)
    extra = weights_of(random_model(arch)) | {"fpn.smooth8.conv.weight": np.zeros((1, 1, 1, 1), np.float32)}
    with pytest.raises(ModelError, match="smooth8"):
        build_keras(arch, extra)


def test_weights_of_another_width_are_a_model_error() -> None:
    weights = weights_of(random_model(small(slim, 160)))
    weights["fpn.lateral5.conv.weight"] = weights["fpn.lateral5.conv.weight"][:, :-1]
    with pytest.raises(ModelError, match="do not fit"):
        build_keras(small(slim, 160), weights)


def test_a_canvas_that_the_pyramid_does_not_fit_is_a_model_error() -> None:
    arch = small(slim, 160)
    with pytest.raises(ModelError, match="input 160x100: both sides have to be multiples of 32"):
        build_keras(arch, weights_of(random_model(arch)), (160, 100))


def test_pytorch_refuses_weights_of_another_architecture() -> None:
    weights = weights_of(random_model(small(slim, 160)))
    with pytest.raises(ModelError, match="differ"):
        load_torch(small(torchvision_v1, 160), weights)


def test_box_codes_that_cannot_be_scored_or_trained_are_refused(tmp_path: Path) -> None:
    for preset in (torchvision_v1, keras_retinanet):  # as in their files, not brought into order
        arch = small(preset, 160)
        save_weights(tmp_path / "x.safetensors", arch, weights_of(random_model(arch)), tuple("abcde"))
        with pytest.raises(ModelError, match="box codes are in the order x, y"):
            load_torch_model(tmp_path / "x.safetensors")
        with pytest.raises(ModelError, match="training knows center_size in yx only"):
            build_model(tmp_path / "x.safetensors", 160, 16, 1, ("a",))
