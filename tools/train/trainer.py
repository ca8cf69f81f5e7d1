"""Trainer: one run over a data set, with checkpoints, a log and a loss plot."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge_detector.errors import ConfigError
from tools.network.torch_model import SsdResNetFpn, flatten_levels
from tools.network.weights import save_weights
from tools.train.batches import Batch, BatchMaker, anchors_px, prefetch
from tools.train.losses import decode_boxes, focal_loss, giou_loss

BOX_LOSS_WEIGHT = 2.0
GRADIENT_NORM_LIMIT = 10.0


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW, linear warm-up, cosine to a hundredth; the backbone learns slower."""

    steps: int
    learning_rate: float = 1e-3
    backbone_factor: float = 0.06
    weight_decay: float = 0.02
    warmup_steps: int = 50
    ema_decay: float = 0.998

    def factor(self, step: int) -> float:
        """Return the learning rate at `step` as a share of its peak."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, progress))) / 2


class Ema:
    """Exponential moving average of trained parameters and BatchNorm statistics."""

    def __init__(self, model: SsdResNetFpn, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.averages = {
            name: value.detach().clone()
            for name, value in model.state_dict().items()
            if name in trained or ("running_" in name and not name.startswith("backbone"))
        }

    def update(self, model: SsdResNetFpn) -> None:
        """Take the model's present weights into the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = model.state_dict()
        for name, average in self.averages.items():
            average.lerp_(current[name], 1 - decay)


class Trainer:
    """Trains `model` on batches, on PyTorch's `device`; everything it writes goes to `folder`."""

    def __init__(
        self,
        model: SsdResNetFpn,
        maker: BatchMaker,
        schedule: Schedule,
        labels: tuple[str, ...],
        folder: Path,
        compiled: bool = False,
        device: str = "cpu",
    ) -> None:
        self.device = device
        self.model = model.to(device, memory_format=torch.channels_last)
        self.forward = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.maker = maker
        self.schedule = schedule
        self.labels = labels
        self.folder = folder
        self.step = 0
        self.anchors = {side: torch.from_numpy(anchors_px(arch)).to(device) for side, arch in maker.archs.items()}
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), schedule.learning_rate)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = Ema(self.model, schedule.ema_decay)
        folder.mkdir(parents=True, exist_ok=True)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        for in_backbone in (True, False):
            for decays in (True, False):
                members = [
                    parameter
                    for name, parameter in self.model.named_parameters()
                    if parameter.requires_grad
                    and name.startswith("backbone") == in_backbone
                    and (parameter.ndim > 1) == decays
                ]
                rate = self.schedule.learning_rate * (self.schedule.backbone_factor if in_backbone else 1)
                decay = self.schedule.weight_decay if decays else 0.0
                if members:
                    groups.append({"params": members, "lr": rate, "weight_decay": decay})
        return groups

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return class loss and box loss per object-learning anchor."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16):
            class_maps, box_maps = self.forward(images)
        logits = flatten_levels(class_maps, self.model.arch.class_slots)
        codes = flatten_levels(box_maps, 4)
        positive = batch.labels >= 0
        count = positive.sum().clamp(min=len(images))  # canvases without objects must not outweigh the rest
        image_index, anchor_index = positive.nonzero(as_tuple=True)
        predicted = decode_boxes(
            codes[image_index, anchor_index],
            self.anchors[images.shape[-1]][anchor_index],
            self.model.arch.box_coder.scales,
        )
        class_loss = focal_loss(logits, batch.labels, batch.exhaustive) / count
        return class_loss, giou_loss(predicted, batch.boxes[positive]) / count

    def run(self, on_step: Callable[[int, dict[str, float]], None], save_every: int = 100) -> None:
        """Train from the present step to the schedule's end; `on_step` gets the step and its figures."""
        self.model.train()
        with (self.folder / "log.jsonl").open("a", buffering=1) as log:
            started = time.monotonic()
            for batch in prefetch(self.maker, self.step, self.schedule.steps):
                for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                    group["lr"] = peak * self.schedule.factor(self.step)
                class_loss, box_loss = self.loss(batch.to(self.device))
                self.optimizer.zero_grad(set_to_none=True)
                (class_loss + BOX_LOSS_WEIGHT * box_loss).backward()
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM_LIMIT)
                self.optimizer.step()
                self.ema.update(self.model)
                self.step += 1
                figures = {
                    "class_loss": class_loss.item(),
                    "box_loss": box_loss.item(),
                    "gradient_norm": float(norm),
                    "seconds": time.monotonic() - started,
                }
                started = time.monotonic()
                log.write(json.dumps({"step": self.step} | figures) + "\n")
                on_step(self.step, figures)
                if self.step % save_every == 0 or self.step == self.schedule.steps:
                    self.save()

    def save(self) -> None:
        """Write the checkpoint to resume from, and the averaged weights to use."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.averages,
            "ema_steps": self.ema.steps,
        }
        temporary = self.folder / "checkpoint.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / "checkpoint.pt")
        weights = self.model.state_dict() | self.ema.averages
        arrays = {
            name: value.cpu().numpy() for name, value in weights.items() if not name.endswith("num_batches_tracked")
        }
        save_weights(self.folder / "weights.safetensors", self.model.arch, arrays, self.labels)

    def resume(self) -> bool:
        """Continue from `folder`'s checkpoint; False when there is none, and training starts at step 0.

        Raises:
            ConfigError: the checkpoint is of another network, or other stages were frozen.
        """
        path = self.folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)  # whichever device wrote it
            try:
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"{path}: is of another network; resume with the --classes, --channels, --depth and --freeze it had"
                ) from error
            self.ema.averages = {name: value.to(self.device) for name, value in state["ema"].items()}
            self.ema.steps = state["ema_steps"]
            self.step = state["step"]
        self._cut_log()
        return path.exists()

    def _cut_log(self) -> None:
        """Drop what was logged after the checkpoint: those steps are run again."""
        log = self.folder / "log.jsonl"
        if log.exists():
            lines = log.read_text().splitlines(keepends=True)
            log.write_text("".join(lines[: self.step]))
