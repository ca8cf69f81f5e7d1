"""Resize pictures: the one way, for the network's input, the page, videos and the followers."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_BILINEAR_AT_MOST = 1.75  # times smaller; what is a pixel wide still shows, a third as bright as its mean


def resize(image: Image, size_wh: tuple[int, int], target: Image | None = None) -> Image:
    """Return a picture (h, w) or (h, w, 3) in another size, at least 1 x 1, with half-pixel centres.

    It is halved by the mean of its pixels as often as that leaves no side too short; the rest is bilinear. Near one
    half and below, bilinear sampling skips pixels, and small objects with them; the mean over other areas than halves
    takes five to ten times as long. `target` of that size, of the picture's type and channels, is written to; it may be
    a part of a larger picture.
    """
    width, height = size_wh
    while True:
        halved_wh = _halved(image.shape[1], width), _halved(image.shape[0], height)
        if halved_wh == (image.shape[1], image.shape[0]):
            skips = max(image.shape[1] / width, image.shape[0] / height) > _BILINEAR_AT_MOST
            kind = cv2.INTER_AREA if skips else cv2.INTER_LINEAR
            return np.asarray(cv2.resize(image, size_wh, dst=target, interpolation=kind), np.uint8)
        last = target if halved_wh == size_wh else None
        image = np.asarray(cv2.resize(image, halved_wh, dst=last, interpolation=cv2.INTER_AREA), np.uint8)
        if halved_wh == size_wh:
            return image


def _halved(side: int, least: int) -> int:
    half = (side + 1) // 2
    return half if half >= least else side
