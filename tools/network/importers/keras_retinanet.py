"""Importer: fizyr keras-retinanet with a ResNet backbone, from its HDF5 files, with h5py alone.

Sources: keras-retinanet 1.0.0 models/retinanet.py, keras-resnet 0.2.0 blocks/_2d.py (stride in the first 1x1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.errors import ModelError
from edge_detector.manifest import InputSpec, NmsSpec
from tools.network.architecture import Architecture, keras_retinanet
from tools.network.importers import ImportedNetwork, given_labels
from tools.network.importers.coco import COCO_80
from tools.network.importers.odapi import NORM
from tools.network.weights import Weights

_SIDE = 640
_PER_CELL = 9
_HDF5 = b"\x89HDF\r\n\x1a\n"
_BRANCHES = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
_FPN = {
    "lateral5": "C5_reduced",
    "lateral4": "C4_reduced",
    "lateral3": "C3_reduced",
    "smooth5": "P5",
    "smooth4": "P4",
    "smooth3": "P3",
    "coarse6": "P6",
    "coarse7": "P7",
}
_HEADS = {"class_head": "pyramid_classification", "box_head": "pyramid_regression"}

Arrays = dict[tuple[str, str], npt.NDArray[np.float32]]


def recognise(path: Path) -> bool:
    """Return whether `path` is an HDF5 file with the layers of keras-retinanet."""
    try:
        with path.open("rb") as file:
            if file.read(8) != _HDF5:
                return False
        return ("pyramid_classification", "kernel") in _read(path)
    except (OSError, ModelError):
        return False


def load(path: Path, labels: Path | None) -> ImportedNetwork:
    """Read a training model, an inference model, or a file of weights alone.

    Raises:
        ModelError: it cannot be read, or layers are missing or of another shape.
    """
    arrays = _read(path)
    taken: set[tuple[str, str]] = set()

    def take(layer: str, leaf: str) -> npt.NDArray[np.float32]:
        if (layer, leaf) not in arrays:
            raise ModelError(f"{path}: the layer {layer} with its {leaf} is missing; give the whole model")
        taken.add((layer, leaf))
        return arrays[layer, leaf]

    weights: Weights = {}

    def convolution(target: str, layer: str, norm: str | None = None) -> None:
        weights[f"{target}.conv.weight"] = np.ascontiguousarray(take(layer, "kernel").transpose(3, 2, 0, 1))
        if norm is None:
            weights[f"{target}.conv.bias"] = take(layer, "bias")
        else:
            weights.update({f"{target}.norm.{ours}": take(norm, theirs) for theirs, ours in NORM.items()})

    convolution("backbone.conv1", "conv1", "bn_conv1")
    weights["backbone.conv1.conv.weight"] = np.ascontiguousarray(weights["backbone.conv1.conv.weight"][:, ::-1])  # BGR
    blocks = tuple(_count_blocks(arrays, stage) for stage in range(2, 6))
    for stage, count in enumerate(blocks, 2):
        for block in range(count):
            name = f"{stage}{_block_name(arrays, stage, block)}_branch"
            for part, branch in list(_BRANCHES.items())[: 4 if block == 0 else 3]:
                convolution(f"backbone.conv{stage}.{block}.{part}", f"res{name}{branch}", f"bn{name}{branch}")
    for ours, theirs in _FPN.items():
        convolution(f"fpn.{ours}", theirs)
    for head, theirs in _HEADS.items():
        for layer in range(4):
            convolution(f"{head}.conv{layer}", f"{theirs}_{layer}")
        convolution(f"{head}.output", theirs)
    extra = sorted(layer for layer, leaf in set(arrays) - taken if leaf in ("kernel", *NORM))
    if extra:
        raise ModelError(f"{path}: {len(extra)} arrays belong to no layer of keras-retinanet, such as {extra[0]}'s")
    arch = _architecture(weights, blocks, path)
    red, green, blue = (round(mean) for mean in arch.mean_rgb)
    return ImportedNetwork(
        family=f"keras-retinanet, ResNet with {sum(blocks) * 3 + 2} layers",
        arch=arch,
        weights=weights,
        labels=_labels(arch, labels, path),
        input=InputSpec(width=_SIDE, height=_SIDE, placement="top_left", fill=(red, green, blue)),
        nms=NmsSpec(iou_threshold=0.5),
        files=(path,),
        notes=(f"keras-retinanet scales to a short side of 800 pixels; this model takes {_SIDE}x{_SIDE}.",),
    )


def _read(path: Path) -> Arrays:
    """Return the arrays of an HDF5 file by layer and name, wherever they are nested."""
    try:
        import h5py
    except ImportError as error:
        raise ModelError(f"{path}: reading HDF5 needs h5py; run: pip install h5py") from error
    arrays: Arrays = {}

    def collect(name: str, item: Any) -> None:
        parts = name.split("/")
        if isinstance(item, h5py.Dataset) and len(parts) > 1 and parts[0] != "optimizer_weights":
            arrays[parts[-2], parts[-1].partition(":")[0]] = np.asarray(item, np.float32)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as HDF5: {error}; copy it again") from error
    return arrays


def _block_name(arrays: Arrays, stage: int, block: int) -> str:
    """Return how keras-resnet names a block: a, b, c .. or, in deep stages, a, b1, b2 .."""
    numbered = block > 0 and (f"res{stage}b1_branch2a", "kernel") in arrays
    return f"b{block}" if numbered else chr(ord("a") + block)


def _count_blocks(arrays: Arrays, stage: int) -> int:
    count = 0
    while (f"res{stage}{_block_name(arrays, stage, count)}_branch2a", "kernel") in arrays:
        count += 1
    return count


def _architecture(weights: Weights, blocks: tuple[int, ...], path: Path) -> Architecture:
    rows, boxes = (len(weights[f"{head}.output.conv.bias"]) for head in _HEADS)
    if boxes != 4 * _PER_CELL or rows % _PER_CELL:
        raise ModelError(
            f"{path}: {rows} class and {boxes} box channels are not those of {_PER_CELL} anchors per cell, which "
            "keras-retinanet has by default; others are not supported"
        )
    return keras_retinanet(
        input_side=_SIDE,
        num_classes=rows // _PER_CELL,
        base_width=weights["backbone.conv1.conv.weight"].shape[0],
        blocks=blocks,
        fpn_channels=weights["fpn.lateral3.conv.weight"].shape[0],
        head_channels=weights["class_head.conv0.conv.weight"].shape[0],
    )


def _labels(arch: Architecture, given: Path | None, path: Path) -> tuple[str, ...]:
    if given is None:
        if arch.num_classes == len(COCO_80):
            return COCO_80
        raise ModelError(f"{path}: has {arch.num_classes} classes; name them with --labels")
    return given_labels(given, arch.num_classes)
