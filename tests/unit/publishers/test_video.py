from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer, color_of
from edge_detector.publishers.video import open_video

MakeResult = Callable[..., FrameResult]
OVERLAY = OverlayRenderer(("person",))


@pytest.mark.parametrize("name", ["out.mp4", "out.AVI"])
def test_every_frame_is_stored_with_its_boxes_at_the_rate_given(
    tmp_path: Path, make_result: MakeResult, name: str
) -> None:
    path = tmp_path / name
    publisher = open_video(path, OVERLAY, fps=12.5, lossless=True)
    for frame_id in range(30):
        publisher.publish(make_result([(40, 40, 120, 200)], frame_id=frame_id, size_wh=(320, 240), color=8 * frame_id))
    assert not path.exists()
    publisher.close()

    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    reader = cv2.VideoCapture(str(path))
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    brightness = []
    while (read := reader.read())[0]:
        brightness.append(read[1][150, 250].mean())
        last = read[1]
    reader.release()
    np.testing.assert_allclose(brightness, [8 * frame_id for frame_id in range(30)], atol=8)
    line = last[120, 38:43, ::-1].astype(int)  # the colour smears over its neighbours in 4:2:0
    assert np.abs(line - color_of(0)).sum(axis=1).min() < 120


def test_frame_of_another_size_is_an_error_and_leaves_nothing(tmp_path: Path, make_result: MakeResult) -> None:
    publisher = open_video(tmp_path / "out.mp4", OVERLAY, fps=10)
    publisher.publish(make_result(size_wh=(160, 120)))
    publisher.publish(make_result(size_wh=(320, 240), frame_id=1))
    with pytest.raises(PublishError, match="frame 1 is 320x240, the video is 160x120; write pictures instead"):
        publisher.close()
    assert list(tmp_path.iterdir()) == []


def test_failed_video_leaves_an_older_one_untouched(tmp_path: Path, make_result: MakeResult) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    publisher = open_video(path, OVERLAY, fps=10)
    publisher.publish(make_result(size_wh=(1, 1)))
    with pytest.raises(PublishError, match="cannot encode 1x1"):
        publisher.close()
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_no_frame_makes_no_file(tmp_path: Path) -> None:
    open_video(tmp_path / "out.mp4", OVERLAY, fps=10).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/out.mp4", "No such file or directory; choose another place"),
        ("n" * 300 + ".mp4", "File name too long; choose another place"),
        ("out.mpeg", "a video's name ends in .mp4 or .avi"),
        ("folder.mp4", "it is a folder; name a file"),
    ],
)
def test_unwritable_video_is_a_publish_error_at_once(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(PublishError, match=message):
        open_video(tmp_path / name, OVERLAY, fps=10)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.mp4"]
