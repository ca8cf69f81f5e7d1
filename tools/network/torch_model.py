"""The network in PyTorch, for training; parameter names are the canonical names of the weight format."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from edge_detector.errors import ModelError
from tools.network.architecture import GROUPS, Activation, Architecture, Padding
from tools.network.weights import Weights


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply an activation by name."""
    if activation == "none":
        return x
    return F.relu6(x) if activation == "relu6" else F.relu(x)


def pad_for(x: Tensor, kernel: int, stride: int, padding: Padding) -> Tensor:
    """Zero-pad (N, C, H, W) for a VALID convolution or pool; "same" is TensorFlow's, bottom and right first."""
    if padding == "symmetric":
        pads = [kernel // 2] * 4
    else:
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


class ConvNorm(nn.Module):
    """Convolution with BatchNorm folded into it in eval mode, or with a bias and no BatchNorm.

    Folding per call costs a multiplication per weight instead of one per activation, and gradients still reach
    the unfolded weight: fine-tuning with frozen statistics is exactly this module in eval mode.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        epsilon: float | None = None,
        padding: Padding = "symmetric",
        activation: Activation = "none",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, bias=epsilon is None)
        self.norm: nn.BatchNorm2d | nn.GroupNorm | None = None
        if epsilon is not None:
            self.norm = nn.BatchNorm2d(channels_out, eps=epsilon, momentum=0.03)
        self.padding: Padding = padding
        self.activation: Activation = activation

    def linear(self, x: Tensor) -> Tensor:
        """Return convolution and, in eval mode, BatchNorm; no activation."""
        conv, norm = self.conv, self.norm
        if conv.kernel_size[0] > 1:
            x = pad_for(x, conv.kernel_size[0], conv.stride[0], self.padding)
        if not isinstance(norm, nn.BatchNorm2d) or norm.training:
            return conv(x)
        return fold_and_convolve(x, conv, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return activation(norm(conv(x)))."""
        x = self.linear(x)
        if self.norm is not None and self.norm.training:
            x = self.norm(x)
        return activate(x, self.activation)


def fold_and_convolve(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Return norm(conv(x)) with the statistics of `norm` as constants, as one convolution."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    return F.conv2d(x, conv.weight * scale[:, None, None, None], bias, conv.stride)


class Bottleneck(nn.Module):
    """ResNet bottleneck: 1x1, 3x3, 1x1, and a projected shortcut in the first block of a stage."""

    def __init__(self, channels_in: int, width: int, stride: int, shortcut: bool, arch: Architecture) -> None:
        super().__init__()
        epsilon, activation = arch.backbone_epsilon, arch.backbone_activation
        first, second = (1, stride) if arch.stride_in_3x3 else (stride, 1)
        self.conv1 = ConvNorm(channels_in, width, 1, first, epsilon=epsilon, activation=activation)
        self.conv2 = ConvNorm(width, width, 3, second, epsilon=epsilon, activation=activation)
        self.conv3 = ConvNorm(width, 4 * width, epsilon=epsilon)
        self.shortcut = ConvNorm(channels_in, 4 * width, 1, stride, epsilon=epsilon) if shortcut else None
        self.activation: Activation = arch.residual_activation

    def forward(self, x: Tensor) -> Tensor:
        """Return activation(shortcut(x) + residual(x))."""
        residual = self.conv3(self.conv2(self.conv1(x)))
        return activate(residual + (x if self.shortcut is None else self.shortcut(x)), self.activation)


class Backbone(nn.Module):
    """ResNet: image -> C3, C4, C5."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.pool_padding: Padding = arch.pool_padding
        self.conv1 = ConvNorm(
            3, arch.base_width, 7, 2, epsilon=arch.backbone_epsilon, activation=arch.backbone_activation
        )
        channels = arch.base_width
        for index, count in enumerate(arch.blocks):
            width = arch.base_width * 2**index
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and index > 0 else 1
                blocks.append(Bottleneck(channels, width, stride, block == 0, arch))
                channels = 4 * width
            setattr(self, f"conv{index + 2}", nn.Sequential(*blocks))
        self.frozen_stages = 0

    def freeze(self, stages: int) -> None:
        """Exclude conv1..conv<stages> from training (0: none, 5: all); BatchNorm statistics are always constant."""
        self.frozen_stages = stages
        for stage in range(1, 6):
            getattr(self, f"conv{stage}").requires_grad_(stage > stages)

    def train(self, mode: bool = True) -> Backbone:
        """Keep BatchNorm in eval mode: batches here are too small to re-estimate ImageNet statistics."""
        super().train(False)
        self.training = mode
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return C3, C4, C5 of normalized images (N, 3, H, W)."""
        outputs = []
        for stage in range(1, 6):
            with torch.set_grad_enabled(torch.is_grad_enabled() and stage > self.frozen_stages):
                x = getattr(self, f"conv{stage}")(x)
                if stage == 1:
                    x = F.max_pool2d(pad_for(x, 3, 2, self.pool_padding), 3, 2)
            outputs.append(x)
        return outputs[2], outputs[3], outputs[4]


class Fpn(nn.Module):
    """Feature pyramid: C3, C4, C5 -> P3..P7."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        out = arch.fpn_channels
        epsilon = arch.fpn_epsilon if arch.fpn_norm else None
        self.carry_smoothed = arch.carry_smoothed
        self.relu_between = arch.coarse_relu_between
        self.coarse_input = arch.coarse_input
        for level in (3, 4, 5):
            setattr(self, f"lateral{level}", ConvNorm(arch.base_width * 2 ** (level - 2) * 4, out))
            if level < 5 or arch.smooth_top:
                smooth = ConvNorm(out, out, 3, epsilon=epsilon, activation=arch.fpn_activation)
                setattr(self, f"smooth{level}", smooth)
        for level in (6, 7):
            source = 8 * arch.base_width * 4 if level == 6 and arch.coarse_input == "c5" else out
            coarse = ConvNorm(
                source, out, 3, 2, epsilon=epsilon, activation=arch.fpn_activation, padding=arch.coarse_padding
            )
            setattr(self, f"coarse{level}", coarse)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return P3..P7."""
        top = self.lateral5(features[2])
        p5 = self.smooth5(top) if hasattr(self, "smooth5") else top
        carried, maps = top, [p5]
        for level in (4, 3):
            up = F.interpolate(carried, scale_factor=2.0, mode="nearest")
            merged = getattr(self, f"lateral{level}")(features[level - 3]) + up
            smooth = getattr(self, f"smooth{level}")(merged)
            carried = smooth if self.carry_smoothed else merged
            maps.insert(0, smooth)
        p6 = self.coarse6(p5 if self.coarse_input == "p5" else features[2])
        return [*maps, p6, self.coarse7(F.relu(p6) if self.relu_between else p6)]


class Head(nn.Module):
    """A tower of 3x3 convolutions and an output convolution, their weights shared by all levels."""

    def __init__(self, outputs: int, arch: Architecture) -> None:
        super().__init__()
        self.norm_kind = arch.head_norm
        self.activation: Activation = arch.head_activation
        channels = arch.fpn_channels
        for layer in range(arch.head_depth):
            epsilon = arch.head_epsilon if arch.head_norm == "shared" else None
            conv = ConvNorm(channels, arch.head_channels, 3, epsilon=epsilon)
            if arch.head_norm == "per_level":
                conv.conv.bias = None
                norms = [nn.BatchNorm2d(arch.head_channels, eps=arch.head_epsilon, momentum=0.03) for _ in range(5)]
                setattr(self, f"norms{layer}", nn.ModuleList(norms))
            elif arch.head_norm == "group":
                conv.conv.bias = None
                conv.norm = nn.GroupNorm(GROUPS, arch.head_channels, arch.head_epsilon)
            setattr(self, f"conv{layer}", conv)
            channels = arch.head_channels
        self.depth = arch.head_depth
        self.output = ConvNorm(channels, outputs, 3)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return one raw output map (N, outputs, H, W) per level."""
        maps = list(maps)
        for layer in range(self.depth):
            conv: ConvNorm = getattr(self, f"conv{layer}")
            maps = [conv.linear(x) for x in maps]
            if self.norm_kind == "per_level":
                maps = [norm(x) for norm, x in zip(getattr(self, f"norms{layer}"), maps, strict=True)]
            elif isinstance(conv.norm, nn.GroupNorm):
                maps = [conv.norm(x) for x in maps]
            elif conv.norm is not None and conv.norm.training:
                maps = normalize_jointly(maps, conv.norm)
            maps = [activate(x, self.activation) for x in maps]
        return [self.output(x) for x in maps]


def normalize_jointly(maps: Sequence[Tensor], norm: nn.BatchNorm2d) -> list[Tensor]:
    """Apply one BatchNorm to all levels with common statistics, so that training and inference agree."""
    sizes = [x.shape[2] * x.shape[3] for x in maps]
    joined = norm(torch.cat([x.flatten(2) for x in maps], 2)[..., None])
    parts = joined.squeeze(3).split(sizes, 2)
    return [part.reshape(x.shape) for part, x in zip(parts, maps, strict=True)]


class SsdResNetFpn(nn.Module):
    """Images (N, 3, H, W) RGB 0..255 -> per level class logits and box encodings, anchors in cells' inner order."""

    mean: Tensor
    std: Tensor

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.register_buffer("mean", torch.tensor(arch.mean_rgb)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(arch.std_rgb)[:, None, None], persistent=False)
        self.backbone = Backbone(arch)
        self.fpn = Fpn(arch)
        self.class_head = Head(arch.anchors.per_cell * arch.class_slots, arch)
        self.box_head = Head(arch.anchors.per_cell * 4, arch)
        self._initialize_new_layers()

    def _initialize_new_layers(self) -> None:
        """Initialize neck and heads as RetinaNet does (Lin et al. 2017, section 4.1); prior probability 0.01."""
        for head in (self.class_head, self.box_head):
            for module in head.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.01)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        nn.init.constant_(self.class_head.output.conv.bias, -math.log(99))
        for module in self.fpn.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return class logits [(N, A*C, H, W)] and box encodings [(N, A*4, H, W)] for P3..P7."""
        maps = self.fpn(self.backbone((images - self.mean) / self.std))
        return self.class_head(maps), self.box_head(maps)


def load_torch(arch: Architecture, weights: Weights) -> SsdResNetFpn:
    """Return the network with these weights, in eval mode.

    Raises:
        ModelError: tensors are missing, left over, or of another shape than `arch` says.
    """
    model = SsdResNetFpn(arch)
    try:
        faults = model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()}, strict=False)
        missing = [name for name in faults.missing_keys if not name.endswith("num_batches_tracked")]
        if missing or faults.unexpected_keys:
            raise RuntimeError(f"missing {missing[:3]}, unexpected {faults.unexpected_keys[:3]}")
    except RuntimeError as error:
        raise ModelError(f"tensors and stated architecture differ; train or convert it anew: {error}") from error
    return model.eval()


def flatten_levels(maps: Sequence[Tensor], last: int) -> Tensor:
    """Join per-level maps (N, A*last, H, W) into (N, anchors, last) in anchor order, float32."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, last) for x in maps], 1).float()
