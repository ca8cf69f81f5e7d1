"""What every source promises, held against each of them."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_detector.errors import EndOfStream
from edge_detector.sources import Source, open_source

FRAMES = 6
SIZE_WH = (96, 64)


def picture(number: int) -> np.ndarray:
    image = np.full((SIZE_WH[1], SIZE_WH[0], 3), (20 * number, 40, 60), np.uint8)
    image[:8] = (0, 0, 255)  # the upper edge is red, in OpenCV's B, G, R
    return image


class MjpegHandler(http.server.BaseHTTPRequestHandler):
    """An IP camera: JPEG after JPEG, until the viewer leaves."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for number in range(10_000):
                jpeg = cv2.imencode(".jpg", picture(number % 10))[1].tobytes()
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                self.wfile.write(jpeg + b"\r\n")
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the standard library
        """Keep quiet."""


@pytest.fixture
def camera_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), MjpegHandler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://user:secret@127.0.0.1:{server.server_port}/stream.mjpg"
    server.shutdown()
    server.server_close()
    thread.join()


def write_video(folder: Path) -> Path:
    path = folder / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, SIZE_WH)
    for number in range(FRAMES):
        writer.write(picture(number))
    writer.release()
    return path


def write_pictures(folder: Path) -> Path:
    for number in range(FRAMES):
        cv2.imwrite(str(folder / f"{number}.png"), picture(number))
    return folder


@pytest.fixture(params=["video", "pictures", "synthetic", "looping video", "endless synthetic", "http stream"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    width, height = SIZE_WH
    uris: dict[str, Callable[[], str]] = {
        "video": lambda: str(write_video(tmp_path)),
        "pictures": lambda: str(write_pictures(tmp_path)),
        "synthetic": lambda: f"synthetic://?width={width}&height={height}&frames={FRAMES}",
        "looping video": lambda: f"{write_video(tmp_path)}?loop=1",
        "endless synthetic": lambda: f"synthetic://?width={width}&height={height}",
        "http stream": lambda: str(request.getfixturevalue("camera_url")),
    }
    opened = open_source(uris[request.param]())
    yield opened
    opened.close()


def test_frames_are_rgb_pictures_with_rising_ids_and_times(source: Source) -> None:
    frames = [source.read(5) for _ in range(FRAMES)]
    ids = []
    times_s = []
    for frame in frames:
        assert frame is not None
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert frame.size_wh == SIZE_WH
        assert abs(frame.captured_at - (time.monotonic() if source.live else 0)) < 60
        began = time.time() if source.live or source.fps is None else 0.0  # a video begins at 0
        assert abs(frame.wall_time - began) < 60
        ids.append(frame.frame_id)
        times_s.append(frame.captured_at)
    assert (np.diff(ids) >= 1).all()
    assert (np.diff(times_s) > 0).all()
    if not source.live:
        assert ids == list(range(FRAMES))


def test_colours_are_in_the_order_red_green_blue(source: Source) -> None:
    frame = source.read(5)
    assert frame is not None
    if not source.name.startswith("synthetic"):
        red, green, blue = frame.image[2, 40].tolist()
        assert red > 200
        assert max(green, blue) < 60


def test_frame_keeps_its_pixels_while_others_are_read(source: Source) -> None:
    frame = source.read(5)
    assert frame is not None
    before = frame.image.copy()
    for _ in range(FRAMES - 1):
        source.read(5)
    assert (frame.image == before).all()


def test_files_say_how_many_frames_they_have_and_end_for_good(source: Source) -> None:
    if source.live:
        assert source.frame_total is None
        return
    assert source.frame_total == FRAMES
    for _ in range(FRAMES):
        assert source.read(5) is not None
    for _ in range(2):
        with pytest.raises(EndOfStream):
            source.read(5)


def test_close_can_be_called_twice_and_leaves_no_thread(source: Source) -> None:
    source.read(5)
    source.close()
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name == f"reader of {source.name}"]


def test_name_holds_no_credentials(source: Source) -> None:
    assert source.name
    assert "secret" not in source.name
    frame = source.read(5)
    assert frame is not None
    assert "secret" not in frame.source
