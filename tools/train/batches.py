"""Batches: augmented canvases with their targets, made ahead of time by one thread."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_detector.postprocess.anchors import generate_anchors
from tools.network.architecture import Architecture
from tools.network.manifest import anchor_spec
from tools.train.assign import AtssAssigner
from tools.train.augment import Augmentation
from tools.train.dataset import Photo

CANDIDATE_CELLS = 9  # k of ATSS, times the anchors of a cell


@dataclass(frozen=True)
class Batch:
    """N canvases and what to learn on them.

    Attributes:
        images: (N, 3, S, S) float32 RGB 0..255, channels last in memory.
        labels: (N, A) int64 class per anchor, or BACKGROUND or IGNORED (tools.train.assign).
        boxes: (N, A, 4) float32 x1, y1, x2, y2 in canvas pixels, meaningful where the label is a class.
        exhaustive: (N, C) bool, classes that are labelled completely.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    exhaustive: Tensor

    def to(self, device: str) -> Batch:
        """Return the batch in the memory of `device`."""
        return Batch(*(tensor.to(device) for tensor in (self.images, self.labels, self.boxes, self.exhaustive)))


def anchors_px(arch: Architecture) -> npt.NDArray[np.float32]:
    """Return (A, 4) anchors y_center, x_center, height, width in canvas pixels."""
    side = arch.input_side
    anchors = generate_anchors(anchor_spec(arch), (side, side)) * np.float32(side)
    return anchors.astype(np.float32)


def assigner(arch: Architecture) -> AtssAssigner:
    """Return what assigns objects to the anchors of `arch` at its input side."""
    y, x, h, w = anchors_px(arch).T
    corners = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    per_cell = arch.anchors.per_cell
    counts = tuple(cells * cells * per_cell for cells in arch.level_sides())
    return AtssAssigner(corners, counts, CANDIDATE_CELLS * per_cell)


class BatchMaker:
    """Makes batch number `step` from (seed, step) alone, so that training resumes exactly where it stopped.

    With several `sides` each batch takes one of them at random; one that is given twice comes twice as often.
    `batch_size` is of the network's own side: larger canvases come in smaller batches of as many pixels.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        arch: Architecture,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        sides: Sequence[int] = (),
    ) -> None:
        self.photos = photos
        self.sides = tuple(sides) or (arch.input_side,)
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self.counts = {side: max(1, round(batch_size * (arch.input_side / side) ** 2)) for side in self.sides}
        self.archs = {side: dataclasses.replace(arch, input_side=side) for side in self.sides}
        self.assigners = {side: assigner(of_side) for side, of_side in self.archs.items()}

    def _photo_at(self, position: int) -> Photo:
        epoch, index = divmod(position, len(self.photos))
        return self.photos[np.random.default_rng((self.seed, epoch)).permutation(len(self.photos))[index]]

    def make(self, step: int) -> Batch:
        """Return one batch."""
        rng = np.random.default_rng((self.seed, 1, step))
        side = self.sides[rng.integers(len(self.sides))] if len(self.sides) > 1 else self.sides[0]
        images, labels, boxes, exhaustive = [], [], [], []
        for position in range(step * self.batch_size, step * self.batch_size + self.counts[side]):
            others = [self.photos[i] for i in rng.integers(0, len(self.photos), 3)]
            sample = self.augmentation([self._photo_at(position), *others], side, rng)
            label, box = self.assigners[side](sample.boxes, sample.classes)
            images.append(sample.canvas)
            labels.append(label)
            boxes.append(box)
            exhaustive.append(sample.exhaustive)
        return Batch(
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float(),
            torch.from_numpy(np.stack(labels)),
            torch.from_numpy(np.stack(boxes)),
            torch.from_numpy(np.stack(exhaustive)),
        )


def prefetch(maker: BatchMaker, first: int, last: int, ahead: int = 3) -> Iterator[Batch]:
    """Yield batches `first` to `last` - 1, made by a thread that keeps `ahead` of them ready."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(first, last):
                if stop.is_set():
                    return
                put(maker.make(step))
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        for _ in range(first, last):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
