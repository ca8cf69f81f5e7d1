from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.pictures import open_pictures

MakeResult = Callable[..., FrameResult]
OVERLAY = OverlayRenderer(("person",))


def test_pictures_are_named_after_their_source(tmp_path: Path, make_result: MakeResult) -> None:
    sources = [
        "cat.png",
        "photos/cat.jpg",
        "clip 1.mp4",
        "clip 1.mp4",
        "v4l2:///dev/video0",
        "synthetic://",
        "Straße.jpg",
    ]
    publisher = open_pictures(tmp_path / "new" / "out", OVERLAY, lossless=True)
    for frame_id, source in enumerate(sources):
        publisher.publish(make_result(frame_id=frame_id, source=source, size_wh=(40 + frame_id, 30)))
    publisher.close()
    widths = {path.name: cv2.imread(str(path)).shape[1] for path in (tmp_path / "new" / "out").iterdir()}
    assert widths == {
        "cat_boxes.jpg": 40,
        "cat_boxes_2.jpg": 41,
        "clip_1_boxes.jpg": 42,
        "clip_1_boxes_2.jpg": 43,
        "video0_boxes.jpg": 44,
        "synthetic__boxes.jpg": 45,
        "Straße_boxes.jpg": 46,
    }


def test_originals_in_the_same_folder_are_not_touched(tmp_path: Path, make_result: MakeResult) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"original")
    publisher = open_pictures(tmp_path, OVERLAY)
    publisher.publish(make_result(source=str(tmp_path / "cat.jpg")))
    publisher.close()
    assert (tmp_path / "cat.jpg").read_bytes() == b"original"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.jpg", "cat_boxes.jpg"]


def test_original_that_looks_like_a_copy_is_not_overwritten(tmp_path: Path, make_result: MakeResult) -> None:
    original = tmp_path / "cat_boxes.jpg"
    original.write_bytes(b"original")
    publisher = open_pictures(tmp_path, OVERLAY, originals=[original])
    publisher.publish(make_result(source="cat.jpg"))
    publisher.close()
    assert original.read_bytes() == b"original"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat_boxes.jpg", "cat_boxes_2.jpg"]


def test_long_names_are_cut(tmp_path: Path, make_result: MakeResult) -> None:
    publisher = open_pictures(tmp_path, OVERLAY)
    publisher.publish(make_result(source="犬" * 80 + ".jpg"))
    publisher.close()
    assert [path.name for path in tmp_path.iterdir()] == ["犬" * 60 + "_boxes.jpg"]


def test_unfinished_pictures_of_two_runs_are_apart_and_no_pictures(tmp_path: Path) -> None:
    publishers = [open_pictures(tmp_path, OVERLAY) for _ in range(2)]
    assert [path.suffix for path in tmp_path.iterdir()] == [".part", ".part"]
    for publisher in publishers:
        publisher.close()


def test_picture_too_large_for_a_jpeg_is_told_and_the_rest_written(tmp_path: Path, make_result: MakeResult) -> None:
    told: list[str] = []
    publisher = open_pictures(tmp_path, OVERLAY, on_unwritable=told.append)
    publisher.publish(make_result(source="wide.png", size_wh=(70_000, 2)))
    publisher.publish(make_result(source="cat.png"))
    publisher.close()
    assert told == ["wide.png: no annotated copy: a picture of 70000x2 does not fit into a JPEG"]
    assert [path.name for path in tmp_path.iterdir()] == ["cat_boxes.jpg"]


def test_second_run_replaces_the_pictures_of_the_first(tmp_path: Path, make_result: MakeResult) -> None:
    for _ in range(2):
        publisher = open_pictures(tmp_path, OVERLAY)
        publisher.publish(make_result(source="cat.jpg"))
        publisher.close()
    assert [path.name for path in tmp_path.iterdir()] == ["cat_boxes.jpg"]


def test_file_in_place_of_the_folder_is_a_publish_error(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(PublishError, match=r"cannot write to .*out: File exists; choose another folder"):
        open_pictures(tmp_path / "out", OVERLAY)
