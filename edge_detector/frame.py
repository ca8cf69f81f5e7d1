"""Frame: one picture from a source. FrameResult: the picture with what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture.

    Attributes:
        image: (H, W, 3) uint8, RGB, C-contiguous, owned by the frame and never written to.
        frame_id: counts from 0 per source; gaps are frames that were dropped.
        captured_at: seconds on the monotonic clock (`time.monotonic`).
        wall_time: seconds since the epoch; for display and output only.
        source: where it came from, credentials redacted: URI, or path as given for files.
    """

    image: npt.NDArray[np.uint8]
    frame_id: int
    captured_at: float
    wall_time: float
    source: str

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """A frame with the newest detections; these may be older than the frame and say so.

    Attributes:
        frame: the picture to show.
        detections: in pixels of `frame.image`.
        detected_at: `captured_at` of the frame that the detections were computed on.
        timings_s: seconds per stage of that detection: "preprocess", "inference", "postprocess".
        fps: measured rates per second: "capture", "inference" (and "display" where drawn).
        camera: name of the camera among those of this process.
        device: what computed the detections: "cpu", "edgetpu:usb:0"; empty without any.
    """

    frame: Frame
    detections: Detections
    detected_at: float
    timings_s: Mapping[str, float] = field(default_factory=dict)
    fps: Mapping[str, float] = field(default_factory=dict)
    camera: str = "camera"
    device: str = ""

    @property
    def age_s(self) -> float:
        """Seconds by which the detections are older than the picture; 0 when they match."""
        return max(0.0, self.frame.captured_at - self.detected_at)


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height of "WIDTHxHEIGHT".

    Raises:
        ValueError: the text is no size, or one out of range.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError("give a size as WIDTHxHEIGHT, such as 1280x720")
    size_wh = int(width), int(height)
    if not all(16 <= side <= 16384 for side in size_wh):
        raise ValueError("give sides from 16 to 16384")
    return size_wh
