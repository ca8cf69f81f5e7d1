"""Frame: one picture from a source. FrameResult: the picture with what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture.

    Attributes:
        image: (H, W, 3) uint8, RGB, C-contiguous, owned by the frame and never written to.
        frame_id: counts from 0 per source; gaps are frames that were dropped.
        captured_at: seconds on the monotonic clock (`time.monotonic`); of a file, since its beginning, so that the
            same file always gives the same.
        wall_time: seconds since the epoch; for display and output only. Of a video file, since its beginning; of a
            photo, when its file was written.
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
    """A frame with what is known of its objects; that may come from an older frame and says so.

    Attributes:
        frame: the picture to show.
        detections: in pixels of `frame.image`; where objects are followed, with `tracker_id`, carried to this frame.
        detected_at: `captured_at` of the newest frame that was searched; None where none was.
        timings_s: seconds per stage of that search: "preprocess", "inference", "postprocess"; empty for files.
        fps: measured rates per second: "capture", "inference" (and "display" where drawn).
        camera: name of the camera among those of this process.
        device: what computed the detections: "cpu", "edgetpu:usb:0"; empty without any.
        ages_s: (N,) seconds since the model found each object; None where objects are not followed.
        zones: names of the zones that each object is in; empty where objects are not followed.
        line_counts: objects that went over each line so far, "in" and "out".
        still: nothing moves, so that a search may be left out.
    """

    frame: Frame
    detections: Detections
    detected_at: float | None
    timings_s: Mapping[str, float] = field(default_factory=dict)
    fps: Mapping[str, float] = field(default_factory=dict)
    camera: str = "camera"
    device: str = ""
    ages_s: npt.NDArray[np.float32] | None = None
    zones: Sequence[tuple[str, ...]] = ()
    line_counts: Mapping[str, Mapping[Literal["in", "out"], int]] = field(default_factory=dict)
    still: bool = False

    @property
    def age_s(self) -> float:
        """Seconds by which the newest search is older than the picture; 0 when they match, or without any."""
        return 0.0 if self.detected_at is None else max(0.0, self.frame.captured_at - self.detected_at)


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
