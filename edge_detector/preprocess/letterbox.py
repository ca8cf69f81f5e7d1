"""Resize a picture onto the model's canvas, and map coordinates there and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_detector.errors import SourceError
from edge_detector.manifest import InputSpec
from edge_detector.resize import resize


@dataclass(frozen=True, slots=True)
class LetterboxTransform:
    """Where a picture lies on the canvas: canvas = source * scale_xy + pad_xy.

    Attributes:
        scale_xy: canvas pixels per source pixel, per axis. The resized sides are whole pixels, so the two differ a
            little even where the aspect ratio is kept: these are the true ones.
        pad_xy: left and top bar in canvas pixels.
        source_wh: size of the picture in pixels.
    """

    scale_xy: tuple[float, float]
    pad_xy: tuple[int, int]
    source_wh: tuple[int, int]

    def to_source(self, xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return boxes (N, 4) in canvas pixels as boxes in source pixels, clipped to the picture."""
        pad, scale, size = (np.array(xy * 2, np.float64) for xy in (self.pad_xy, self.scale_xy, self.source_wh))
        return np.clip((xyxy - pad) / scale, 0, size).astype(np.float32)

    def to_canvas(self, xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return boxes (N, 4) in source pixels as boxes in canvas pixels."""
        pad, scale = (np.array(xy * 2, np.float64) for xy in (self.pad_xy, self.scale_xy))
        return (xyxy * scale + pad).astype(np.float32)


def letterbox(image: npt.NDArray[np.uint8], spec: InputSpec) -> tuple[npt.NDArray[np.uint8], LetterboxTransform]:
    """Resize a picture (h, w, 3) uint8, at least 1 x 1, to the model's input size.

    Returns:
        The canvas (height, width, 3) uint8, never a view of `image`, with its channels in the order of `image`; and
        the transform that maps coordinates.

    Raises:
        SourceError: it is no such picture.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise SourceError(
            f"a picture of {image.dtype} {list(image.shape)}; wanted uint8 [height, width, 3]: RGB, without alpha"
        )
    source_wh = image.shape[1], image.shape[0]
    resized_wh = _resized_wh(source_wh, spec)
    free_x, free_y = spec.width - resized_wh[0], spec.height - resized_wh[1]
    left, top = (free_x // 2, free_y // 2) if spec.placement == "center" else (0, 0)
    transform = LetterboxTransform(
        scale_xy=(resized_wh[0] / source_wh[0], resized_wh[1] / source_wh[1]), pad_xy=(left, top), source_wh=source_wh
    )
    canvas = np.empty((spec.height, spec.width, 3), np.uint8)
    canvas[:] = np.full((spec.width, 3), spec.fill, np.uint8)  # by rows: colour by colour takes twenty times as long
    content = canvas[top : top + resized_wh[1], left : left + resized_wh[0]]
    if spec.interpolation == "bilinear_legacy":
        content[:] = _resize_legacy(image, resized_wh)
    else:
        resize(image, resized_wh, content)
    return canvas, transform


def _resized_wh(source_wh: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """Return the size on the canvas in whole pixels; the short side of a long strip stays at least 1."""
    if spec.resize == "stretch":
        return spec.width, spec.height
    scale = min(spec.width / source_wh[0], spec.height / source_wh[1])
    return max(1, round(source_wh[0] * scale)), max(1, round(source_wh[1] * scale))


def _resize_legacy(image: npt.NDArray[np.uint8], size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize bilinearly as TensorFlow 1 does: corners at 0, no half-pixel centres (src = dst * scale), rounded.

    Rows first and columns second, by tables: cv2.remap would round the positions to 1/32 pixel.
    """
    upper, lower, weight = _legacy_taps(image.shape[0], size_wh[1])
    rows = _mix(image[upper], image[lower], weight[:, None, None])
    left, right, weight = _legacy_taps(image.shape[1], size_wh[0])
    resized = _mix(rows[:, left], rows[:, right], weight[:, None])
    return np.rint(resized).astype(np.uint8)


def _legacy_taps(
    source: int, target: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return for each of `target` samples its two neighbours among `source` pixels and the second one's weight."""
    position = np.arange(target, dtype=np.float32) * np.float32(source / target)
    first = np.minimum(position.astype(np.intp), source - 1)
    return first, np.minimum(first + 1, source - 1), position - first.astype(np.float32)


def _mix(
    first: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
    second: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Return the mean of two arrays, the second one weighted by `weight` in 0..1."""
    start = first.astype(np.float32)
    return start + (second.astype(np.float32) - start) * weight
