"""Importer: torchvision's retinanet_resnet50_fpn and _v2, from their state dicts, without torchvision."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from edge_detector.errors import ModelError
from edge_detector.manifest import InputSpec, NmsSpec
from tools.network.architecture import Architecture, torchvision_v1, torchvision_v2
from tools.network.importers import ImportedNetwork, given_labels
from tools.network.importers.coco import COCO_90
from tools.network.importers.tensor_files import names_in, read_tensors, state_dict
from tools.network.weights import Weights

_SIDE = 640
_PER_CELL = 9
_EPSILON = 1e-5  # of torch's BatchNorm2d
_FROZEN_NOTE = (
    "BatchNorm's epsilon is taken as 0, which torchvision sets for weights trained on COCO; networks started from "
    "weights_backbone alone have 1e-5, which the file does not tell."
)
_GROUP_NORM_ADVICE = (
    "its heads have GroupNorm, which cannot be folded into convolutions and which int8 represents badly (means and "
    "variances of whole maps); choose --precision float16, or train retinanet_resnet50_fpn (v1)"
)
_PARTS = {
    "backbone.body.conv1": "backbone.conv1.conv",
    "backbone.body.bn1": "backbone.conv1.norm",
    "backbone.fpn.inner_blocks.0.0": "fpn.lateral3.conv",
    "backbone.fpn.inner_blocks.1.0": "fpn.lateral4.conv",
    "backbone.fpn.inner_blocks.2.0": "fpn.lateral5.conv",
    "backbone.fpn.layer_blocks.0.0": "fpn.smooth3.conv",
    "backbone.fpn.layer_blocks.1.0": "fpn.smooth4.conv",
    "backbone.fpn.layer_blocks.2.0": "fpn.smooth5.conv",
    "backbone.fpn.extra_blocks.p6": "fpn.coarse6.conv",
    "backbone.fpn.extra_blocks.p7": "fpn.coarse7.conv",
    "head.classification_head.cls_logits": "class_head.output.conv",
    "head.regression_head.bbox_reg": "box_head.output.conv",
}
_BLOCK = re.compile(r"backbone\.body\.layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)")
_HEADS = {"classification": "class_head", "regression": "box_head"}
_TOWER = re.compile(r"head\.(classification|regression)_head\.conv\.(\d+)\.(\d)")
# Key names before torchvision 0.13: no index inside of a block, and ReLUs counted in the towers.
_OLD_FPN = re.compile(r"backbone\.fpn\.(inner|layer)_blocks\.\d")
_OLD_TOWER = re.compile(r"(head\.(?:classification|regression)_head\.conv)\.(\d*[02468])")


def recognise(path: Path) -> bool:
    """Return whether `path` is a RetinaNet of torchvision."""
    names = names_in(path)
    return b"classification_head.cls_logits" in names and b"backbone.body" in names


def load(path: Path, labels: Path | None) -> ImportedNetwork:
    """Read a state dict as .pth, .pt or .safetensors, with torchvision's old or new key names.

    Raises:
        ModelError: it cannot be read, or tensors are missing, left over or of another network.
    """
    tensors = state_dict(read_tensors(path))
    weights = _rename(tensors, path)
    arch = _architecture(weights, path)
    grouped = arch.head_norm == "group"
    # Only BatchNorm2d counts batches, and torchvision gives epsilon 0 only to FrozenBatchNorm2d.
    frozen = not any(name.endswith("num_batches_tracked") for name in tensors)
    if not frozen:
        arch = dataclasses.replace(arch, backbone_epsilon=_EPSILON)
    red, green, blue = (round(mean) for mean in arch.mean_rgb)
    return ImportedNetwork(
        family=f"torchvision retinanet_resnet{sum(arch.blocks) * 3 + 2}_fpn{'_v2' if grouped else ''}",
        arch=arch,
        weights=weights,
        labels=_labels(arch, labels, path),
        input=InputSpec(width=_SIDE, height=_SIDE, placement="top_left", fill=(red, green, blue)),
        nms=NmsSpec(iou_threshold=0.5),
        files=(path,),
        notes=(
            f"torchvision scales to a short side of 800 pixels; this model takes {_SIDE}x{_SIDE} (see --input-size).",
            *((_FROZEN_NOTE,) if frozen and not grouped else ()),
        ),
        framework="pytorch",
        int8_advice=_GROUP_NORM_ADVICE if grouped else "",
    )


def _rename(tensors: Weights, path: Path) -> Weights:
    weights: Weights = {}
    unknown = []
    for name, values in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        ours = _ours(layer)
        if ours is None:
            unknown.append(name)
        else:
            weights[f"{ours}.{leaf}"] = values
    if unknown:
        raise ModelError(
            f"{path}: {len(unknown)} tensors belong to no layer of torchvision's retinanet_resnet50_fpn, such as "
            f"{unknown[0]}; give the state dict of that network"
        )
    return weights


def _ours(layer: str) -> str | None:
    """Return our name of a layer, None if there is no such layer."""
    if _OLD_FPN.fullmatch(layer):
        layer = f"{layer}.0"
    if match := _OLD_TOWER.fullmatch(layer):
        layer = f"{match[1]}.{int(match[2]) // 2}.0"
    if match := _BLOCK.fullmatch(layer):
        stage, block, kind, number = match.groups()
        part = "shortcut" if kind == "downsample." else f"conv{number}"
        is_norm = kind == "bn" or (kind == "downsample." and number == "1")
        return f"backbone.conv{int(stage) + 1}.{block}.{part}.{'norm' if is_norm else 'conv'}"
    if match := _TOWER.fullmatch(layer):
        return f"{_HEADS[match[1]]}.conv{match[2]}.{'norm' if match[3] == '1' else 'conv'}"
    return _PARTS.get(layer)


def _architecture(weights: Weights, path: Path) -> Architecture:
    try:
        rows, boxes = (len(weights[f"{head}.output.conv.bias"]) for head in ("class_head", "box_head"))
        channels, fpn = (weights[f"{name}.conv.weight"].shape[0] for name in ("class_head.conv0", "fpn.lateral3"))
        source = weights["fpn.coarse6.conv.weight"].shape[1]
        width = weights["backbone.conv1.conv.weight"].shape[0]
    except KeyError as error:
        raise ModelError(f"{path}: the tensor {error} is missing; give the whole state dict") from error
    if boxes != 4 * _PER_CELL or rows % _PER_CELL:
        raise ModelError(
            f"{path}: {rows} class and {boxes} box channels are not those of {_PER_CELL} anchors per cell, which "
            "torchvision's default generator has; other generators are not supported"
        )
    if "backbone.conv2.0.conv3.conv.weight" not in weights:
        raise ModelError(f"{path}: its backbone has no bottlenecks; supported are ResNet50, 101 and 152")
    blocks = tuple(
        1 + max((int(name.split(".")[2]) for name in weights if name.startswith(f"backbone.conv{stage}.")), default=-1)
        for stage in range(2, 6)
    )
    preset = torchvision_v2 if "class_head.conv0.norm.weight" in weights else torchvision_v1
    depth = sum(name.startswith("class_head.conv") and name.endswith("conv.weight") for name in weights)
    return preset(
        input_side=_SIDE,
        num_classes=rows // _PER_CELL - 1,
        base_width=width,
        blocks=blocks,
        fpn_channels=fpn,
        head_channels=channels,
        head_depth=depth,
        coarse_input="p5" if source == fpn else "c5",
    )


def _labels(arch: Architecture, given: Path | None, path: Path) -> tuple[str, ...]:
    if given is None:
        if arch.num_classes == len(COCO_90):
            return COCO_90
        raise ModelError(f"{path}: has {arch.num_classes} classes besides the background; name them with --labels")
    return given_labels(given, arch.num_classes)
