"""The network as a Keras model to train, which keeps its BatchNorms, and the way back from a saved one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from edge_detector.errors import ModelError
from tools.network.architecture import Activation, Architecture, Padding
from tools.network.keras_model import Builder, activate, pad
from tools.network.weights import Weights

_NORM = ("weight", "bias", "running_mean", "running_var")  # in the order of Keras' own
_MOMENTUM = 0.97


@keras.saving.register_keras_serializable("edge_detector")
class NetworkInput(keras.layers.Layer):
    """Normalizes pixels 0..255 RGB; its config carries the architecture and the labels into every saved file."""

    def __init__(self, architecture: str, labels: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.architecture = architecture
        self.labels = list(labels)

    def call(self, images: Any) -> Any:
        """Return (1, H, W, 3)."""
        arch = Architecture.from_json(self.architecture)
        return (images - np.array(arch.mean_rgb, np.float32)) / np.array(arch.std_rgb, np.float32)

    def get_config(self) -> dict[str, Any]:
        """Return what it was made with."""
        return {**super().get_config(), "architecture": self.architecture, "labels": self.labels}


def build_trainable(arch: Architecture, weights: Weights, labels: tuple[str, ...]) -> keras.Model:
    """Return the network for `fit` and `save`: input and outputs as `build_keras`, any batch size, background kept.

    Layers have the names of our tensors. The architecture says which of them levels share.

    Raises:
        ModelError: the weights do not fit, or the heads have GroupNorm.
    """
    if arch.head_norm == "group":
        raise ModelError("networks with GroupNorm cannot be trained here; use the PyTorch build")
    try:
        return _TrainableBuilder(arch, weights, labels).build()
    except (KeyError, ValueError) as error:
        raise ModelError(f"the weights do not fit their architecture: {error}; give the whole file") from error


def read_keras(path: Path) -> tuple[Architecture, Weights, tuple[str, ...]]:
    """Return architecture, weights and labels of a model that `build_trainable` made and Keras saved.

    Raises:
        ModelError: it cannot be read, holds code, or is another network.
    """
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises anything, from OSError to TypeError
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{path}: Keras cannot load it ({reason}); save the whole model, without code in it"
        ) from error
    described = [layer for layer in model.layers if isinstance(layer, NetworkInput)]
    if not described:
        raise ModelError(
            f"{path}: a Keras model without our layer NetworkInput; supported is what build_trainable made"
        )
    weights: Weights = {}
    for layer in model.layers:
        values = [np.asarray(value, np.float32) for value in layer.get_weights()]
        if isinstance(layer, keras.layers.Conv2D):
            weights[f"{layer.name}.weight"] = np.ascontiguousarray(values[0].transpose(3, 2, 0, 1))
            weights |= {f"{layer.name}.bias": bias for bias in values[1:]}
        elif isinstance(layer, keras.layers.BatchNormalization):
            weights |= {f"{layer.name}.{leaf}": value for leaf, value in zip(_NORM, values, strict=True)}
    return Architecture.from_json(described[0].architecture), weights, tuple(described[0].labels)


class _TrainableBuilder(Builder):
    def __init__(self, arch: Architecture, weights: Weights, labels: tuple[str, ...]) -> None:
        super().__init__(arch, weights, (arch.input_side, arch.input_side), batch=None)
        self.labels = labels

    def normalize(self, images: Any) -> Any:
        return NetworkInput(self.arch.to_json(), list(self.labels), name="normalize")(images)

    def conv(
        self,
        x: Any,
        name: str,
        *,
        stride: int = 1,
        padding: Padding = "symmetric",
        activation: Activation = "none",
        norm: str | None = None,
    ) -> Any:
        """Return activation(norm(conv(x))), the two as layers of their own."""
        norm = norm or f"{name}.norm"
        kernel = self.take(f"{name}.conv.weight").transpose(2, 3, 1, 0)
        normed = f"{norm}.weight" in self.weights
        x, keras_padding = pad(x, len(kernel), stride, padding)
        values = [kernel] if normed else [kernel, self.take(f"{name}.conv.bias")]
        options: dict[str, Any] = {
            "filters": kernel.shape[-1],
            "kernel_size": len(kernel),
            "strides": stride,
            "padding": keras_padding,
            "use_bias": not normed,
        }
        x = self.layer(f"{name}.conv", x, values, keras.layers.Conv2D, **options)
        if normed:
            statistics = [self.take(f"{norm}.{leaf}") for leaf in _NORM]
            epsilon = self.arch.epsilon(name)
            normalization = keras.layers.BatchNormalization
            x = self.layer(norm, x, statistics, normalization, epsilon=epsilon, momentum=_MOMENTUM)
        return activate(x, activation)

    def layer(self, name: str, x: Any, values: list[Any], kind: Any, **options: Any) -> Any:
        """Return x through the layer of this name, which is made once and shared."""
        key = name, name
        if key not in self.layers:
            layer = kind(name=name, **options)
            layer.build(x.shape)
            layer.set_weights(values)
            self.layers[key] = layer
        return self.layers[key](x)
