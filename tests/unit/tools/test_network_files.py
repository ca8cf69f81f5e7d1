"""Our network as files of Keras and PyTorch: there and back, trained in between."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'edge-detector[train]'")
pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")

import keras

import tools.network.__main__ as program
from edge_detector.errors import ModelError
from tests.unit.tools.quantizing import LABELS, random_weights
from tools.network.architecture import Architecture, odapi_tf2, slim, torchvision_v1
from tools.network.importers import ImportedNetwork, canonical, own, registry
from tools.network.keras_file import build_trainable, read_keras
from tools.network.keras_model import build_keras
from tools.network.weights import save_weights

# TensorFlow 2.21 with numpy 2, where Keras saves a variable
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL: dict[str, Any] = {
    "input_side": 96,
    "num_classes": 2,
    "base_width": 8,
    "blocks": (1, 1, 1, 1),
    "fpn_channels": 16,
    "head_channels": 16,
}
PRESETS: tuple[Callable[..., Architecture], ...] = (slim, torchvision_v1, odapi_tf2)


@pytest.fixture(params=PRESETS, ids=lambda preset: preset.__name__)
def network(request: pytest.FixtureRequest, tmp_path: Path) -> ImportedNetwork:
    arch = request.param(**SMALL)
    save_weights(tmp_path / "net.safetensors", arch, random_weights(arch), LABELS)
    return canonical(own.load(tmp_path / "net.safetensors", None))


def save(network: ImportedNetwork, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras calls .h5 a legacy format
        program.save(network, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".keras", ".h5", ".pth"])
def test_every_format_gives_back_the_same_network(network: ImportedNetwork, tmp_path: Path, suffix: str) -> None:
    path = save(network, tmp_path / f"again{suffix}")
    assert registry.recognise(path) == "own"
    again = registry.load(path, "own", tmp_path, None, None)
    assert (again.arch, again.labels) == (network.arch, network.labels)
    assert set(again.weights) == set(network.weights)
    assert all(np.array_equal(values, again.weights[name]) for name, values in network.weights.items())
    assert not list(tmp_path.glob(".new-*"))


def test_the_keras_model_computes_what_the_export_computes(network: ImportedNetwork) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype(np.float32)
    trainable = build_trainable(network.arch, network.weights, network.labels)(pictures, training=False)
    for index in range(2):
        wanted = build_keras(network.arch, network.weights)(pictures[index : index + 1])
        for name, values in wanted.items():
            assert np.abs(trainable[name].numpy()[index] - values.numpy()[0]).max() < 1e-4


def test_what_fit_has_changed_comes_back(tmp_path: Path) -> None:
    arch = slim(**SMALL)
    model = build_trainable(arch, random_weights(arch), LABELS)
    model.compile(keras.optimizers.SGD(1e-6), dict.fromkeys(model.output, "mse"))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype(np.float32)
    targets = {name: np.zeros(values.shape, np.float32) for name, values in model(pictures).items()}
    model.fit(pictures, targets, epochs=1, verbose=0)
    model.save(tmp_path / "tuned.keras")
    found, weights, labels = read_keras(tmp_path / "tuned.keras")
    assert (found, labels) == (arch, LABELS)
    before = random_weights(arch)
    changed = [name for name, values in weights.items() if not np.array_equal(values, before[name])]
    assert {"class_head.output.conv.weight", "backbone.conv1.conv.weight", "fpn.smooth3.norm.running_mean"} <= {
        *changed
    }
    after = model(pictures, training=False)["class_logits_p3"].numpy()[:1]
    assert np.abs(build_keras(found, weights)(pictures[:1])["class_logits_p3"].numpy() - after).max() < 1e-4


def test_code_in_a_keras_file_is_refused(tmp_path: Path) -> None:
    arch = slim(**SMALL)
    inner = build_trainable(arch, random_weights(arch), LABELS)
    spy = keras.layers.Lambda(lambda x: x * 2)
    keras.Model(inner.input, spy(inner.output["class_logits_p3"])).save(tmp_path / "evil.keras")
    assert own.recognise(tmp_path / "evil.keras")
    with pytest.raises(ModelError, match=r"evil\.keras: Keras cannot load it"):
        own.load(tmp_path / "evil.keras", None)


def test_other_keras_models_are_not_ours(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    assert not own.recognise(tmp_path / "dense.keras")
    with pytest.raises(ModelError, match="a Keras model without our layer NetworkInput"):
        own.load(tmp_path / "dense.keras", None)


def test_the_program_as_a_user_calls_it(network: ImportedNetwork, tmp_path: Path) -> None:
    folder = str(Path(program.__file__).parent)
    arguments = [str(tmp_path / "net.safetensors"), "--output", str(tmp_path / "net.keras")]
    result = subprocess.run([sys.executable, folder, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "our own weights, 2 classes" in result.stderr.splitlines()[-1]
    arguments[0] = str(tmp_path / "missing.pth")
    result = subprocess.run([sys.executable, folder, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == ModelError.exit_code
    assert "missing.pth: no such file or folder; supported are" in result.stderr.splitlines()[-1]
