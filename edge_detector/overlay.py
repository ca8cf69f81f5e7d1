"""Stage 5: draws detections on a copy of the picture."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from edge_detector.frame import FrameResult
from edge_detector.overlay_shapes import Shape, draw_shapes

Image = npt.NDArray[np.uint8]
Rgb = tuple[int, int, int]
Corners = tuple[int, int, int, int]

# Far apart in hue, and all bright enough for dark text on them and a dark outline around them.
PALETTE: tuple[Rgb, ...] = (
    (46, 230, 166), (255, 176, 32), (77, 166, 255), (255, 92, 138), (198, 242, 78), (176, 132, 255),
    (255, 122, 61), (64, 224, 240), (255, 224, 92), (240, 120, 232), (120, 210, 96), (255, 158, 158),
)  # fmt: skip
DARK: Rgb = (16, 18, 22)
WHITE: Rgb = (255, 255, 255)
AMBER: Rgb = (255, 190, 70)

FONT = cv2.FONT_HERSHEY_DUPLEX
FONT_CAP_PX = 22  # height of a capital letter at font scale 1
OLD_S = 1.0  # boxes older than this are faded;
FOLLOWED_OLD_S = 3.0  # those of objects that are followed, later
_SAME_S = 1e-3
FADED_OPACITY = 0.45
# OpenCV 5 draws Unicode with fonts of its own, earlier versions ASCII only.
UNICODE_TEXT = int(cv2.__version__.partition(".")[0]) >= 5
WITHOUT_DECOMPOSITION = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D"}
)


def color_of(class_id: int) -> Rgb:
    """Return the colour of a class, the same in every picture and on every sink."""
    return PALETTE[class_id % len(PALETTE)]


def to_ascii(text: str) -> str:
    """Return `text` without accents; what has no Latin base letter becomes '?'."""
    parts = (unicodedata.normalize("NFKD", char) for char in text.translate(WITHOUT_DECOMPOSITION))
    return "".join(part.encode("ascii", "ignore").decode() or "?" for part in parts)


def _printable(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if UNICODE_TEXT else to_ascii(one_line)


@dataclass(frozen=True, slots=True)
class _Style:
    """Sizes in pixels, from the shorter side of the picture."""

    line: int
    outline: int
    font_scale: float
    stroke: int
    pad: int

    @classmethod
    def for_size(cls, width: int, height: int) -> _Style:
        side = min(width, height)
        text_px = max(8.0, 0.0165 * side)
        return cls(
            line=max(1, round(side / 320)),
            outline=max(1, round(side / 640)),
            font_scale=text_px / FONT_CAP_PX,
            # OpenCV 5 takes it for a weight, of letters that grow as a whole.
            stroke=1 if UNICODE_TEXT else max(1, round(1.4 * text_px / FONT_CAP_PX)),
            pad=max(2, round(text_px * 0.38)),
        )

    def text_wh(self, text: str) -> tuple[int, int]:
        """Return width and height of `text` with its descenders."""
        (width, height), below = cv2.getTextSize(text, FONT, self.font_scale, self.stroke)
        return width, height + below

    def put(self, image: Image, text: str, x: int, y: int, color: Rgb) -> None:
        """Draw `text` with its top left corner at x, y."""
        (_, height), _ = cv2.getTextSize(text, FONT, self.font_scale, self.stroke)
        cv2.putText(image, text, (x, y + height), FONT, self.font_scale, color, self.stroke, cv2.LINE_AA)


class OverlayRenderer:
    """Draws boxes, tags and a status line, sized to the picture.

    Labels are drawn as they are where OpenCV can (version 5), else without accents and with '?' for other scripts.
    `shapes` are zones and lines to draw, by camera.
    """

    def __init__(
        self, labels: Sequence[str], *, status: bool = True, shapes: Mapping[str, Sequence[Shape]] | None = None
    ) -> None:
        self._labels = tuple(_printable(label) for label in labels)
        self._status = status
        self._shapes = {} if shapes is None else shapes  # may be filled later

    def draw(self, result: FrameResult) -> Image:
        """Return a copy of the frame's picture, (H, W, 3) uint8 RGB, with everything drawn on it."""
        image: Image = result.frame.image.copy()
        style = _Style.for_size(*result.frame.size_wh)
        if result.camera in self._shapes:
            draw_shapes(image, self._shapes[result.camera], result, style.line, style.put)
        old = _is_old(result)
        if old.any():
            without = image.copy()
            self._draw_detections(image, result.detections[old], style)
            cv2.addWeighted(image, FADED_OPACITY, without, 1 - FADED_OPACITY, 0, dst=image)
        if not old.all():
            self._draw_detections(image, result.detections[~old], style)
        if self._status:
            _draw_status(image, _status_parts(result), style, AMBER if result.age_s > _limit_s(result) else WHITE)
        return image

    def _draw_detections(self, image: Image, detections: Detections, style: _Style) -> None:
        boxes = [_clipped(box, image, style) for box in np.rint(detections.xyxy).astype(int).tolist()]
        colors = [color_of(class_id) for class_id in detections.class_id.tolist()]
        weakest_first = np.argsort(detections.confidence, kind="stable").tolist()
        for index in weakest_first:
            _draw_box(image, boxes[index], colors[index], style)
        taken = np.empty((0, 4), int)
        for index in reversed(weakest_first):
            text = self._tag(detections, index)
            taken = _draw_tag(image, text, boxes[index], colors[index], style, taken)

    def _tag(self, detections: Detections, index: int) -> str:
        label = self._labels[int(detections.class_id[index])]
        number = "" if detections.tracker_id is None else f" #{detections.tracker_id[index]}"
        return f"{label}{number} {detections.confidence[index]:.0%}"


def _clipped(box: list[int], image: Image, style: _Style) -> Corners:
    """Return the box moved so far inside the picture that its whole line shows."""
    height, width = image.shape[:2]
    inset = style.line // 2
    x1, x2 = np.clip(box[0::2], inset, max(inset, width - 1 - inset)).tolist()
    y1, y2 = np.clip(box[1::2], inset, max(inset, height - 1 - inset)).tolist()
    return x1, y1, x2, y2


def _draw_box(image: Image, box: Corners, color: Rgb, style: _Style) -> None:
    top_left, bottom_right = box[:2], box[2:]
    cv2.rectangle(image, top_left, bottom_right, DARK, style.line + 2 * style.outline)
    cv2.rectangle(image, top_left, bottom_right, color, style.line)


def _draw_tag(
    image: Image, text: str, box: Corners, color: Rgb, style: _Style, taken: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Draw a tag at the box and return `taken`, (N, 4) x1 y1 x2 y2 of the tags so far, with it."""
    height, width = image.shape[:2]
    while text and style.text_wh(text)[0] + 2 * style.pad > width:
        text = text[:-1]
    text_w, text_h = style.text_wh(text)
    tag_w, tag_h = text_w + 2 * style.pad, text_h + 2 * style.pad
    if not text or tag_h > height:
        return taken
    x, y = _tag_place(box, (tag_w, tag_h), (width, height), style, taken)
    cv2.rectangle(image, (x, y), (x + tag_w - 1, y + tag_h - 1), color, cv2.FILLED)
    style.put(image, text, x + style.pad, y + style.pad, DARK)
    return np.vstack((taken, (x, y, x + tag_w, y + tag_h)))


def _tag_place(
    box: Corners, tag_wh: tuple[int, int], size_wh: tuple[int, int], style: _Style, taken: npt.NDArray[Any]
) -> tuple[int, int]:
    """Return where it covers least of other tags: above the box, inside at its top, below it, inside at its bottom."""
    (tag_w, tag_h), (width, height) = tag_wh, size_wh
    edge = style.line // 2 + style.outline
    x = min(max(0, box[0] - edge), width - tag_w)
    tops = (box[1] - edge - tag_h, box[1] - edge, box[3] + edge + 1, box[3] + edge + 1 - tag_h)
    inside = [y for y in tops if 0 <= y <= height - tag_h] or [max(0, min(tops[1], height - tag_h))]
    shared_w = np.clip(np.minimum(taken[:, 2], x + tag_w) - np.maximum(taken[:, 0], x), 0, None)

    def covered(y: int) -> int:
        shared_h = np.clip(np.minimum(taken[:, 3], y + tag_h) - np.maximum(taken[:, 1], y), 0, None)
        return int((shared_w * shared_h).sum())

    return x, min(inside, key=covered)


def _limit_s(result: FrameResult) -> float:
    """Return how old a search may be: objects that are followed stay where they are seen."""
    return OLD_S if result.ages_s is None else math.inf if result.still else FOLLOWED_OLD_S


def _is_old(result: FrameResult) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each box is doubtful: the search is old, or looked for the object in vain."""
    old = np.full(len(result.detections), result.age_s > _limit_s(result))
    if result.ages_s is not None:
        old |= (result.ages_s > result.age_s + _SAME_S) & (result.ages_s > OLD_S)
    return old


def _status_parts(result: FrameResult) -> list[str]:
    """Return what is known of rates and age; nothing for a photo."""
    rates = (("inference", "inference"), ("camera", "capture"))
    parts = [f"{name} {result.fps[key]:.1f} fps" for name, key in rates if key in result.fps]
    if parts or result.age_s > 0:
        if result.detected_at is None:
            parts.append("no inference yet")
        elif result.ages_s is None:
            parts.append(f"boxes {result.age_s:.2f} s old")
        else:
            parts.append(f"searched {result.age_s:.2f} s ago{', nothing moves' if result.still else ''}")
    return parts


def _draw_status(image: Image, parts: list[str], style: _Style, color: Rgb) -> None:
    """Write the parts at the bottom left on a darkened bar, one line if they fit, else one line each."""
    height, width = image.shape[:2]
    lines = ["    ".join(parts)] if parts else []
    if lines and style.text_wh(lines[0])[0] + 4 * style.pad > width:
        lines = parts
    for line in reversed(lines):
        text_w, text_h = style.text_wh(line)
        bar_w, bar_h = text_w + 4 * style.pad, text_h + 2 * style.pad
        if bar_w > width or bar_h > height:
            return
        bar = image[height - bar_h : height, :bar_w]
        bar[:] = cv2.convertScaleAbs(bar, alpha=0.3)
        style.put(bar, line, 2 * style.pad, style.pad, color)
        height -= bar_h
