"""A small network, photos and the program, for the tests of tools/quantize."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import tools.quantize.__main__ as program
from edge_detector.model_file import read_appended
from tools.network.architecture import Architecture, slim
from tools.network.weights import save_weights

ARCH = slim(input_side=160, num_classes=2, base_width=8, blocks=(1, 1, 1, 1), fpn_channels=16, head_channels=16)
LABELS = ("person", "dog")


@dataclass(frozen=True)
class Workplace:
    weights: Path
    photos: Path
    folder: Path

    def run(self, output: Path, **options: Any) -> None:
        """Call the program in this process with its defaults and `options`."""
        defaults: dict[str, Any] = {"samples": 100, "held_out": 5}
        program.main(self.weights, self.photos, output, **defaults | options)


def random_weights(arch: Architecture) -> dict[str, Any]:
    """Return weights that bring raw pixels into a usual range, and few scores above 0.3."""
    import torch

    from tools.network.torch_model import SsdResNetFpn

    generator = torch.Generator().manual_seed(3)
    weights = {}
    for name, value in SsdResNetFpn(arch).state_dict().items():
        if name.endswith("conv.weight"):
            gain = {"backbone.conv1.conv": 0.02, "class_head.output.conv": 0.06, "box_head.output.conv": 0.02}.get(
                name.removesuffix(".weight"), 1.0
            )
            value = torch.randn(value.shape, generator=generator) * gain * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("norm.bias", "running_mean")):
            value = torch.randn(value.shape, generator=generator) * 0.1
        if not name.endswith("num_batches_tracked"):
            weights[name] = value.numpy()
    return weights


def generated_photo(seed: int) -> Any:
    """Return a picture (96, 128, 3) of a gradient with noise and three bars."""
    random = np.random.default_rng(seed)
    picture = np.linspace(random.integers(0, 256, (96, 1, 3)), random.integers(0, 256, (96, 1, 3)), 128, axis=1)
    picture = picture.squeeze(2) + random.normal(0, 8, (96, 128, 3))
    for _ in range(3):
        left, top = random.integers(0, 100), random.integers(0, 60)
        picture[top : top + 36, left : left + 20] = random.integers(0, 256, 3)
    return np.clip(picture, 0, 255).astype(np.uint8)


def make_workplace(folder: Path) -> Workplace:
    """Write photos and weights into `folder`."""
    photos = folder / "photos"
    photos.mkdir()
    for seed in range(105):
        cv2.imwrite(str(photos / f"{seed:03}.png"), generated_photo(seed))
    save_weights(folder / "weights.safetensors", ARCH, random_weights(ARCH), LABELS)
    return Workplace(folder / "weights.safetensors", photos, folder)


def command_of(source: Path, photos: Path, output: Path) -> list[str]:
    """Return the program as a user calls it."""
    arguments = [source, "--calibration", photos, "--output", output, "--samples", "100", "--held-out", "5"]
    return [sys.executable, str(Path(program.__file__).parent), *map(str, arguments)]


def run_tool(source: Path, photos: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Call the program as a user calls it."""
    command = command_of(source, photos, output)
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def report_of(output: Path) -> dict[str, Any]:
    return dict(json.loads((output.with_suffix(".report") / "report.json").read_text()))


def recipe_of(output: Path) -> dict[str, Any]:
    return dict(json.loads(read_appended(output.read_bytes(), output.name)["recipe.json"]))
