from __future__ import annotations

import logging
import threading
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest

from edge_detector.errors import SourceError
from edge_detector.sources import open_source, redact
from edge_detector.sources.camera import CaptureOptions


def write_picture(path: Path) -> None:
    assert cv2.imwrite(str(path), np.full((8, 12, 3), 50, np.uint8))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://user:secret@camera/stream", "rtsp://***@camera/stream"),
        ("rtsp://user:p@ss/word@camera:554/stream", "rtsp://***@camera:554/stream"),
        (
            "http://camera/snapshot.cgi?user=admin&pwd=secret&size=2",
            "http://camera/snapshot.cgi?user=admin&pwd=***&size=2",
        ),
        ("rtsp://camera/user=admin_password=secret_channel=1", "rtsp://camera/user=admin_password=***"),
        ("rtsp://camera:554/stream", "rtsp://camera:554/stream"),
        ("/home/me/clip.mp4", "/home/me/clip.mp4"),
    ],
)
def test_credentials_are_redacted(uri: str, shown: str) -> None:
    assert redact(uri) == shown


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gopher://camera", "unknown kind of source 'gopher'.*v4l2"),
        ("csi://0", "csi://0|csi: .*python3-picamera2"),
        ("/dev/video99", "/dev/video99: no such camera"),
        ("99", "/dev/video99: no such camera"),
        ("v4l2://99", "/dev/video99: no such camera"),
        ("missing.mp4", "missing.mp4: no such file"),
        ("file:///no/such/clip.mp4", "/no/such/clip.mp4: no such file"),
        ("~nobody-here/a.jpg", "~nobody-here/a.jpg: cannot be opened: .*home"),
        ("n" * 300, "File name too long"),
        ("n" * 300 + ".jpg", "File name too long"),
        ("missing.jpg", "missing.jpg: no such picture"),
        ("nowhere/*.jpg", r"nowhere/\*.jpg: no such picture"),
        ("images:///no/such/folder", "/no/such/folder: no such picture"),
        ("synthetic://?width=0", "width=0"),
        ("synthetic://?fps=many", "fps=many"),
        ("synthetic://?speed=3", "speed=3"),
        ("rtsp://user:secret@127.0.0.1:9/x", r"rtsp://\*\*\*@127.0.0.1:9/x: cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_a_source_error_that_says_why(uri: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(uri)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["{}", "{}/*.png", "images://{}", "images://{}/?.png"])
def test_folder_and_pattern_give_pictures_in_the_order_of_their_names(tmp_path: Path, pattern: str) -> None:
    for name in ("b.png", "a.png", "c.png"):
        write_picture(tmp_path / name)
    write_picture(tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    source = open_source(pattern.format(tmp_path))
    assert source.frame_total == 3
    frames = [source.read(1) for _ in range(3)]
    assert [frame and frame.source for frame in frames] == [f"{tmp_path}/{name}.png" for name in "abc"]


@pytest.mark.parametrize("scheme", ["rtmp", "rtmps", "rtp", "srt", "tcp", "udp"])
def test_other_streams_are_opened_as_such(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    opened = threading.Event()
    uris: list[str] = []

    def open_stream(uri: str, options: CaptureOptions) -> NoReturn:
        uris.append(uri)
        opened.set()
        raise SourceError("seen")

    monkeypatch.setattr("edge_detector.sources.opencv.StreamCamera", open_stream)
    with closing(open_source(f"{scheme}://host:1234/x", required=False)):
        assert opened.wait(5)
    assert uris == [f"{scheme}://host:1234/x"]


def test_pattern_that_is_none_is_a_source_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"no such picture|not a pattern"):  # a pattern since Python 3.13
        open_source("a**b.jpg")


def test_home_folder_is_found_though_the_shell_left_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    write_picture(tmp_path / "photos" / "a.png")
    assert open_source("~/photos").frame_total == 1


def test_spaces_are_percent_encoded_in_uris_and_plain_in_paths(tmp_path: Path) -> None:
    write_picture(tmp_path / "100% me.png")
    for uri in (f"{tmp_path}/100% me.png", f"images://{tmp_path}/100%25%20me.png"):
        assert open_source(uri).frame_total == 1


def test_folder_without_pictures_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no pictures in this folder"):
        open_source(str(tmp_path))


def test_auto_falls_back_only_when_asked_and_warns_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_detector.sources.auto.list_cameras", list)  # a machine without cameras
    with pytest.raises(SourceError, match="no camera found"):
        open_source("auto")
    with caplog.at_level(logging.WARNING):
        source = open_source("auto", fallback="synthetic://")
    source.close()
    assert source.name == "synthetic://"
    assert len(caplog.records) == 1


def test_explicit_camera_never_falls_back() -> None:
    with pytest.raises(SourceError, match="no such camera"):
        open_source("/dev/video99", fallback="synthetic://")


def test_demo_is_a_live_loop_of_the_shipped_clip() -> None:
    source = open_source("demo")
    frame = source.read(1)
    source.close()
    assert source.live
    assert source.name == "demo"
    assert frame is not None
    assert frame.size_wh == (768, 576)
