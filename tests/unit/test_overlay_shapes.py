from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.overlay_shapes import Shape

MakeResult = Callable[..., FrameResult]
ZONE = Shape("zone", "door", np.array([(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]))
LINE = Shape("line", "gate", np.array([(0.2, 0.5), (0.8, 0.5)]))


def drawn(result: FrameResult, *shapes: Shape) -> npt.NDArray[np.uint8]:
    renderer = OverlayRenderer(("person",), status=False, shapes={result.camera: shapes})
    return renderer.draw(result)


def changed(result: FrameResult, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return np.any(image != result.frame.image, axis=2)


@pytest.mark.parametrize("size_wh", [(320, 240), (1280, 960)])
def test_zone_is_outlined_where_it_is_in_pictures_of_any_size(
    make_result: MakeResult, size_wh: tuple[int, int]
) -> None:
    result = make_result([], size_wh=size_wh)
    marked = changed(result, drawn(result, ZONE))
    width, height = size_wh
    for x, y in ((0.25, 0.6), (0.75, 0.5), (0.5, 0.75)):
        assert marked[round(y * height), round(x * width)]
    assert not marked[round(0.55 * height) : round(0.7 * height), round(0.4 * width) : round(0.7 * width)].any()
    assert not marked[:, : round(0.2 * width)].any()


def test_zone_is_tinted_while_somebody_is_in_it(make_result: MakeResult) -> None:
    empty = make_result([], size_wh=(320, 240))
    busy = replace(empty, zones=[("door",)])
    assert not changed(empty, drawn(empty, ZONE))[140:170, 120:220].any()
    assert changed(busy, drawn(busy, ZONE))[140:170, 120:220].all()


def test_line_has_an_arrow_to_the_side_that_is_in_and_its_counts(make_result: MakeResult) -> None:
    result = make_result([], size_wh=(320, 240))
    marked = changed(result, drawn(result, LINE))
    assert marked[120, 80:240].all()
    assert marked[124:150, 150:170].any()  # drawn from left to right, "in" is down the picture
    assert not marked[90:116, 150:170].any()
    counted = replace(result, line_counts={"gate": {"in": 12, "out": 3}})
    assert changed(counted, drawn(counted, LINE)).sum() > marked.sum()


def test_shapes_of_another_camera_are_not_drawn(make_result: MakeResult) -> None:
    result = make_result([], size_wh=(320, 240))
    renderer = OverlayRenderer(("person",), status=False, shapes={"another": [ZONE]})
    assert not changed(result, renderer.draw(result)).any()
