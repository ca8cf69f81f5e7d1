"""The network in Keras 3 on TensorFlow, for export: inference only, BatchNorm folded into the convolutions."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_detector.errors import ModelError
from tools.network.architecture import GROUPS, Activation, Architecture, Padding
from tools.network.weights import Weights

LEVELS = range(3, 8)


@keras.saving.register_keras_serializable("edge_detector")
class _UpsampleNearest(keras.layers.Layer):
    """Exact nearest x2; UpSampling2D would become RESHAPE and TILE, half_pixel_centers another op version."""

    def call(self, x: Any) -> Any:
        """Return (1, 2 H, 2 W, C)."""
        size = [2 * x.shape[1], 2 * x.shape[2]]
        return tf.raw_ops.ResizeNearestNeighbor(images=x, size=size, half_pixel_centers=False)

    def compute_output_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return the shape of the result."""
        return shape[0], 2 * shape[1], 2 * shape[2], shape[3]


class _GroupNorm(keras.layers.Layer):
    """GroupNorm in operators that TensorFlow Lite has, none above four dimensions."""

    def __init__(self, groups: int, epsilon: float, name: str) -> None:
        super().__init__(name=name)
        self.groups = groups
        self.epsilon = epsilon

    def build(self, shape: tuple[int, int, int, int]) -> None:
        """Add scale and offset per channel."""
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        self.offset = self.add_weight(shape=(shape[-1],), name="offset")

    def call(self, x: Any) -> Any:
        """Return (1, H, W, C)."""
        _, height, width, channels = x.shape
        grouped = tf.reshape(x, [1, height * width, self.groups, channels // self.groups])
        deviation = grouped - tf.reduce_mean(grouped, [1, 3], keepdims=True)
        variance = tf.reduce_mean(deviation * deviation, [1, 3], keepdims=True)
        normalized = tf.reshape(deviation * tf.math.rsqrt(variance + self.epsilon), [1, height, width, channels])
        return normalized * self.scale + self.offset

    def compute_output_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return the shape of the result."""
        return shape


def build_keras(arch: Architecture, weights: Weights, input_wh: tuple[int, int] | None = None) -> keras.Model:
    """Return the network as a functional model with static shapes; `input_wh` replaces the architecture's square.

    Input: (1, height, width, 3) float32, RGB 0..255. Outputs, by name: `class_logits_p3`..`p7`
    (1, H, W, A * classes) and `box_encodings_p3`..`p7` (1, H, W, A * 4), anchor-major. A background
    slot of the weights is left out.

    Raises:
        ModelError: weights are missing, left over, or of another shape than `arch` says.
    """
    width, height = input_wh or (arch.input_side, arch.input_side)
    if width % 32 or height % 32:
        raise ModelError(f"input {width}x{height}: both sides have to be multiples of 32; give another input size")
    try:
        return Builder(arch, weights, (height, width)).build()
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"the weights do not fit their architecture: {error}; give the file as it was saved"
        ) from error


class Builder:
    """Walks through the network once; what a convolution becomes is for `conv` to say."""

    def __init__(self, arch: Architecture, weights: Weights, input_hw: tuple[int, int], batch: int | None = 1) -> None:
        """`input_hw` are the sides of the canvas in pixels."""
        self.arch = arch
        self.input_hw = input_hw
        self.batch = batch
        self.weights = weights
        self.unused = set(weights)
        self.layers: dict[tuple[str, str], Any] = {}

    def build(self) -> keras.Model:
        """Return the model."""
        images = keras.Input((*self.input_hw, 3), batch_size=self.batch, dtype="float32", name="images")
        maps = self.fpn(self.backbone(self.normalize(images)))
        class_maps = self.head("class_head", maps)
        box_maps = self.head("box_head", maps)
        if self.unused:
            raise ModelError(f"{len(self.unused)} tensors belong to no layer, such as {min(self.unused)}")
        outputs = {f"class_logits_p{level}": x for level, x in zip(LEVELS, class_maps, strict=True)}
        outputs |= {f"box_encodings_p{level}": x for level, x in zip(LEVELS, box_maps, strict=True)}
        return keras.Model(images, outputs, name="network")

    def normalize(self, images: Any) -> Any:
        """Return (pixel - mean) / std as one depthwise convolution: its int8 twin keeps the mean exactly, as int32."""
        scale = 1 / np.array(self.arch.std_rgb)
        offset = -np.array(self.arch.mean_rgb) * scale
        layer = keras.layers.DepthwiseConv2D(1, name="normalize")
        layer.build(images.shape)
        layer.set_weights([scale.reshape(1, 1, 3, 1), offset])
        return layer(images)

    def backbone(self, x: Any) -> list[Any]:
        """Return C3, C4, C5."""
        arch = self.arch
        x = self.conv(x, "backbone.conv1", stride=2, activation=arch.backbone_activation)
        x, padding = pad(x, 3, 2, arch.pool_padding)
        x = keras.layers.MaxPooling2D(3, 2, padding)(x)
        outputs = []
        for stage, count in enumerate(arch.blocks, 2):
            for block in range(count):
                x = self.bottleneck(x, f"backbone.conv{stage}.{block}", 2 if block == 0 and stage > 2 else 1)
            outputs.append(x)
        return outputs[1:]

    def bottleneck(self, x: Any, name: str, stride: int) -> Any:
        """Return activation(shortcut(x) + residual(x))."""
        arch = self.arch
        first, second = (1, stride) if arch.stride_in_3x3 else (stride, 1)
        residual = self.conv(x, f"{name}.conv1", stride=first, activation=arch.backbone_activation)
        residual = self.conv(residual, f"{name}.conv2", stride=second, activation=arch.backbone_activation)
        residual = self.conv(residual, f"{name}.conv3")
        if f"{name}.shortcut.conv.weight" in self.weights:
            x = self.conv(x, f"{name}.shortcut", stride=stride)
        return activate(keras.layers.Add()([residual, x]), arch.residual_activation)

    def fpn(self, features: list[Any]) -> list[Any]:
        """Return P3..P7."""
        arch = self.arch
        top = self.conv(features[2], "fpn.lateral5")
        p5 = self.conv(top, "fpn.smooth5", activation=arch.fpn_activation) if arch.smooth_top else top
        carried, maps = top, [p5]
        for level in (4, 3):
            lateral = self.conv(features[level - 3], f"fpn.lateral{level}")
            merged = keras.layers.Add()([lateral, _UpsampleNearest()(carried)])
            smooth = self.conv(merged, f"fpn.smooth{level}", activation=arch.fpn_activation)
            carried = smooth if arch.carry_smoothed else merged
            maps.insert(0, smooth)
        for level in (6, 7):
            x = features[2] if level == 6 and arch.coarse_input == "c5" else maps[-1]
            x = activate(x, "relu") if level == 7 and arch.coarse_relu_between else x
            name = f"fpn.coarse{level}"
            maps.append(self.conv(x, name, stride=2, padding=arch.coarse_padding, activation=arch.fpn_activation))
        return maps

    def head(self, name: str, maps: list[Any]) -> list[Any]:
        """Return one output map per level; layers without a BatchNorm per level are shared."""
        for layer in range(self.arch.head_depth):
            conv, activation = f"{name}.conv{layer}", self.arch.head_activation
            norms = [
                f"{name}.norms{layer}.{index}" if self.arch.head_norm == "per_level" else f"{conv}.norm"
                for index in range(len(maps))
            ]
            if self.arch.head_norm == "group":
                maps = [activate(self.group_norm(self.conv(x, conv, norm=""), conv), activation) for x in maps]
                continue
            maps = [self.conv(x, conv, norm=norm, activation=activation) for x, norm in zip(maps, norms, strict=True)]
        return [self.conv(x, f"{name}.output") for x in maps]

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
        """Return activation(norm(conv(x))) with the weights `name`; the same name and norm is the same layer."""
        key = name, f"{name}.norm" if norm is None else norm
        side = _kernel_side(name)
        x, keras_padding = pad(x, side, stride, padding)
        if key not in self.layers:
            kernel, bias = self.fold(*key)
            layer = keras.layers.Conv2D(
                len(bias),
                side,
                stride,
                keras_padding,
                activation=_NAMES[activation],
                name=key[1].removesuffix(".norm") or name,
            )
            layer.build(x.shape)
            layer.set_weights([kernel, bias])
            self.layers[key] = layer
        return self.layers[key](x)

    def group_norm(self, x: Any, name: str) -> Any:
        """Return x (1, H, W, C) normalized over groups of channels, with weights shared by all levels."""
        key = name, "group"
        if key not in self.layers:
            layer = _GroupNorm(GROUPS, self.arch.head_epsilon, name=f"{name}.norm")
            layer.build(x.shape)
            layer.set_weights([self.take(f"{name}.norm.weight"), self.take(f"{name}.norm.bias")])
            self.layers[key] = layer
        return self.layers[key](x)

    def fold(self, name: str, norm: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return kernel (HWIO) and bias of a convolution with its BatchNorm, if it has one, folded in."""
        kernel = self.take(f"{name}.conv.weight").transpose(2, 3, 1, 0)
        if f"{norm}.weight" in self.weights:
            variance = self.take(f"{norm}.running_var") + self.arch.epsilon(name)
            if variance.min() <= 0:
                raise ModelError(
                    f"{norm}: the variance of a channel is {variance.min():g}, so that its outputs are not finite in "
                    "the source either; give another checkpoint"
                )
            scale = self.take(f"{norm}.weight") / np.sqrt(variance)
            return kernel * scale, self.take(f"{norm}.bias") - self.take(f"{norm}.running_mean") * scale
        if norm == "":
            return kernel, np.zeros(kernel.shape[-1])
        bias = self.take(f"{name}.conv.bias")
        if name == "class_head.output" and self.arch.background:
            slot = np.arange(len(bias)) % self.arch.class_slots
            return kernel[..., slot > 0], bias[slot > 0]
        return kernel, bias

    def take(self, name: str) -> npt.NDArray[np.float64]:
        """Return a tensor, which then counts as used."""
        self.unused.discard(name)
        return self.weights[name].astype(np.float64)


def _kernel_side(name: str) -> int:
    """Return the side of a layer's kernel; taken from the weights it would hide that two of them are swapped."""
    if name == "backbone.conv1":
        return 7
    pointwise = name.startswith("fpn.lateral") or (name.startswith("backbone") and not name.endswith("conv2"))
    return 1 if pointwise else 3


_NAMES: dict[Activation, str | None] = {"none": None, "relu": "relu", "relu6": "relu6"}


def activate(x: Any, activation: Activation) -> Any:
    """Return x through an activation by name."""
    return x if activation == "none" else keras.layers.Activation(activation)(x)


def pad(x: Any, kernel: int, stride: int, padding: Padding) -> tuple[Any, str]:
    """Return x, zero-padded where TensorFlow's SAME is not what `padding` wants, and the padding for the layer."""
    symmetric = kernel // 2
    totals = [max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[1:3]]
    if padding == "same" or kernel == 1 or all(total == 2 * symmetric for total in totals):
        return x, "same"
    return keras.layers.ZeroPadding2D(symmetric)(x), "valid"
