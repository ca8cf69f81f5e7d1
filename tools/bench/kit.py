"""Kit: what every contender is given, as files in one folder. Imports nothing of this repository: peers read it too."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Stored = Mapping[str, npt.NDArray[Any]]  # raw outputs by tensor name, as stored
Params = Mapping[str, tuple[float, int]]  # scale and zero point by tensor name


@dataclass(frozen=True)
class Kit:
    """One network and the settings that all contenders share.

    Attributes:
        folder: where the files are; the models' names are those of `tools.bench.forms`.
        side: of the canvas in pixels.
        classes: of the network, without background.
        threads: for the network.
        threshold: confidence that detections have at least.
        iou_threshold: above it the lesser of two boxes of a class goes.
        max_detections: per picture.
        mean, std: the network takes (pixel - mean) / std.
        fill: R, G, B of a letterbox's bars.
        box_coder: what ty, tx, th, tw were multiplied by.
        heads: names of class logits and box encodings, per pyramid level.
        params: scale and zero point of the heads.
        labels: names of the classes.
    """

    folder: Path
    side: int
    classes: int
    threads: int
    threshold: float
    iou_threshold: float
    max_detections: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fill: tuple[int, int, int]
    box_coder: tuple[float, float, float, float]
    heads: tuple[tuple[str, str], ...]
    params: Params
    labels: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> Kit:
        """Read what `save` wrote."""
        fields = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
        fields["heads"] = tuple(map(tuple, fields["heads"]))
        fields["params"] = {name: tuple(pair) for name, pair in fields["params"].items()}
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(folder=folder, **fields)

    def save(self) -> None:
        """Write the settings into the folder."""
        fields = dataclasses.asdict(self)
        del fields["folder"]
        (self.folder / "kit.json").write_text(json.dumps(fields), encoding="utf-8")

    def model(self, name: str) -> str:
        """Return the path of a model file."""
        return str(self.folder / name)

    @property
    def anchors(self) -> npt.NDArray[np.float32]:
        """(A, 4) y_center, x_center, height, width in fractions of the canvas."""
        return np.asarray(np.load(self.folder / "anchors.npy"), np.float32)

    @property
    def pictures(self) -> Sequence[npt.NDArray[np.uint8]]:
        """RGB pictures (H, W, 3), all of one size, in memory."""
        return list(np.load(self.folder / "pictures.npy"))

    @property
    def outputs(self) -> Sequence[Stored]:
        """The network's raw outputs of the pictures."""
        stored = {name: np.load(self.folder / f"outputs-{name}.npy") for pair in self.heads for name in pair}
        count = len(next(iter(stored.values())))
        return [{name: values[index] for name, values in stored.items()} for index in range(count)]
