"""Importer: TF2 Object Detection API, zoo archives and training checkpoints of ssd_resnet50/101/152_v1_fpn_keras."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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

FAMILY = "TF2 Object Detection API checkpoint"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True)
class Variable:
    """One variable: our name for it, its key in a checkpoint, and the end of the name that Keras gave it."""

    target: str
    key: str
    full_name: str


def recognise(path: Path) -> bool:
    """Return whether `path` holds a TF2 checkpoint, or is an archive that is damaged."""
    index = index_of(path)
    return index == b"damaged" or _OBJECT_GRAPH.encode() in index


def load(path: Path, labels: Path | None, pipeline_config: Path | None, workdir: Path) -> ImportedNetwork:
    """Read a zoo archive, its folder, or a checkpoint's folder, prefix or .index file.

    Raises:
        ModelError: it is damaged, has no pipeline.config, is another network, or variables are missing, left over or
            under each other's names.
    """
    files = locate(path, workdir, pipeline_config)
    settings = read_settings(files)
    if settings.generation != 2:
        raise ModelError(f"{files.config}: describes a TF1 network, but the checkpoint is TF2's; give its own")
    arch = with_backbone(
        settings, settings.arch.fpn_epsilon if settings.overrides_backbone else 1e-5, carry_smoothed=True
    )
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
        saved_model=files.saved_model,
    )


def variables(arch: Architecture) -> Iterator[Variable]:
    """Yield all variables. Source: listing of the OD API's own checkpoint, 463 for ResNet50."""
    yield from _backbone(arch)
    fpn, names = "_feature_extractor/_fpn_features_generator", "FeatureMaps/top_down"
    yield from _conv("fpn.lateral5", f"{fpn}/top_layers/0", f"{names}/projection_3", bias=True)
    for index, level in enumerate((4, 3)):
        n = 2 - index
        yield from _conv(
            f"fpn.lateral{level}", f"{fpn}/residual_blocks/{index}/0", f"{names}/projection_{n}", bias=True
        )
        yield from _conv(f"fpn.smooth{level}", f"{fpn}/conv_layers/{index}/0", f"{names}/smoothing_{n}_conv")
        yield from _norm(f"fpn.smooth{level}.norm", f"{fpn}/conv_layers/{index}/1", f"{names}/smoothing_{n}_batchnorm")
        coarse, block = f"_feature_extractor/_coarse_feature_layers/{index}", f"bottom_up_block{5 + index}"
        yield from _conv(f"fpn.coarse{6 + index}", f"{coarse}/0", f"{block}_conv")
        yield from _norm(f"fpn.coarse{6 + index}.norm", f"{coarse}/1", f"{block}_batchnorm")
    classes = "class_predictions_with_background"
    for head, tower, norms in (
        ("class_head", "ClassPredictionTower", classes),
        ("box_head", "BoxPredictionTower", "box_encodings"),
    ):
        for layer in range(arch.head_depth):
            key = f"_box_predictor/_head_scope_conv_layers/{tower}/{layer}"
            yield from _conv(f"{head}.conv{layer}", key, f"{tower}/conv2d_{layer}")
            for level in range(5):
                yield from _norm(
                    f"{head}.norms{layer}.{level}",
                    f"_box_predictor/_base_tower_layers_for_heads/{norms}/{level}/{1 + 3 * layer}",
                    f"{tower}/conv2d_{layer}/BatchNorm/feature_{level}",
                )
    boxes = "_box_predictor/_box_prediction_head/_box_encoder_layers/0"
    yield from _conv("box_head.output", boxes, "WeightSharedConvolutionalBoxHead/BoxPredictor", bias=True)
    key = f"_box_predictor/_prediction_heads/{classes}/_class_predictor_layers/0"
    yield from _conv("class_head.output", key, "WeightSharedConvolutionalClassHead/ClassPredictor", bias=True)


def _backbone(arch: Architecture) -> Iterator[Variable]:
    """Yield the backbone's, numbered in the order in which Keras builds layers: a shortcut before the third layer."""
    layers = [("backbone.conv1", "conv1_conv"), ("backbone.conv1.norm", "conv1_bn")]
    for stage, count in enumerate(arch.blocks, 2):
        for block in range(count):
            ours, theirs = f"backbone.conv{stage}.{block}", f"conv{stage}_block{block + 1}"
            for n in (1, 2):
                layers += [(f"{ours}.conv{n}", f"{theirs}_{n}_conv"), (f"{ours}.conv{n}.norm", f"{theirs}_{n}_bn")]
            last = [("shortcut", 0), ("conv3", 3)] if block == 0 else [("conv3", 3)]
            layers += [(f"{ours}.{part}", f"{theirs}_{n}_conv") for part, n in last]
            layers += [(f"{ours}.{part}.norm", f"{theirs}_{n}_bn") for part, n in last]
    for number, (target, name) in enumerate(layers):
        key = f"_feature_extractor/classification_backbone/layer_with_weights-{number}"
        yield from (_norm if target.endswith(".norm") else _conv)(target, key, name)


def _conv(target: str, key: str, name: str, bias: bool = False) -> Iterator[Variable]:
    yield Variable(f"{target}.conv.weight", f"{key}/kernel", f"{name}/kernel")
    if bias:
        yield Variable(f"{target}.conv.bias", f"{key}/bias", f"{name}/bias")


def _norm(target: str, key: str, name: str) -> Iterator[Variable]:
    for theirs, ours in NORM.items():
        yield Variable(f"{target}.{ours}", f"{key}/{theirs}", f"{name}/{theirs}")


def _read(files: Files, arch: Architecture) -> Weights:
    with open_checkpoint(files.prefix) as reader:
        places = _places(reader, arch, files.prefix)
        return {target: _layout(np.asarray(reader.get_tensor(key))) for target, key in places.items()}


def _layout(values: Any) -> Any:
    """Return float32, convolutions as (out, in, height, width)."""
    values = values.astype(np.float32)
    return values.transpose(3, 2, 0, 1) if values.ndim == 4 else values


def _places(reader: Any, arch: Architecture, name: Path) -> dict[str, str]:
    """Return the checkpoint key of each of our tensors, found by key and by full name, which have to agree."""
    keys = {
        key.removesuffix(_SUFFIX): key
        for key in reader.get_variable_to_shape_map()
        if key.endswith(_SUFFIX) and key.startswith(("model/", "_model/")) and ".OPTIMIZER_SLOT" not in key
    }
    full_names = _full_names(reader)
    by_tail: dict[str, str] = {}
    for key in keys.values():
        parts = re.sub(r"_\d+$", "", full_names.get(key, "")).split("/")
        by_tail |= {"/".join(parts[start:]): key for start in range(len(parts))}
    places, missing, contradictions = {}, [], []
    for variable in variables(arch):
        by_key, by_name = keys.get(f"model/{variable.key}"), by_tail.get(variable.full_name)
        if by_key is None and by_name is None:
            missing.append(variable.key)
        elif by_key is not None and by_name is not None and by_key != by_name:
            contradictions.append(f"{variable.key} holds {full_names[by_key]}, not {variable.full_name}")
        else:
            places[variable.target] = by_key or by_name or ""
    extra = sorted(set(keys.values()) - set(places.values()))
    faults = [
        f"{len(found)} variables {what}, such as {found[0]}"
        for found, what in ((contradictions, "are swapped"), (missing, "are missing"), (extra, "belong to no layer"))
        if found
    ]
    if faults:
        raise ModelError(f"{name}: {'; '.join(faults)}; give the whole checkpoint, and its own pipeline.config")
    return places


def _full_names(reader: Any) -> dict[str, str]:
    """Return the name that Keras gave each variable, by checkpoint key; empty where the checkpoint keeps none."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    graph = TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH))
    return {
        attribute.checkpoint_key: attribute.full_name
        for node in graph.nodes
        for attribute in node.attributes
        if attribute.name == "VARIABLE_VALUE" and attribute.full_name
    }
