"""Make ONNX files of the person model's weights: python -m tools.bench.make_onnx export|quantize ..., see --help.

`export` needs torch, onnx, onnxscript and safetensors; `quantize` needs onnxruntime, onnx and sympy, and no torch.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def export(weights: Path, side: int, output: Path) -> None:
    """Write the float32 network with sigmoid and box decoding behind it; `images` are float32 RGB, 0 to 255."""
    import torch

    from edge_detector.postprocess.anchors import generate_anchors
    from tools.network.manifest import anchor_spec
    from tools.network.torch_model import ConvNorm, flatten_levels, load_torch
    from tools.network.weights import load_weights

    arch, arrays, _ = load_weights(weights)
    arch = dataclasses.replace(arch, input_side=side)

    class Decoded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = load_torch(arch, arrays)
            self.register_buffer("anchors", torch.from_numpy(generate_anchors(anchor_spec(arch), (side, side))))
            self.register_buffer("scales", torch.tensor(arch.box_coder.scales))

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            class_maps, box_maps = self.network(images)
            scores = flatten_levels(class_maps, arch.class_slots)[0].sigmoid()
            codes = flatten_levels(box_maps, 4)[0] / self.scales
            center = codes[:, :2] * self.anchors[:, 2:] + self.anchors[:, :2]
            half = codes[:, 2:].exp() * self.anchors[:, 2:] / 2
            boxes = torch.cat([center - half, center + half], 1)[:, [1, 0, 3, 2]] * side
            return scores, boxes

    decoded = Decoded().eval()
    for module in decoded.modules():
        # Once here instead of as 64 multiplications in the graph, which some runtimes would do for each picture.
        if isinstance(module, ConvNorm) and isinstance(module.norm, torch.nn.BatchNorm2d):
            module.conv, module.norm = torch.nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.norm), None
    images = torch.zeros(1, 3, side, side)
    names = {"input_names": ["images"], "output_names": ["scores", "boxes"]}
    with torch.inference_mode():
        program = torch.onnx.export(decoded, (images,), dynamo=True, optimize=True, **names)
    program.save(str(output), external_data=False)


def quantize(model: Path, blobs: Path, output: Path) -> None:
    """Write the int8 form of a float32 model by ONNX Runtime's static quantization (QDQ, weights per channel).

    `blobs` is a .npy of input pictures (N, side, side, 3) uint8. Only the network is quantized, not what follows it:
    scores and boxes on 8 bits would spoil both. Activations are uint8 and weights int8: on x86-64 the faster pair of
    those that its documentation names, on ARM the same as the other.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):
        def __init__(self) -> None:
            self._photos: Iterator[Any] = iter(np.load(blobs, mmap_mode="r"))

        def get_next(self) -> dict[str, Any] | None:
            photo = next(self._photos, None)
            return None if photo is None else {"images": photo.transpose(2, 0, 1)[None].astype(np.float32)}

    prepared = output.with_suffix(".prepared.onnx")
    quant_pre_process(model, prepared)
    quantize_static(
        prepared,
        output,
        Photos(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Add", "MaxPool", "Pad", "Resize", "Relu"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def main() -> None:
    """Run one of the two, then print where the file is, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("export", help="PyTorch weights to float32 ONNX")
    first.add_argument("weights", type=Path)
    first.add_argument("side", type=int)
    first.add_argument("output", type=Path)
    second = commands.add_parser("quantize", help="float32 ONNX to int8 ONNX")
    second.add_argument("model", type=Path)
    second.add_argument("blobs", type=Path)
    second.add_argument("output", type=Path)
    options = vars(parser.parse_args())
    with contextlib.redirect_stdout(sys.stderr):  # both have much to say
        (export if options.pop("command") == "export" else quantize)(**options)
    print(json.dumps({"output": str(options["output"])}))


if __name__ == "__main__":
    main()
