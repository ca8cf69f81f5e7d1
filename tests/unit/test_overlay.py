from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_detector import overlay
from edge_detector.frame import FrameResult
from edge_detector.overlay import DARK, OLD_S, PALETTE, OverlayRenderer, color_of, to_ascii

LABELS = ("person", "a class with a name that is very long")
MakeResult = Callable[..., FrameResult]


def contrast(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    """WCAG 2.1 contrast ratio."""

    def luminance(color: tuple[int, int, int]) -> float:
        parts = [value / 255 for value in color]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def changed(result: FrameResult, image: np.ndarray) -> np.ndarray:
    """(H, W) bool: which pixels were drawn on."""
    return np.any(image != result.frame.image, axis=2)


def test_picture_of_the_frame_is_not_written_to(make_result: MakeResult) -> None:
    result = make_result()
    before = result.frame.image.copy()
    drawn = OverlayRenderer(LABELS).draw(result)
    assert drawn.shape == before.shape
    assert drawn.dtype == np.uint8
    assert not np.array_equal(drawn, before)
    np.testing.assert_array_equal(result.frame.image, before)


def test_box_line_is_where_the_box_is_and_has_the_colour_of_its_class(make_result: MakeResult) -> None:
    result = make_result([(40, 60, 200, 220)], size_wh=(320, 320), class_ids=[1], live=False)
    drawn = OverlayRenderer(LABELS).draw(result)
    for x, y in ((40, 150), (200, 150), (120, 220)):
        assert tuple(drawn[y, x]) == color_of(1)
    assert tuple(drawn[150, 38]) == DARK
    assert not changed(result, drawn)[100:200, 60:180].any()


@pytest.mark.parametrize("color", PALETTE)
def test_dark_text_and_outline_read_on_every_class_colour(color: tuple[int, int, int]) -> None:
    assert contrast(color, DARK) >= 4.5


@pytest.mark.parametrize("background", [0, 60, 128, 200, 255])
def test_box_stands_out_on_any_background(make_result: MakeResult, background: int) -> None:
    grey = (background, background, background)
    for class_id in range(len(PALETTE)):
        assert max(contrast(color_of(class_id), grey), contrast(DARK, grey)) >= 3


@pytest.mark.parametrize("size_wh", [(1, 1), (2, 300), (300, 3), (320, 240), (768, 576), (1920, 1080)])
@pytest.mark.parametrize("box", [(-50, -50, 5000, 5000), (0, 0, 1, 1), (-90, -90, -10, -10), (5, 5, 5, 5)])
def test_any_size_and_any_box_can_be_drawn(
    make_result: MakeResult, size_wh: tuple[int, int], box: tuple[int, ...]
) -> None:
    result = make_result([box, box], size_wh=size_wh, class_ids=[0, 1])
    assert OverlayRenderer(LABELS).draw(result).shape == result.frame.image.shape


def test_whole_line_of_a_box_at_the_edge_shows(make_result: MakeResult) -> None:
    result = make_result([(0, 0, 960, 960)], size_wh=(960, 960), live=False)
    drawn = OverlayRenderer(LABELS).draw(result)
    for line in (drawn[500, :3], drawn[500, -3:], drawn[-3:, 700], drawn[:3, 700]):
        assert (line == color_of(0)).all()


def test_lines_grow_with_the_picture(make_result: MakeResult) -> None:
    widths = []
    for side in (240, 2160):
        result = make_result([(0.2 * side, 0.2 * side, 0.8 * side, 0.8 * side)], size_wh=(side, side), live=False)
        row = OverlayRenderer(LABELS).draw(result)[side // 2, : side // 2]
        widths.append(int((row == color_of(0)).all(axis=1).sum()))
    assert widths[0] == 1
    assert 6 <= widths[1] <= 10


def test_strokes_of_letters_grow_with_the_picture(make_result: MakeResult) -> None:
    shares = []
    for side in (640, 3000):
        result = make_result([(0.2 * side, 0.2 * side, 0.8 * side, 0.8 * side)], size_wh=(side, side), live=False)
        drawn = OverlayRenderer(LABELS).draw(result)[
            int(0.17 * side) : int(0.197 * side), int(0.205 * side) : int(0.27 * side)
        ]
        shares.append(float((drawn.max(axis=2) < 80).mean()))
    assert shares[1] > 0.6 * shares[0] > 0


def test_old_boxes_are_faded_and_fresh_ones_are_not(make_result: MakeResult) -> None:
    renderer = OverlayRenderer(LABELS, status=False)
    fresh, old = (
        renderer.draw(make_result([(40, 60, 200, 220)], size_wh=(320, 320), age_s=age_s))
        for age_s in (0.9, OLD_S + 0.5)
    )
    assert tuple(fresh[150, 40]) == color_of(0)
    assert np.abs(old[150, 40].astype(int) - 90).sum() < 0.6 * np.abs(fresh[150, 40].astype(int) - 90).sum()
    assert changed(make_result(size_wh=(320, 320)), old)[150, 40]


def test_status_line_is_for_live_pictures_only(make_result: MakeResult) -> None:
    renderer = OverlayRenderer(LABELS)
    live, photo = make_result([], live=True), make_result([], live=False)
    assert changed(live, renderer.draw(live)).any()
    assert not changed(photo, renderer.draw(photo)).any()


def test_status_line_breaks_into_lines_that_fit(make_result: MakeResult) -> None:
    wide, narrow = (make_result([], size_wh=(width, 240)) for width in (600, 140))
    wide_rows, narrow_rows = (
        changed(result, OverlayRenderer(LABELS).draw(result)).any(axis=1).sum() for result in (wide, narrow)
    )
    assert narrow_rows > 2 * wide_rows


def tag_boxes(monkeypatch: pytest.MonkeyPatch, result: FrameResult) -> list[tuple[int, int, int, int]]:
    """Draw and return the filled rectangles: the tags."""
    tags = []
    rectangle = cv2.rectangle

    def record(image, top_left, bottom_right, color, thickness=1, *rest):  # type: ignore[no-untyped-def]
        if thickness == cv2.FILLED:
            tags.append((*top_left, *bottom_right))
        return rectangle(image, top_left, bottom_right, color, thickness, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(overlay.cv2, "rectangle", record)
        OverlayRenderer(LABELS).draw(result)
    return tags


@settings(max_examples=60, deadline=None)
@given(
    box=st.tuples(*[st.floats(-100, 500)] * 4),
    size_wh=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    kind=st.integers(0, 1),
)
def test_tags_stay_inside_the_picture(
    make_result: MakeResult, box: tuple[float, ...], size_wh: tuple[int, int], kind: int
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        tags = tag_boxes(monkeypatch, make_result([box], size_wh=size_wh, class_ids=[kind]))
    for x1, y1, x2, y2 in tags:
        assert 0 <= x1 <= x2 < size_wh[0]
        assert 0 <= y1 <= y2 < size_wh[1]


def test_tags_of_overlapping_boxes_lie_apart(monkeypatch: pytest.MonkeyPatch, make_result: MakeResult) -> None:
    boxes = [(100, 100, 180, 300), (104, 102, 190, 310), (96, 98, 170, 280)]
    tags = tag_boxes(monkeypatch, make_result(boxes, size_wh=(640, 480)))
    assert len(tags) == 3
    for index, (x1, y1, x2, y2) in enumerate(tags):
        for u1, v1, u2, v2 in tags[:index]:
            assert x2 < u1 or u2 < x1 or y2 < v1 or v2 < y1


def test_tag_that_finds_no_free_place_covers_as_little_as_possible(
    monkeypatch: pytest.MonkeyPatch, make_result: MakeResult
) -> None:
    # Tags of the first two lie right above the third box and over its lower edge; free but for 4 rows is its top.
    boxes = [(40, 100, 90, 110), (40, 216, 90, 226), (45, 97, 85, 200)]
    above, below, last = tag_boxes(monkeypatch, make_result(boxes, size_wh=(640, 480)))
    assert last[1] > above[1] + 10
    assert last[3] < below[1]
    assert above[3] - last[1] <= 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("person", "person"),
        ("crème brûlée", "creme brulee"),
        ("Fußgänger", "Fussganger"),
        ("løve", "love"),
        ("犬", "?"),
        ("", ""),
    ],
)
def test_labels_are_spelled_in_ascii(text: str, expected: str) -> None:
    assert to_ascii(text) == expected


@given(st.text())
def test_ascii_spelling_is_ascii(text: str) -> None:
    assert to_ascii(text).isascii()
