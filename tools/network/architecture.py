"""Architecture: every way in which known SSD-ResNet50-FPN (RetinaNet) models differ, as data.

Sources: TF Object Detection API (models/ssd_resnet_v1_fpn_keras_feature_extractor.py and the slim twin),
torchvision models/detection/retinanet.py, and our own network.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

GROUPS = 32  # of GroupNorm, as in torchvision

Padding = Literal["same", "symmetric"]
Activation = Literal["relu", "relu6", "none"]


@dataclass(frozen=True)
class AnchorStyle:
    """Anchors of one cell and where cells are centred.

    "multiscale_grid" is the TF Object Detection API's generator; the others differ in where cells are centred and
    in rounding, see `edge_detector.manifest.AnchorSpec`. Aspect = width / height everywhere.
    """

    style: Literal["multiscale_grid", "keras_retinanet", "torchvision"] = "multiscale_grid"
    aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    scales_per_octave: int = 2
    anchor_scale: float = 4.0

    @property
    def per_cell(self) -> int:
        """Number of anchors of one cell."""
        return len(self.aspect_ratios) * self.scales_per_octave


@dataclass(frozen=True)
class BoxCoder:
    """What the four codes of a box mean, in which order, and what each was multiplied by.

    "center_size" is Faster R-CNN's: two offsets of the centre and two logarithms of the size. "corners" is
    keras-retinanet's: offsets of the first and of the second corner. `order` says which axis goes first.
    """

    coding: Literal["center_size", "corners"] = "center_size"
    order: Literal["yx", "xy"] = "yx"
    scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class Architecture:
    """One network.

    Attributes:
        input_side: side of the square input in pixels, a multiple of 32.
        num_classes: classes without background.
        background: whether the class head has a background slot in front.
        mean_rgb, std_rgb: the network sees (pixel - mean) / std of pixels 0..255; padding is 0 after that.
        base_width: channels of the first convolution; 64 is ResNet50.
        blocks: bottlenecks per stage conv2..conv5.
        stride_in_3x3: torchvision (v1.5) strides in the 3x3 convolution, the others in the first 1x1.
        backbone_activation, residual_activation: after bn1/bn2, and after the residual sum.
        pool_padding: of the 3x3 stride-2 max pool; "same" is TensorFlow's (0, 1) for even sides.
        fpn_norm: BatchNorm after the smoothing and the coarse convolutions (which then have no bias).
        fpn_activation: after those convolutions.
        smooth_top: whether P5 has a smoothing convolution too.
        carry_smoothed: whether the top-down path carries the smoothed map (TF2 OD API) or the plain sum.
        fpn_epsilon: of the pyramid's BatchNorm.
        coarse_input: what P6 is made from.
        coarse_padding: of the stride-2 convolutions that make P6 and P7.
        coarse_relu_between: torchvision's P7 = conv(ReLU(P6)) while P6 itself stays linear.
        head_norm: BatchNorm per level, shared by all levels (statistics too), none (then biases), or GroupNorm of
            32 groups with weights shared by all levels (torchvision v2).
        anchors, box_coder: what the outputs mean.
    """

    input_side: int = 640
    num_classes: int = 90
    background: bool = False
    mean_rgb: tuple[float, float, float] = (123.68, 116.779, 103.939)
    std_rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)
    base_width: int = 64
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    stride_in_3x3: bool = False
    backbone_activation: Activation = "relu"
    residual_activation: Activation = "relu"
    backbone_epsilon: float = 1e-3
    pool_padding: Padding = "symmetric"
    fpn_channels: int = 256
    fpn_norm: bool = True
    fpn_activation: Activation = "relu"
    smooth_top: bool = True
    carry_smoothed: bool = False
    fpn_epsilon: float = 1e-3
    coarse_input: Literal["p5", "c5"] = "p5"
    coarse_padding: Padding = "same"
    coarse_relu_between: bool = False
    head_channels: int = 256
    head_depth: int = 4
    head_norm: Literal["per_level", "shared", "none", "group"] = "shared"
    head_activation: Activation = "relu"
    head_epsilon: float = 1e-3
    anchors: AnchorStyle = AnchorStyle()
    box_coder: BoxCoder = BoxCoder()

    @property
    def class_slots(self) -> int:
        """Class outputs per anchor, background included."""
        return self.num_classes + self.background

    def epsilon(self, layer: str) -> float:
        """Return the epsilon of the norm behind the convolution `layer`."""
        part = layer.partition(".")[0]
        return {"backbone": self.backbone_epsilon, "fpn": self.fpn_epsilon}.get(part, self.head_epsilon)

    def level_sides(self) -> tuple[int, ...]:
        """Sides of the feature maps P3..P7 in cells."""
        return tuple(-(-self.input_side // 2**level) for level in range(3, 8))

    def to_json(self) -> str:
        """Return the description as JSON, for the metadata of a weights file."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` wrote."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(text).items()
        }
        anchors, coder = fields.pop("anchors"), fields.pop("box_coder")
        anchors["aspect_ratios"] = tuple(anchors["aspect_ratios"])
        coder["scales"] = tuple(coder["scales"])
        coder["order"] = coder["order"][:2]  # "yxhw" in files of version 0.2
        return cls(**fields, anchors=AnchorStyle(**anchors), box_coder=BoxCoder(**coder))


def odapi_tf2(**changes: Any) -> Architecture:
    """Return ssd_resnet50_v1_fpn_640x640_coco17_tpu-8 of the TF2 zoo."""
    settings: dict[str, Any] = {
        "background": True,
        "backbone_activation": "relu6",
        "residual_activation": "relu6",
        "pool_padding": "same",
        "fpn_activation": "relu6",
        "smooth_top": False,
        "carry_smoothed": True,
        "head_norm": "per_level",
        "head_activation": "relu6",
    }
    return Architecture(**settings | changes)


def odapi_tf1(**changes: Any) -> Architecture:
    """Return ssd_resnet50_v1_fpn_shared_box_predictor_640x640_coco14_sync of the TF1 zoo."""
    settings: dict[str, Any] = {
        "residual_activation": "relu",
        "backbone_epsilon": 1e-5,
        "carry_smoothed": False,
    }
    return odapi_tf2(**settings | changes)


def torchvision_v1(**changes: Any) -> Architecture:
    """Return torchvision's retinanet_resnet50_fpn (v1)."""
    settings: dict[str, Any] = {
        "num_classes": 90,
        "background": True,
        "mean_rgb": (123.675, 116.28, 103.53),
        "std_rgb": (58.395, 57.12, 57.375),
        "stride_in_3x3": True,
        "backbone_epsilon": 0.0,
        "fpn_norm": False,
        "fpn_activation": "none",
        "coarse_padding": "symmetric",
        "coarse_relu_between": True,
        "head_norm": "none",
        "anchors": AnchorStyle("torchvision", aspect_ratios=(2.0, 1.0, 0.5), scales_per_octave=3),
        "box_coder": BoxCoder("center_size", "xy", (1.0, 1.0, 1.0, 1.0)),
    }
    return Architecture(**settings | changes)


def torchvision_v2(**changes: Any) -> Architecture:
    """Return torchvision's retinanet_resnet50_fpn_v2."""
    settings: dict[str, Any] = {
        "backbone_epsilon": 1e-5,
        "coarse_input": "c5",
        "head_norm": "group",
        "head_epsilon": 1e-5,
    }
    return torchvision_v1(**settings | changes)


def keras_retinanet(**changes: Any) -> Architecture:
    """Return fizyr's keras-retinanet with ResNet50."""
    settings: dict[str, Any] = {
        "num_classes": 80,
        "backbone_epsilon": 1e-5,
        "pool_padding": "same",
        "fpn_norm": False,
        "fpn_activation": "none",
        "coarse_input": "c5",
        "coarse_relu_between": True,
        "head_norm": "none",
        "anchors": AnchorStyle("keras_retinanet", aspect_ratios=(2.0, 1.0, 0.5), scales_per_octave=3),
        "box_coder": BoxCoder("corners", "xy", (5.0, 5.0, 5.0, 5.0)),
    }
    return Architecture(**settings | changes)


def slim(**changes: Any) -> Architecture:
    """Return our own network: 128 channels and 2 convolutions in neck and heads, half of the work."""
    settings: dict[str, Any] = {"num_classes": 1, "fpn_channels": 128, "head_channels": 128, "head_depth": 2}
    return Architecture(**settings | changes)
