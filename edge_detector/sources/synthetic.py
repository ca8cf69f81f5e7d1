"""A camera that is computed: coloured boxes on known paths, faults at known frames."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from edge_detector.errors import EndOfStream, SourceError
from edge_detector.frame import Frame
from edge_detector.sources.pace import Pacer

_BACKGROUND = 96
_COLORS = np.array([[220, 40, 40], [40, 200, 60], [50, 80, 230]], np.uint8)  # R, G, B
_SIZES_WH = np.array([[0.2, 0.3], [0.15, 0.15], [0.3, 0.2]])  # of the picture
_STARTS_XY = np.array([[0.0, 0.1], [0.5, 0.5], [0.2, 0.8]])  # of the way that is free
_STEPS_XY = np.array([[0.02, 0.01], [-0.015, 0.02], [0.01, -0.025]])  # of that way, per frame


class SyntheticSource:
    """Three boxes that bounce inside the picture.

    Without `frames` it is live, endless and paced at `fps`; with `frames` it ends, and gives them as fast as they are
    read.
    `faults` maps a frame id to the error that reading this frame raises; the next read continues behind it.
    """

    def __init__(
        self,
        width: int = 640,
        height: int = 480,
        fps: float = 30.0,
        frames: int | None = None,
        faults: Mapping[int, Exception] | None = None,
    ) -> None:
        self.live = frames is None
        self.name = "synthetic://"
        self.frame_total = frames
        self.fps: float | None = fps
        self._size_wh = np.array([width, height])
        self._period_s = 1 / fps
        self._faults = faults or {}
        self._frame_id = 0
        self._start_s = time.monotonic()
        self._pacer = Pacer(self._period_s)

    def boxes(self, frame_id: int) -> npt.NDArray[np.int64]:
        """Return where the boxes are in that frame: (3, 4) x1, y1, x2, y2 in pixels, whole numbers."""
        way = (_STARTS_XY + _STEPS_XY * frame_id) % 2
        sizes_wh = np.maximum(1, np.rint(_SIZES_WH * self._size_wh).astype(np.int64))
        corners_xy = np.rint((1 - np.abs(1 - way)) * (self._size_wh - sizes_wh)).astype(np.int64)
        return np.concatenate([corners_xy, corners_xy + sizes_wh], axis=1)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame; see `Source.read`."""
        if self._frame_id == self.frame_total:
            raise EndOfStream
        if self.live and not self._pacer.wait(timeout_s):
            return None
        frame_id = self._frame_id
        self._frame_id += 1
        if frame_id in self._faults:
            raise self._faults[frame_id]
        captured_at = self._pacer.beat_s if self.live else self._start_s + frame_id * self._period_s
        return Frame(self._draw(frame_id), frame_id, captured_at, time.time(), self.name)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _draw(self, frame_id: int) -> npt.NDArray[np.uint8]:
        width, height = self._size_wh
        image = np.full((height, width, 3), _BACKGROUND, np.uint8)
        for (x1, y1, x2, y2), color in zip(self.boxes(frame_id), _COLORS, strict=True):
            image[y1:y2, x1:x2] = color
        return image


def open_synthetic(address: str) -> SyntheticSource:
    """Open `?width=&height=&fps=&frames=`, all optional.

    Raises:
        SourceError: an unknown option, or a value that is not a positive number.
    """
    kinds = {"width": int, "height": int, "fps": float, "frames": int}
    options: dict[str, float] = {}
    for key, text in parse_qsl(address.lstrip("?"), keep_blank_values=True):
        try:
            options[key] = kinds[key](text)
        except (KeyError, ValueError):
            options[key] = 0
        if not 0 < options[key] < 100_000:
            raise SourceError(f"synthetic://{address}: {key}={text}: give {', '.join(kinds)} as positive numbers")
    return SyntheticSource(**options)  # type: ignore[arg-type]  # the table above gives each its type
