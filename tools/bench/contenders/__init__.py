"""The ways from picture to detections that are compared, each written as its users write it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Found(NamedTuple):
    """Boxes (N, 4) x1, y1, x2, y2 in pixels of what was given, scores (N,), class ids (N,) from 0."""

    xyxy: npt.NDArray[Any]
    scores: npt.NDArray[Any]
    classes: npt.NDArray[Any]

    @classmethod
    def nothing(cls) -> Found:
        """Return no detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


class Laps:
    """A stop-watch: `laps("invoke")` names what has gone on since the last call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def __call__(self, stage: str) -> None:
        """End a stage."""
        now_s = time.perf_counter()
        self.seconds[stage] = now_s - self._last_s
        self._last_s = now_s


class Contender(Protocol):
    """Made from a `tools.bench.kit.Kit`; loads its model then."""

    def detect(self, given: Any, laps: Laps) -> Found:
        """Find what is in a picture (H, W, 3) uint8 RGB, or in a network's stored outputs.

        Stages are "preprocess" (picture to tensor), "invoke" (tensor to outputs in hand) and "postprocess"; a contender
        that does not let its caller see them names none.
        """
        ...
