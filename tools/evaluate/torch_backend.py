"""PyTorch weights behind the runtime's Backend contract, so that a training can be scored before it is converted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from edge_detector.backends import DeviceHealth, check_input
from edge_detector.errors import ModelError
from edge_detector.manifest import LevelOutputs, ModelManifest, SsdRawOutputs
from edge_detector.quantization import QuantizationParams, QuantizedTensor, RawOutputs
from tools.network.architecture import Architecture
from tools.network.manifest import OWN_NMS, anchor_spec, input_spec
from tools.network.torch_model import SsdResNetFpn, flatten_levels, load_torch
from tools.network.weights import load_weights

_OUTPUTS = LevelOutputs(class_logits="class_logits", box_encodings="box_encodings")


class TorchBackend:
    """The network in eval mode and float32."""

    input_params: QuantizationParams | None = None
    health = DeviceHealth()

    def __init__(self, model: SsdResNetFpn) -> None:
        side = model.arch.input_side
        self.name = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
        self.input_shape = (1, side, side, 3)
        self._model = model.eval().to(memory_format=torch.channels_last)

    def infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        """Run the network; see `Backend.infer`."""
        check_input(tensor, self.input_shape, None)
        with torch.inference_mode():
            class_maps, box_maps = self._model(torch.from_numpy(tensor).permute(0, 3, 1, 2))
            logits = flatten_levels(class_maps, self._model.arch.class_slots)
            encodings = flatten_levels(box_maps, 4)
        return {
            _OUTPUTS.class_logits: QuantizedTensor(logits.numpy()),
            _OUTPUTS.box_encodings: QuantizedTensor(encodings.numpy()),
        }

    def close(self) -> None:
        """Do nothing: there is nothing but memory."""


def load_torch_model(
    weights: Path, side: int | None = None, threads: int | None = None
) -> tuple[ModelManifest, TorchBackend]:
    """Return manifest and backend of a weights file; `side` in pixels replaces its input side.

    Raises:
        ModelError: no such file, not our weights, or a network that the runtime's decoder does not know.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    arch, arrays, labels = load_weights(weights)
    if arch.box_coder.order != "yx":
        raise ModelError(f"{weights}: its box codes are in the order x, y; bring them into y, x with tools/network")
    arch = dataclasses.replace(arch, input_side=side or arch.input_side)
    try:
        model = load_torch(arch, arrays)
    except ModelError as error:
        raise ModelError(f"{weights}: {error}") from error
    return describe(arch, labels, weights.stem), TorchBackend(model)


def describe(arch: Architecture, labels: tuple[str, ...], name: str) -> ModelManifest:
    """Return the manifest of a network that is run as it was trained."""
    return ModelManifest(
        name=name,
        input=input_spec(arch),
        outputs=SsdRawOutputs(
            levels=(_OUTPUTS,),
            anchors=anchor_spec(arch),
            box_coder=arch.box_coder.scales,
            box_coding=arch.box_coder.coding,
            background=arch.background,
        ),
        nms=OWN_NMS,
        labels=labels,
    )
