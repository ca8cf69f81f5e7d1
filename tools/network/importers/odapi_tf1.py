"""Importer: TF1 Object Detection API, ssd_resnet50/101/152_v1_fpn with the weight-shared predictor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_detector.errors import ModelError
from tools.network.architecture import Architecture
from tools.network.importers import ImportedNetwork
from tools.network.importers.odapi import (
    NORM,
    Files,
    check_heads,
    find_labels,
    index_of,
    locate,
    open_checkpoint,
    read_settings,
    with_backbone,
)
from tools.network.weights import Weights

FAMILY = "TF1 Object Detection API checkpoint"
_BACKBONE_EPSILON = 1e-5  # slim's resnet_arg_scope, whatever pipeline.config says


def recognise(path: Path) -> bool:
    """Return whether `path` holds such a checkpoint: variables by name, not by object."""
    return b"FeatureExtractor/resnet_v1_" in index_of(path)


def load(path: Path, labels: Path | None, pipeline_config: Path | None, workdir: Path) -> ImportedNetwork:
    """Read a zoo archive, its folder, or a checkpoint's folder, prefix or .index file.

    Three things differ from TF2: ReLU after the residual sum, epsilon 1e-5 in the backbone, and a pyramid that carries
    the sum down before it is smoothed.

    Raises:
        ModelError: it is damaged, has no pipeline.config, is another network, or variables are missing or left over.
    """
    files = locate(path, workdir, pipeline_config)
    settings = read_settings(files)
    if settings.generation != 1:
        raise ModelError(f"{files.config}: describes a TF2 network, but the checkpoint is TF1's; give its own")
    arch = with_backbone(settings, _BACKBONE_EPSILON, residual_activation="relu", carry_smoothed=False)
    weights = _read(files, arch)
    check_heads(arch, weights, files.config)
    return ImportedNetwork(
        family=f"{FAMILY}, ResNet with {sum(arch.blocks) * 3 + 2} layers",
        arch=arch,
        weights=weights,
        labels=find_labels(settings, files, labels),
        input=settings.input,
        nms=settings.nms,
        files=files.all,
        notes=settings.notes,
        saved_model=None,  # that of the TF1 exporter has no raw outputs to compare with
    )


def variables(arch: Architecture) -> Iterator[tuple[str, str]]:
    """Yield our name and theirs of all variables. Source: listing of the real checkpoint, 463 for ResNet50."""
    net = f"FeatureExtractor/resnet_v1_{sum(arch.blocks) * 3 + 2}"
    yield from _conv("backbone.conv1", f"{net}/conv1", norm=True)
    for stage, count in enumerate(arch.blocks, 2):
        for block in range(count):
            unit = f"{net}/block{stage - 1}/unit_{block + 1}/bottleneck_v1"
            for part in ("conv1", "conv2", "conv3", *(["shortcut"] if block == 0 else [])):
                yield from _conv(f"backbone.conv{stage}.{block}.{part}", f"{unit}/{part}", norm=True)
    for level in (3, 4, 5):
        yield from _conv(f"fpn.lateral{level}", f"{net}/fpn/projection_{level - 2}")
        if level < 5:
            yield from _conv(f"fpn.smooth{level}", f"{net}/fpn/smoothing_{level - 2}", norm=True)
    for level in (6, 7):
        yield from _conv(f"fpn.coarse{level}", f"{net}/fpn/bottom_up_block{level - 1}", norm=True)
    predictor = "WeightSharedConvolutionalBoxPredictor"
    for head, tower, output in (
        ("class_head", "ClassPredictionTower", "ClassPredictor"),
        ("box_head", "BoxPredictionTower", "BoxPredictor"),
    ):
        for layer in range(arch.head_depth):
            scope = f"{predictor}/{tower}/conv2d_{layer}"
            yield f"{head}.conv{layer}.conv.weight", f"{scope}/weights"
            for level in range(5):
                yield from _norm(f"{head}.norms{layer}.{level}", f"{scope}/BatchNorm/feature_{level}")
        yield from _conv(f"{head}.output", f"{predictor}/{output}")


def _conv(target: str, scope: str, norm: bool = False) -> Iterator[tuple[str, str]]:
    yield f"{target}.conv.weight", f"{scope}/weights"
    if norm:
        yield from _norm(f"{target}.norm", f"{scope}/BatchNorm")
    else:
        yield f"{target}.conv.bias", f"{scope}/biases"


def _norm(target: str, scope: str) -> Iterator[tuple[str, str]]:
    for theirs, ours in NORM.items():
        yield f"{target}.{ours}", f"{scope}/{theirs}"


def _read(files: Files, arch: Architecture) -> Weights:
    with open_checkpoint(files.prefix) as reader:
        return _take(reader, dict(variables(arch)), files.prefix)


def _take(reader: Any, wanted: dict[str, str], name: Path) -> Weights:
    there = set(reader.get_variable_to_shape_map())
    missing = sorted(set(wanted.values()) - there)
    # What training adds lies below a variable (Momentum, ExponentialMovingAverage), the step and losses at the top.
    extra = sorted(key for key in there - set(wanted.values()) if "/" in key and key.rpartition("/")[0] not in there)
    faults = [
        f"{len(found)} variables {what}, such as {found[0]}"
        for found, what in ((missing, "are missing"), (extra, "belong to no layer"))
        if found
    ]
    if faults:
        raise ModelError(f"{name}: {'; '.join(faults)}; give the whole checkpoint, and its own pipeline.config")
    weights = {target: np.asarray(reader.get_tensor(key), np.float32) for target, key in wanted.items()}
    return {target: x.transpose(3, 2, 0, 1) if x.ndim == 4 else x for target, x in weights.items()}
