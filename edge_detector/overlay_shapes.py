"""Zones and lines of a camera, drawn into its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.frame import FrameResult

Image = npt.NDArray[np.uint8]
Rgb = tuple[int, int, int]

_ZONE: Rgb = (120, 200, 255)
_BUSY: Rgb = (255, 214, 90)
_LINE: Rgb = (255, 140, 200)
_DARK: Rgb = (16, 18, 22)
_BUSY_TINT = 0.18


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A zone or a line: `points` (N, 2) in fractions of the picture."""

    kind: Literal["zone", "line"]
    name: str
    points: npt.NDArray[np.float64]


def draw_shapes(
    image: Image,
    shapes: Sequence[Shape],
    result: FrameResult,
    line_px: int,
    put_text: Callable[[Image, str, int, int, Rgb], None],
) -> None:
    """Draw into `image`: zones, tinted while somebody is in one, and lines with their counts."""
    size_wh = np.array(result.frame.size_wh)
    busy = {name for zones in result.zones for name in zones}
    for shape in shapes:
        corners = np.rint(shape.points * size_wh).astype(np.int32)
        color = _LINE if shape.kind == "line" else _BUSY if shape.name in busy else _ZONE
        if color == _BUSY:
            tinted = cv2.fillPoly(image.copy(), [corners], color)
            cv2.addWeighted(tinted, _BUSY_TINT, image, 1 - _BUSY_TINT, 0, dst=image)
        for width, shade in ((3 * line_px, _DARK), (line_px, color)):
            cv2.polylines(image, [corners], shape.kind == "zone", shade, width, cv2.LINE_AA)
        if shape.kind == "line":
            _draw_arrow(image, corners, line_px, color)
        x, y = corners[np.argmin(corners.sum(axis=1))].tolist()
        text = shape.name
        if shape.name in result.line_counts:
            counts = result.line_counts[shape.name]
            text += f": in {counts['in']}, out {counts['out']}"
        for offset, shade in ((1, _DARK), (0, color)):
            put_text(image, text, x + 4 * line_px + offset, y + 4 * line_px + offset, shade)


def _draw_arrow(image: Image, ends: npt.NDArray[np.int32], line_px: int, color: Rgb) -> None:
    """Point from the middle of a line to the side on which what crosses it is "in": right of its direction."""
    middle = ends.mean(axis=0)
    along = ends[1] - ends[0]
    right = np.array([-along[1], along[0]]) / max(1.0, float(np.hypot(*along)))
    tip = middle + right * 14 * line_px
    cv2.arrowedLine(
        image,
        tuple(np.rint(middle).astype(int).tolist()),
        tuple(np.rint(tip).astype(int).tolist()),
        color,
        line_px,
        cv2.LINE_AA,
        tipLength=0.4,
    )
