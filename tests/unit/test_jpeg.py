from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_detector.jpeg import encode_jpeg


def test_colours_survive_in_rgb_order() -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[:] = (200, 120, 30)
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(image), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == image.shape
    np.testing.assert_allclose(decoded[..., ::-1], image, atol=4)


def test_higher_quality_keeps_more() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert len(encode_jpeg(image, 95)) > len(encode_jpeg(image, 40))


def test_picture_beyond_the_limit_of_the_format_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="70000x1 does not fit"):
        encode_jpeg(np.zeros((1, 70000, 3), np.uint8))
