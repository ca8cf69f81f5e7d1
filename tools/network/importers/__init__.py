"""Importers: a user's checkpoint -> one description, one set of weights. One file per family.

Each has `recognise(path) -> bool`, which looks at the file and never raises, and
`load(path, ...) -> ImportedNetwork`, which raises `ModelError` with what was found and what is supported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edge_detector.errors import ModelError
from edge_detector.labels import UNUSED, read_labels
from edge_detector.manifest import InputSpec, NmsSpec
from tools.network.architecture import Architecture
from tools.network.weights import Weights


@dataclass(frozen=True)
class ImportedNetwork:
    """A network as its file describes it.

    Attributes:
        family: what was recognised, in words: "TF2 Object Detection API checkpoint".
        arch: the network; `arch.input_side` is the longer side of `input`.
        weights: all of them, by canonical name, float32, convolutions (out, in, height, width). They are those of the
            file: the background slot, unused ids and the order of box codes are still the source's.
        labels: one per class without background; `UNUSED` for ids that no object has.
        input: size of the canvas and how pictures get onto it. Pixels are raw: the network normalizes.
        nms: what the source does after decoding.
        files: what the network was read from, for its fingerprint.
        notes: what the user should know, a sentence each.
        saved_model: a SavedModel of the same network that came with it, to verify against.
        framework: that the network was trained in.
        int8_advice: why it is no good int8 model, and what to do instead; empty if it is one.
    """

    family: str
    arch: Architecture
    weights: Weights
    labels: tuple[str, ...]
    input: InputSpec
    nms: NmsSpec
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    saved_model: Path | None = None
    framework: Literal["tensorflow", "pytorch"] = "tensorflow"
    int8_advice: str = ""


def canonical(network: ImportedNetwork) -> ImportedNetwork:
    """Return the same network without background slot and unused classes, its box codes in the order y, x.

    What remains is computed exactly as before.

    Raises:
        ModelError: labels and classes do not agree, or a weight is not finite.
    """
    arch, weights = network.arch, dict(network.weights)
    _check_finite(weights)
    if len(network.labels) != arch.num_classes:
        raise ModelError(
            f"the network has {arch.num_classes} classes, but there are {len(network.labels)} labels; "
            "give the labels that belong to it, unused ids included"
        )
    used = np.array([label != UNUSED for label in network.labels])
    if not used.any():
        raise ModelError(f"none of the {len(used)} labels names a class; give the labels that belong to the network")
    slots = np.concatenate([np.zeros(int(arch.background), bool), used])
    _keep(weights, "class_head.output.conv", np.tile(slots, arch.anchors.per_cell))
    if arch.box_coder.order == "xy":
        axes = np.arange(4 * arch.anchors.per_cell).reshape(-1, 2, 2)[:, :, ::-1].ravel()
        _keep(weights, "box_head.output.conv", axes)
    x1, y1, x2, y2 = arch.box_coder.scales
    scales = (y1, x1, y2, x2) if arch.box_coder.order == "xy" else arch.box_coder.scales
    arch = dataclasses.replace(
        arch,
        num_classes=int(used.sum()),
        background=False,
        box_coder=dataclasses.replace(arch.box_coder, order="yx", scales=scales),
    )
    labels = tuple(label for label in network.labels if label != UNUSED)
    return dataclasses.replace(network, arch=arch, weights=weights, labels=labels)


def given_labels(path: Path, classes: int) -> tuple[str, ...]:
    """Return the labels in the file `path`, filled up with `UNUSED` to one per class.

    Raises:
        ModelError: the file is no label file, or holds more labels than there are classes.
    """
    labels = read_labels(path)
    if len(labels) > classes:
        raise ModelError(f"{path}: holds {len(labels)} labels, but the network has {classes} classes; give its own")
    return labels + (UNUSED,) * (classes - len(labels))


def _keep(weights: Weights, layer: str, chosen: np.ndarray) -> None:
    for part in ("weight", "bias"):
        if f"{layer}.{part}" not in weights:
            raise ModelError(f"the tensor {layer}.{part} is missing; give the whole file")
        weights[f"{layer}.{part}"] = weights[f"{layer}.{part}"][chosen]


def _check_finite(weights: Weights) -> None:
    broken = [name for name, values in weights.items() if not np.isfinite(values).all()]
    if broken:
        raise ModelError(
            f"{len(broken)} tensors hold NaN or infinity, such as {broken[0]}: the training diverged or the file is "
            "damaged; give an earlier checkpoint"
        )
