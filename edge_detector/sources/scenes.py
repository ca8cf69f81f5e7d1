"""What a computed camera shows: coloured boxes, or people cut out of the demo clip; both on known paths."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.assets import DEMO_CLIP
from edge_detector.errors import SourceError

_BACKGROUND = 96
_COLORS = (220, 40, 40), (40, 200, 60), (50, 80, 230)  # R, G, B
_SIZES_WH = np.array([[0.2, 0.3], [0.15, 0.15], [0.3, 0.2]])  # of the picture
_STARTS_XY = np.array([[0.0, 0.1], [0.5, 0.5], [0.2, 0.8]])  # of the way that is free
_STEPS_XY = np.array([[0.02, 0.01], [-0.015, 0.02], [0.01, -0.025]])  # of that way, per frame

_PEOPLE_XYXY = ((252, 214, 286, 309), (639, 236, 687, 325), (500, 156, 532, 232))  # in the clip's first frame
_WALKS_XY = np.array([[0.004, 0.0], [-0.003, 0.0], [0.0035, 0.0]])  # of the free way, per frame
_WALK_STARTS_XY = np.array([[0.1, 0.75], [0.9, 0.55], [0.45, 0.3]])
_EVERY_10TH = 10  # frames of the clip that its empty background is the median of
_CONTRAST = 18  # of 255, by which a person differs from the background
_SOFT_PX = 3


class Scene(Protocol):
    """Pictures with known objects in them."""

    def boxes(self, frame_id: int) -> npt.NDArray[np.int64]:
        """Return where the objects are: (N, 4) x1, y1, x2, y2 in pixels, whole numbers."""
        ...

    def draw(self, frame_id: int) -> npt.NDArray[np.uint8]:
        """Return the picture, (H, W, 3) uint8 RGB."""
        ...


class BoxScene:
    """A red, a green and a blue box that bounce inside a grey picture."""

    def __init__(self, width: int, height: int) -> None:
        self._size_wh = np.array([width, height])

    def boxes(self, frame_id: int) -> npt.NDArray[np.int64]:
        """Return the boxes; see `Scene`."""
        sizes_wh = np.maximum(1, np.rint(_SIZES_WH * self._size_wh).astype(np.int64))
        return _bouncing(_STARTS_XY + _STEPS_XY * frame_id, sizes_wh, self._size_wh)

    def draw(self, frame_id: int) -> npt.NDArray[np.uint8]:
        """Return the picture; see `Scene`."""
        width, height = self._size_wh
        image = np.full((height, width, 3), _BACKGROUND, np.uint8)
        for (x1, y1, x2, y2), color in zip(self.boxes(frame_id).tolist(), _COLORS, strict=True):
            cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), color, cv2.FILLED)
        return image


class PeopleScene:
    """Three people of the demo clip, cut out and walking up and down its empty background.

    Raises:
        SourceError: the demo clip is missing.
    """

    def __init__(self, width: int, height: int) -> None:
        clip = _clip_frames()
        first, empty = clip[0], np.median(np.stack(clip), axis=0).astype(np.uint8)
        self._scale_xy = np.array([width / first.shape[1], height / first.shape[0]])
        self._background = _resized(empty, (width, height))
        self._cuts = [self._cut(first, empty, box) for box in _PEOPLE_XYXY]
        self._sizes_wh = np.array([cut.shape[1::-1] for cut, _ in self._cuts])

    def boxes(self, frame_id: int) -> npt.NDArray[np.int64]:
        """Return the boxes; see `Scene`."""
        size_wh = np.array(self._background.shape[1::-1])
        return _bouncing(_WALK_STARTS_XY + _WALKS_XY * frame_id, self._sizes_wh, size_wh)

    def draw(self, frame_id: int) -> npt.NDArray[np.uint8]:
        """Return the picture; see `Scene`."""
        image: npt.NDArray[np.uint8] = self._background.copy()
        for (x1, y1, x2, y2), (cut, opacity) in zip(self.boxes(frame_id), self._cuts, strict=True):
            part = image[y1:y2, x1:x2]
            part[:] = np.rint(part + opacity * (cut.astype(np.float32) - part))
        return image

    def _cut(
        self, frame: npt.NDArray[np.uint8], empty: npt.NDArray[np.uint8], box: tuple[int, int, int, int]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Return a person's pixels and how opaque each is, (h, w, 3) uint8 and (h, w, 1) 0..1."""
        x1, y1, x2, y2 = box
        cut = frame[y1:y2, x1:x2]
        differs = cv2.absdiff(cut, empty[y1:y2, x1:x2]).max(axis=2) > _CONTRAST
        solid = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
        soft = cv2.blur(solid.astype(np.float32), (_SOFT_PX, _SOFT_PX))
        size_wh = np.maximum(1, np.rint((x2 - x1, y2 - y1) * self._scale_xy).astype(int))
        wh = (int(size_wh[0]), int(size_wh[1]))
        return _resized(cut, wh), cv2.resize(soft, wh)[..., np.newaxis].astype(np.float32)


def _bouncing(
    way: npt.NDArray[np.float64], sizes_wh: npt.NDArray[np.int64], size_wh: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    corners_xy = np.rint((1 - np.abs(1 - way % 2)) * (size_wh - sizes_wh)).astype(np.int64)
    return np.concatenate([corners_xy, corners_xy + sizes_wh], axis=1)


def _resized(image: npt.NDArray[np.uint8], size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _clip_frames() -> list[npt.NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(DEMO_CLIP), cv2.CAP_FFMPEG)
    frames: list[npt.NDArray[np.uint8]] = []
    while capture.grab():
        if not len(frames) or capture.get(cv2.CAP_PROP_POS_FRAMES) % _EVERY_10TH == 0:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))
    capture.release()
    if not frames:
        raise SourceError("synthetic: this installation has no demo clip to cut people out of; use scene=boxes")
    return frames
