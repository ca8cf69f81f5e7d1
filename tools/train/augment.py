"""Augmentation: a photo becomes a square canvas with boxes; flip, aspect, scale, crop, colour, mosaic."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.resize import resize
from tools.network.architecture import Architecture
from tools.network.manifest import input_spec
from tools.train.dataset import Photo

Image = npt.NDArray[np.uint8]
FILL = input_spec(Architecture()).fill  # what letterbox bars hold at run time: the mean colour
MIN_SIDE_PX = 4.0  # smaller objects are neither found nor missed
MIN_VISIBLE = 0.3  # share of a box that must survive a crop


@dataclass(frozen=True)
class Sample:
    """A canvas (S, S, 3) uint8 RGB with boxes in its pixels; class -1 marks areas where nothing is learnt."""

    canvas: Image
    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    exhaustive: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Augmentation:
    """How much to vary. `zoom` bounds the longest side of the photo as a multiple of the canvas."""

    zoom: tuple[float, float] = (0.5, 1.7)
    mosaic: float = 0.25

    def __call__(self, photos: list[Photo], side: int, rng: np.random.Generator) -> Sample:
        """Return one sample of `side` pixels from the first of `photos`, or a mosaic of the first four."""
        if rng.random() < self.mosaic:
            return self._mosaic(photos[:4], side, rng)
        return place(photos[0], side, float(np.exp(rng.uniform(*np.log(self.zoom)))), rng)

    def _mosaic(self, photos: list[Photo], side: int, rng: np.random.Generator) -> Sample:
        split = int(side * rng.uniform(0.35, 0.65))
        parts = []
        for number, photo in enumerate(photos):
            x, y = (0, split)[number % 2], (0, split)[number // 2]
            width, height = (split, side - split)[number % 2], (split, side - split)[number // 2]
            window = max(width, height)
            part = place(photo, window, float(np.exp(rng.uniform(*np.log(self.zoom)))), rng)
            boxes, classes = crop_boxes(part.boxes, part.classes, (0, 0, width, height))
            boxes = boxes + np.array([x, y, x, y], np.float32)
            parts.append((part.canvas[:height, :width], boxes, classes, part.exhaustive))
        top = np.concatenate([parts[0][0], parts[1][0]], 1)
        bottom = np.concatenate([parts[2][0], parts[3][0]], 1)
        return Sample(
            np.concatenate([top, bottom], 0),
            np.concatenate([part[1] for part in parts]),
            np.concatenate([part[2] for part in parts]),
            np.logical_and.reduce([part[3] for part in parts]),
        )


def place(photo: Photo, side: int, zoom: float, rng: np.random.Generator) -> Sample:
    """Scale the photo so that its longest side is `zoom * side`, put it on the canvas at random, crop what is over."""
    image = photo.read()
    height, width = image.shape[:2]
    aspect = width / height * np.exp(rng.uniform(-0.15, 0.15))
    if photo.stretched:  # most photos are 4:3, one in four is upright
        aspect *= 0.75 if rng.random() < 0.25 else 4 / 3
    long = zoom * side
    new_width = max(1, round(long * min(1.0, aspect)))
    new_height = max(1, round(long / max(1.0, aspect)))
    image = resize(image, (new_width, new_height))
    boxes = photo.boxes * np.array([new_width / width, new_height / height] * 2, np.float32)
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = boxes[:, [2, 1, 0, 3]]
        boxes[:, [0, 2]] = new_width - boxes[:, [0, 2]]
    x = int(rng.integers(min(0, side - new_width), max(0, side - new_width) + 1))
    y = int(rng.integers(min(0, side - new_height), max(0, side - new_height) + 1))
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = FILL
    seen = image[max(0, -y) : side - y, max(0, -x) : side - x]
    top, left = max(0, y), max(0, x)
    canvas[top : top + seen.shape[0], left : left + seen.shape[1]] = vary_colours(seen, rng)
    boxes, classes = crop_boxes(boxes + np.array([x, y, x, y], np.float32), photo.classes, (0, 0, side, side))
    return Sample(canvas, boxes, classes, photo.exhaustive)


def crop_boxes(
    boxes: npt.NDArray[np.float32], classes: npt.NDArray[np.int64], window_xyxy: tuple[float, float, float, float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Clip boxes to a window; what is hardly visible or tiny afterwards becomes an area where nothing is learnt."""
    x1, y1, x2, y2 = window_xyxy
    clipped = np.clip(boxes, np.array([x1, y1, x1, y1], np.float32), np.array([x2, y2, x2, y2], np.float32))
    size, old_size = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    visible = size.prod(1) / np.maximum(old_size.prod(1), 1e-6)
    poor = (visible < MIN_VISIBLE) | (size.max(1, initial=0) < MIN_SIDE_PX)
    kept = size.min(1, initial=np.inf) > 0
    return clipped[kept], np.where(poor, -1, classes)[kept]


def vary_colours(image: Image, rng: np.random.Generator) -> Image:
    """Return a copy with other brightness, contrast, saturation and tint, now and then grey or blurred."""
    if image.size == 0:
        return image
    kind = rng.random()
    varied = image.astype(np.float32)
    if kind < 0.8:
        grey = varied @ np.array([0.299, 0.587, 0.114], np.float32)
        saturation = 0.0 if kind < 0.04 else rng.uniform(0.6, 1.4)
        varied = grey[..., None] * np.float32(1 - saturation) + varied * np.float32(saturation)
        contrast, tint = rng.uniform(0.7, 1.3), rng.uniform(-10, 10, 3) + rng.uniform(-25, 25)
        varied = (varied - np.float32(128)) * np.float32(contrast) + (tint + 128).astype(np.float32)
    if rng.random() < 0.08:
        varied = cv2.GaussianBlur(varied, (0, 0), float(rng.uniform(0.5, 1.5))).astype(np.float32, copy=False)
    return np.clip(varied, 0, 255).astype(np.uint8)
