"""Resize pictures: the one way, for the network's input, the page, videos and the followers."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


def resize(image: Image, size_wh: tuple[int, int], target: Image | None = None) -> Image:
    """Return a picture (h, w) or (h, w, 3) in another size, at least 1 x 1, with half-pixel centres.

    It is halved by the mean of its pixels as often as that leaves no side too short; the rest is bilinear. Bilinear
    sampling alone skips pixels below one half, and small objects with them; the mean over any other area takes up to
    seven times as long. `target` of that size is written to, and may be a part of a larger picture.
    """
    width, height = size_wh
    while True:
        halved_wh = _halved(image.shape[1], width), _halved(image.shape[0], height)
        if halved_wh == (image.shape[1], image.shape[0]):
            resized = cv2.resize(image, size_wh, dst=target, interpolation=cv2.INTER_LINEAR)
            return np.asarray(resized, np.uint8)
        last = target if halved_wh == size_wh else None
        image = np.asarray(cv2.resize(image, halved_wh, dst=last, interpolation=cv2.INTER_AREA), np.uint8)
        if halved_wh == size_wh:
            return image


def _halved(side: int, least: int) -> int:
    half = (side + 1) // 2
    return half if half >= least else side
