from __future__ import annotations

import logging
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_detector.errors import EndOfStream, SourceError, UnreadablePicture
from edge_detector.frame import Frame
from edge_detector.sources import Source, open_source
from edge_detector.sources.files import read_picture

RED_RGB = (200, 10, 30)


def write(path: Path, picture: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), picture)
    return path


def write_video(path: Path, frames: int, fps: float = 10.0) -> Path:
    """Write frames whose brightness tells their number: 8 * number."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 8 * number, np.uint8))
    writer.release()
    return path


def read_all(source: Source) -> list[Frame]:
    frames = []
    try:
        while True:
            frame = source.read(1)
            assert frame is not None
            frames.append(frame)
    except EndOfStream:
        return frames


def test_colour_picture_is_rgb(tmp_path: Path) -> None:
    image = read_picture(write(tmp_path / "a.png", np.full((4, 5, 3), RED_RGB[::-1], np.uint8)))
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert (image == RED_RGB).all()


def test_grey_picture_gets_three_equal_channels(tmp_path: Path) -> None:
    image = read_picture(write(tmp_path / "a.png", np.full((4, 5), 77, np.uint8)))
    assert image.shape == (4, 5, 3)
    assert (image == 77).all()


def test_transparency_is_dropped(tmp_path: Path) -> None:
    image = read_picture(write(tmp_path / "a.png", np.full((4, 5, 4), (*RED_RGB[::-1], 0), np.uint8)))
    assert (image == RED_RGB).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    wide = np.full((4, 5, 3), RED_RGB[::-1], np.uint16) * 256
    image = read_picture(write(tmp_path / f"a{suffix}", wide))
    assert np.abs(image.astype(int) - RED_RGB).max() <= 1  # decoders round differently


def test_picture_of_one_pixel(tmp_path: Path) -> None:
    assert read_picture(write(tmp_path / "a.png", np.full((1, 1, 3), 9, np.uint8))).tolist() == [[[9, 9, 9]]]


def test_picture_of_fifty_megapixels(tmp_path: Path) -> None:
    image = read_picture(write(tmp_path / "a.jpg", np.full((5000, 10000, 3), 128, np.uint8)))
    assert image.shape == (5000, 10000, 3)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :16] = 255  # stored top left; where it is shown depends on the orientation
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    image = read_picture(path)
    assert image.shape[:2] == ((64, 32) if orientation in (6, 8) else (32, 64))
    assert image[corner].min() > 200
    assert sum(image[y, x].min() > 200 for y in (0, -1) for x in (0, -1)) == 1


def test_every_damaged_picture_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    write(tmp_path / "1_good.jpg", good)
    (tmp_path / "2_empty.jpg").touch()
    (tmp_path / "3_text.jpg").write_text("this is no picture")
    (tmp_path / "4_cut.png").write_bytes(cv2.imencode(".png", good)[1].tobytes()[:40])
    (tmp_path / "5_giant.png").write_bytes(png_header_only(100_000, 100_000))
    write(tmp_path / "6_good.png", good)
    source = open_source(str(tmp_path))
    read: list[str] = []
    damaged: list[str] = []
    for _ in range(6):
        try:
            frame = source.read(1)
        except UnreadablePicture as error:
            damaged.append(str(error))
        else:
            assert frame is not None
            read.append(Path(frame.source).name)
    with pytest.raises(EndOfStream):
        source.read(1)
    assert read == ["1_good.jpg", "6_good.png"]
    names = ["2_empty.jpg", "3_text.jpg", "4_cut.png", "5_giant.png"]
    assert len(damaged) == len(names)
    assert all(name in message and "\n" not in message for name, message in zip(names, damaged, strict=True))


def png_header_only(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_vanished_picture_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePicture, match="No such file"):
        read_picture(tmp_path / "gone.jpg")


def test_video_gives_every_frame_in_order_on_the_clips_own_time(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "clip.avi", frames=20, fps=10)))
    assert not source.live
    assert source.frame_total == 20
    frames = read_all(source)
    assert [frame.frame_id for frame in frames] == list(range(20))
    assert np.allclose([frame.image.mean() for frame in frames], 8 * np.arange(20), atol=3)
    assert np.allclose(np.diff([frame.captured_at for frame in frames]), 0.1)
    assert np.allclose(np.diff([frame.wall_time for frame in frames]), 0.1, atol=1e-5)


def test_video_that_breaks_off_gives_what_it_has_and_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "clip.avi", frames=20)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    source = open_source(str(path))
    with caplog.at_level(logging.WARNING):
        frames = read_all(source)
        with pytest.raises(EndOfStream):
            source.read(1)
    assert 0 < len(frames) < 20
    assert len(caplog.records) == 1
    assert f"ended after {len(frames)} of 20 frames" in caplog.text


def test_whole_video_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_all(open_source(str(write_video(tmp_path / "clip.avi", frames=5))))
    assert not caplog.records


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"no video " * 500, "not a video")])
def test_file_that_is_no_video_is_a_source_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / "clip.mp4"))


def test_opencv_and_ffmpeg_keep_quiet(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video " * 500)
    code = f"from edge_detector.sources import open_source; open_source({str(tmp_path / 'clip.mp4')!r})"
    # A process of its own: FFmpeg takes its log level once.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "not a video" in result.stderr.splitlines()[-1]
    assert "moov atom" not in result.stderr


def test_looping_clip_is_live_endless_and_paced(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", frames=5, fps=50)
    source = open_source(f"file://{path}?loop=1")
    start_s = time.monotonic()
    frames = [source.read(1) for _ in range(12)]
    elapsed_s = time.monotonic() - start_s
    assert source.live
    assert source.frame_total is None
    assert [frame.frame_id for frame in frames if frame] == list(range(12))
    brightness = [frame.image.mean() for frame in frames if frame]
    assert np.allclose(brightness, [8 * (number % 5) for number in range(12)], atol=3)
    assert elapsed_s >= 11 * 0.02 - 0.001


def test_looping_clip_returns_none_when_the_next_frame_is_not_due(tmp_path: Path) -> None:
    source = open_source(f"{write_video(tmp_path / 'clip.avi', frames=5, fps=1)}?loop=1")
    assert source.read(0.01) is not None
    assert source.read(0.01) is None
