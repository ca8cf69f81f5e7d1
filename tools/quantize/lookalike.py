"""Whether calibration photos are worth their number: too few of them, or too much alike, calibrate badly."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from tools.quantize.calibrate import ADVISED_PHOTOS

_SIDE = 16
_ALIKE = 0.95  # correlation of thumbnails from which on two photos count as the same view
_SHARE = 0.5  # of photos with such a twin that calls for a warning


def warnings_about(photos: Iterable[npt.NDArray[np.uint8]]) -> tuple[str, ...]:
    """Return what is wrong with photos (H, W, 3) RGB to calibrate on, a sentence each."""
    thumbnails = np.array([_thumbnail(photo) for photo in photos])
    warnings = []
    if len(thumbnails) < ADVISED_PHOTOS:
        warnings.append(
            f"only {len(thumbnails)} photos to calibrate on; with {ADVISED_PHOTOS} or more ranges are reliable"
        )
    twins = share_with_twin(thumbnails)
    if twins > _SHARE:
        warnings.append(
            f"{twins:.0%} of the photos look like another one of them; add other places, times of day and weather"
        )
    return tuple(warnings)


def share_with_twin(thumbnails: npt.NDArray[np.float32]) -> float:
    """Return the share of thumbnails (N, D), of mean 0 and norm 1, that correlate with another one like one view."""
    if len(thumbnails) < 2:
        return 0.0
    correlation = thumbnails @ thumbnails.T
    np.fill_diagonal(correlation, 0)
    return float((correlation.max(axis=1) > _ALIKE).mean())


def _thumbnail(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    grey = cv2.cvtColor(cv2.resize(photo, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    deviation = grey.astype(np.float32).ravel() - np.float32(grey.mean())
    return np.asarray(deviation / max(float(np.linalg.norm(deviation)), 1e-6), np.float32)
