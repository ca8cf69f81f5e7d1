from __future__ import annotations

import errno

import cv2
import numpy as np
import pytest

from edge_detector.shortage import is_shortage


def test_what_no_memory_raises_is_known() -> None:
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 60, np.uint8)
    with pytest.raises(cv2.error) as of_opencv:
        cv2.copyMakeBorder(np.zeros((1, 1, 3), np.uint8), 1 << 29, 1 << 29, 1 << 29, 1 << 29, cv2.BORDER_CONSTANT)
    assert is_shortage(of_numpy.value)
    assert is_shortage(of_opencv.value)
    assert is_shortage(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert is_shortage(RuntimeError("can't start new thread"))


def test_other_errors_are_none() -> None:
    with pytest.raises(cv2.error) as of_opencv:
        cv2.resize(np.zeros((0, 0, 3), np.uint8), (4, 4))
    assert not is_shortage(of_opencv.value)
    assert not is_shortage(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_shortage(RuntimeError("bug"))
