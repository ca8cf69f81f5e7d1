"""Detections: what was found in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N objects found in one picture; field names and meaning follow roboflow/supervision.

    Attributes:
        xyxy: (N, 4) float32, corners x1, y1, x2, y2 in pixels of the picture that they refer to.
        confidence: (N,) float32 in 0..1, in descending order as the decoder returns them.
        class_id: (N,) int64, index into the model's labels (0-based, no background).
        tracker_id: (N,) int64 or None when nothing tracks.
    """

    xyxy: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int64]
    tracker_id: npt.NDArray[np.int64] | None = None

    @classmethod
    def empty(cls) -> Detections:
        """Return zero detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, selection: npt.NDArray[Any] | slice) -> Detections:
        """Return the detections that a boolean mask, an index array or a slice selects."""
        tracker_id = None if self.tracker_id is None else self.tracker_id[selection]
        return Detections(self.xyxy[selection], self.confidence[selection], self.class_id[selection], tracker_id)
