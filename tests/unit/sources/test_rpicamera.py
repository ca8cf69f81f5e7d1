"""CSI cameras, against a fake picamera2 that follows the documented behaviour (tests/fakes)."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_detector.errors import SourceError
from edge_detector.sources import open_source
from edge_detector.sources.camera import CaptureOptions, Recovery
from edge_detector.sources.live import LiveSource
from edge_detector.sources.rpicamera import RpiCamera, list_rpicameras, open_rpicamera

FAKES = Path(__file__).resolve().parents[2] / "fakes"


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The hardware of the fake; no request may stay borrowed and no camera acquired."""
    monkeypatch.syspath_prepend(FAKES)
    for module in ("picamera2", "libcamera"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    hardware = importlib.import_module("picamera2").plug
    yield hardware
    hardware.hang_ends.set()
    assert hardware.borrowed == 0
    assert hardware.holder is None
    for module in ("picamera2", "libcamera"):
        sys.modules.pop(module, None)


def sides(image: np.ndarray) -> tuple[str, str]:
    """Return which colour is at the left and at the right."""
    names = "red", "green", "blue"
    height, width = image.shape[:2]
    left, right = image[height // 2, width // 4], image[height // 2, 3 * width // 4]
    return names[int(left.argmax())], names[int(right.argmax())]


@pytest.mark.parametrize(
    ("options", "size_wh", "colours"),
    [
        (CaptureOptions(), (1280, 720), ("red", "green")),
        (CaptureOptions(size_wh=(650, 480)), (650, 480), ("red", "green")),  # rows are padded
        (CaptureOptions(size_wh=(650, 480), rotation=180), (650, 480), ("green", "red")),
        (CaptureOptions(stream="lores"), (640, 480), ("red", "green")),
        (CaptureOptions(stream="lores", size_wh=(420, 300)), (420, 300), ("red", "green")),
    ],
)
def test_pictures_have_the_size_and_colours_of_the_scene(
    plug: Any, options: CaptureOptions, size_wh: tuple[int, int], colours: tuple[str, str]
) -> None:
    with closing(open_rpicamera(0, options)) as camera:
        image, captured_at = camera.grab()
    assert image.shape == (size_wh[1], size_wh[0], 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.owndata or image.base.flags.owndata
    assert sides(image) == colours
    for column, color in ((1, (220, 30, 30)), (-2, (30, 220, 30))):
        wanted = color if colours[0] == "red" else color[1::-1] + color[2:]
        assert np.abs(image[5, column].astype(int) - wanted).max() <= 4
    assert 0.015 < time.monotonic() - captured_at < 2  # when the sensor took it


def test_picture_is_turned_by_a_quarter(plug: Any) -> None:
    with closing(open_rpicamera(0, CaptureOptions(size_wh=(640, 480), rotation=90))) as camera:
        image, _ = camera.grab()
    assert image.shape == (640, 480, 3)
    assert image[10, 240].argmax() == 0  # what was at the left is on top


def test_time_stamp_of_another_clock_is_not_believed(plug: Any) -> None:
    plug.clock_offset_s = 5000
    with closing(open_rpicamera(0, CaptureOptions())) as camera:
        assert abs(camera.grab()[1] - time.monotonic()) < 2


def test_rate_and_controls_reach_the_camera(plug: Any) -> None:
    with closing(open_rpicamera("0", CaptureOptions(fps=100, controls={"ExposureTime": 5000}))) as camera:
        controls = plug.holder.camera_configuration()["controls"]
        start_s = time.monotonic()
        for _ in range(10):
            camera.grab()
        elapsed_s = time.monotonic() - start_s
    assert controls == {"FrameDurationLimits": (10000, 10000), "AfMode": 2, "ExposureTime": 5000}
    assert 0.1 <= elapsed_s < 2


def test_focus_is_left_alone_where_there_is_none_or_the_user_has_set_it(plug: Any) -> None:
    with closing(open_rpicamera(0, CaptureOptions(controls={"AfMode": 0}))):
        assert plug.holder.camera_configuration()["controls"]["AfMode"] == 0
    plug.autofocus = False
    with closing(open_rpicamera(0, CaptureOptions())):
        assert "AfMode" not in plug.holder.camera_configuration()["controls"]


@pytest.mark.parametrize(
    ("number", "options", "message"),
    [
        ("7", CaptureOptions(), "csi://7: list index out of range: no such camera"),
        ("front", CaptureOptions(), "csi://front: give the camera's number"),
        (
            "0",
            CaptureOptions(controls={"Zoom": 2}),
            "no control 'Zoom'; this camera has: AeEnable, AfMode, ExposureTime",
        ),
        ("0", CaptureOptions(controls={"ExposureTime": 0}), "ExposureTime=0: give a number from 1 to 66666"),
        ("0", CaptureOptions(size_wh=(9000, 9000)), "Cannot allocate memory: not enough camera memory"),
    ],
)
def test_what_cannot_be_opened_says_why_and_leaves_the_camera_free(
    plug: Any, number: str, options: CaptureOptions, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        open_rpicamera(number, options)


def test_busy_camera_says_so_and_is_listed_with_the_reason(plug: Any) -> None:
    with closing(open_rpicamera(0, CaptureOptions())):
        with pytest.raises(SourceError, match="busy: another program holds it"):
            open_rpicamera(0, CaptureOptions())
        (found,) = list_rpicameras()
        assert found.modes == ()
        assert "busy" in (found.error or "")


def test_cameras_are_listed_with_their_modes_and_without_usb_cameras(plug: Any) -> None:
    plug.cameras = 2
    first, second = list_rpicameras()
    assert (first.number, second.number) == (0, 1)
    assert first.model == "imx708"
    assert first.modes == ("SRGGB10_CSI2P 2304x1296 56.03 fps",)
    assert first.error is None


@pytest.mark.parametrize(
    ("fault", "message"), [("timeout", "no picture came"), ("error", "has timed out!: no picture came")]
)
def test_camera_that_gives_nothing_fails_in_time_and_works_after_a_restart(plug: Any, fault: str, message: str) -> None:
    with closing(open_rpicamera(0, CaptureOptions(timeout_s=0.2))) as camera:
        camera.grab()
        plug.fault = fault
        start_s = time.monotonic()
        with pytest.raises(SourceError, match=message):
            camera.grab()
        assert time.monotonic() - start_s < 1
        camera.restart()
        camera.grab()


def test_camera_that_does_not_start_again_fails_and_can_be_opened_anew(plug: Any) -> None:
    with closing(open_rpicamera(0, CaptureOptions())) as camera:
        plug.fault = "start"
        with pytest.raises(SourceError, match="Failed to start camera"):
            camera.restart()
    plug.fault = None
    open_rpicamera(0, CaptureOptions()).close()


def test_hanging_capture_is_left_behind_and_closing_does_not_wait(plug: Any) -> None:
    source = open_source("csi://0?size=640x480&fps=50", recovery=Recovery(grab_s=60))
    plug.fault = "hang"
    while source.read(0.3) is not None:
        pass
    start_s = time.monotonic()
    source.close()
    assert time.monotonic() - start_s < 1
    assert source.health.abandoned == 1
    plug.fault = None
    plug.hang_ends.set()
    for thread in threading.enumerate():
        if thread.name.startswith("reader of csi"):
            thread.join(5)


def test_two_hundred_failures_leave_no_request_borrowed_and_no_camera_acquired(plug: Any) -> None:
    options = CaptureOptions(size_wh=(64, 48), fps=500, timeout_s=0.01)
    source = LiveSource("csi://0", lambda: RpiCamera(0, options), Recovery(retry_s=0.001, retry_max_s=0.002))
    logging.disable(logging.WARNING)
    try:
        end_s = time.monotonic() + 30
        while source.health.recreated < 200 and time.monotonic() < end_s:
            if source.read(0.02) is not None:
                plug.fault = ("timeout", "error")[source.health.recreated % 2]
    finally:
        logging.disable(logging.NOTSET)
        source.close()
    assert source.health.recreated >= 200
    assert source.health.abandoned == 0


@pytest.mark.skipif(importlib.util.find_spec("picamera2") is not None, reason="picamera2 is installed")
def test_without_picamera2_the_error_says_how_to_install_it() -> None:
    assert list_rpicameras() == []
    with pytest.raises(SourceError, match=r"sudo apt install python3-picamera2.*--system-site-packages"):
        open_rpicamera(0, CaptureOptions())


@pytest.mark.skipif(importlib.util.find_spec("picamera2") is None, reason="picamera2 is not installed")
def test_real_picamera2_takes_what_the_fake_takes() -> None:
    real = importlib.import_module("picamera2").Picamera2
    for method, arguments in (
        ("capture_request", {"wait"}),
        ("create_video_configuration", {"main", "lores", "transform", "controls", "buffer_count"}),
        ("__init__", {"camera_num"}),
    ):
        assert arguments <= set(inspect.signature(getattr(real, method)).parameters)
