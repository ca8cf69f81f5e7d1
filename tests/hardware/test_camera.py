"""Cameras of this machine, through `edge_detector.sources` as the service opens them: one CSI, one USB.

EDGE_DETECTOR_CSI and EDGE_DETECTOR_USB name others than the first of each ("csi://1", "v4l2:///dev/video2"); none of
these tests needs a certain scene, but one that is lit. The interactive ones ask for a hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.frame import Frame
from edge_detector.sources import Source, open_source
from edge_detector.sources.auto import ConnectedCamera, list_cameras
from edge_detector.sources.camera import CaptureOptions
from edge_detector.sources.v4l2 import list_devices

pytestmark = pytest.mark.camera

SCHEMES = {"csi": "csi://", "usb": "v4l2://"}
MISSING = {
    "csi": "no CSI camera found by libcamera (python3-picamera2; is the environment made with the system's packages?)",
    "usb": "no USB camera: no /dev/video* takes pictures",
}
WATCH_S = 4.0
LATE_S = 1.0  # between taking a picture and having it; more, and the time stamp is of another clock
FLAT = 1.0  # standard deviation of a picture with the lens cap on, about
REOPENINGS = 5
_BUSY = """
import sys
from edge_detector.errors import SourceError
from edge_detector.sources import open_source
try:
    open_source(sys.argv[1]).close()
except SourceError as error:
    print(error)
    sys.exit(7)
"""


@pytest.fixture(scope="module")
def connected() -> list[ConnectedCamera]:
    return list_cameras()


@pytest.fixture(params=sorted(SCHEMES))
def camera(request: pytest.FixtureRequest, connected: list[ConnectedCamera], figure: Any) -> ConnectedCamera:
    """The first camera of a kind."""
    kind = request.param
    named = os.environ.get(f"EDGE_DETECTOR_{kind.upper()}")
    found = [one for one in connected if one.uri.startswith(SCHEMES[kind]) and named in (None, one.uri)]
    if not found:
        pytest.skip(MISSING[kind] if named is None else f"{named} is not connected")
    usable = next((one for one in found if one.problem is None), found[0])
    assert usable.problem is None, f"{usable.uri}: {usable.problem}"
    figure("camera", f"{usable.uri} ({usable.title})")
    return usable


def test_gives_pictures_at_its_rate_with_true_times(camera: ConnectedCamera, figure: Any) -> None:
    asked_fps = 15.0
    with opened(camera, fps=asked_fps) as source:
        frames, delays_s = watch(source, WATCH_S)
    times_s = [frame.captured_at for frame in frames]
    gaps_s = np.diff(times_s)
    rate = len(gaps_s) / (times_s[-1] - times_s[0])
    figure("picture", f"{frames[0].size_wh[0]}x{frames[0].size_wh[1]}")
    figure("rate", f"{rate:.1f} per second, asked for {asked_fps:g}; longest gap {gaps_s.max() * 1e3:.0f} ms")
    figure("from taking to having it", f"{np.median(delays_s) * 1e3:.0f} ms (most {max(delays_s) * 1e3:.0f})")
    assert {frame.image.shape for frame in frames} == {(*frames[0].size_wh[::-1], 3)}
    assert all(frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous for frame in frames)
    assert all(gaps_s > 0), "times go backwards"
    assert all(np.diff([frame.frame_id for frame in frames]) > 0)
    assert all(0 <= delay_s < LATE_S for delay_s in delays_s), "the time stamps are of another clock"
    # USB cameras halve their rate in the dark; a CSI camera keeps to what it is told.
    assert rate > asked_fps * (0.9 if camera.uri.startswith("csi") else 0.45)
    assert rate < asked_fps * 2.5, "the rate that was asked for is ignored"


def test_pictures_show_something_and_change(camera: ConnectedCamera, figure: Any) -> None:
    with opened(camera) as source:
        frames, _ = watch(source, WATCH_S / 2)
    contrast = float(frames[-1].image.std())
    noise = float(cv2.absdiff(frames[0].image, frames[-1].image).mean())
    figure("contrast", f"{contrast:.1f} of 255 (standard deviation)")
    figure("mean change over two seconds", f"{noise:.2f} of 255")
    assert contrast > FLAT, "all of one colour: take off the lens cap, make light"
    assert len({zlib.crc32(frame.image) for frame in frames}) > 1, "always the same picture"


def test_size_is_honoured(camera: ConnectedCamera, figure: Any) -> None:
    sizes = offered_sizes(camera)
    figure("sizes", ", ".join(f"{width}x{height}" for width, height in sizes))
    for size_wh in sizes:
        with opened(camera, size_wh=size_wh) as source:
            assert first(source).size_wh == size_wh


def test_rotation_turns_the_picture(camera: ConnectedCamera, figure: Any) -> None:
    pictures = {}
    for rotation in (0, 90, 180, 270):
        with opened(camera, size_wh=(640, 480), rotation=rotation) as source:
            frames, _ = watch(source, 1.5)  # exposure settles
            pictures[rotation] = frames[-1].image
    shapes = {rotation: image.shape[:2] for rotation, image in pictures.items()}
    assert shapes == {0: (480, 640), 90: (640, 480), 180: (480, 640), 270: (640, 480)}
    upright = pictures[0]
    for rotation in (90, 180, 270):
        turned_back = np.rot90(pictures[rotation], rotation // 90)
        right, wrong = likeness(upright, turned_back), likeness(upright, np.rot90(turned_back, 2))
        figure(f"likeness, {rotation} degrees", f"{right:.2f}, upside down {wrong:.2f}")
        if max(abs(right), abs(wrong)) > 0.3 and abs(right - wrong) > 0.1:  # else the scene is moving, or symmetric
            assert right > wrong, f"turned by {rotation} the wrong way"


def test_opens_again_after_it_was_closed_and_leaves_nothing(camera: ConnectedCamera, figure: Any) -> None:
    def once() -> None:
        with opened(camera) as source:
            first(source)

    once()  # libraries keep what they have opened
    before = open_fds(), threading.active_count()
    start_s = time.monotonic()
    for _ in range(REOPENINGS):
        once()
    figure("opening, a picture, closing", f"{(time.monotonic() - start_s) / REOPENINGS:.2f} s")
    after = open_fds(), threading.active_count()
    assert after[0] <= before[0] + 1, f"files: {before[0]} -> {after[0]}"
    assert after[1] <= before[1], f"threads: {before[1]} -> {after[1]}"


def test_second_program_is_told_that_it_is_in_use(camera: ConnectedCamera, figure: Any) -> None:
    with opened(camera) as source:
        first(source)
        result = subprocess.run([sys.executable, "-c", _BUSY, camera.uri], capture_output=True, text=True, timeout=60)
        assert result.returncode == 7, f"it could be opened twice: {result.stdout} {result.stderr}"
        figure("said", result.stdout.strip().splitlines()[-1])
        assert first(source) is not None, "the first one goes on"


def test_colours_are_not_swapped(camera: ConnectedCamera, ask: Callable[[str], None], figure: Any) -> None:
    """Interactive."""
    ask(f"Hold something red in front of the middle of {camera.uri}, all over it")
    with opened(camera) as source:
        frames, _ = watch(source, 1.5)
    image = frames[-1].image
    height, width = image.shape[:2]
    red, green, blue = image[height // 3 : -height // 3, width // 3 : -width // 3].mean(axis=(0, 1))
    figure("red, green, blue of the middle", f"{red:.0f}, {green:.0f}, {blue:.0f}")
    assert red > blue + 20, "red and blue are swapped, or it was not red"


def test_comes_back_when_unplugged_and_plugged_in(
    camera: ConnectedCamera, ask: Callable[[str], None], tell: Callable[[str], None], figure: Any
) -> None:
    """Interactive; USB only: a CSI camera must not be unplugged while the machine is on."""
    if camera.uri.startswith("csi"):
        pytest.skip("a CSI camera must not be unplugged while the machine is on")
    ask(f"Next, {camera.uri} is to be unplugged and plugged in again. Have it at hand")
    with opened(camera) as source:
        tell("Unplug it now")
        wait_for_state(source, "reconnecting", 60)
        tell("It is noticed. Plug it in again now")
        start_s = time.monotonic()
        wait_for_state(source, "live", 120)
        figure("pictures again after", f"{time.monotonic() - start_s:.1f} s, with the time of the hand")
        frames, _ = watch(source, 2.0)
        assert len(frames) > 5


@contextmanager
def opened(camera: ConnectedCamera, **options: Any) -> Iterator[Source]:
    with closing(open_source(camera.uri, options=CaptureOptions(**options))) as source:
        yield source


def first(source: Source) -> Frame:
    for _ in range(100):
        frame = source.read(0.1)
        if frame is not None:
            return frame
    raise AssertionError(f"no picture for 10 s: {source.health}")


def watch(source: Source, duration_s: float) -> tuple[list[Frame], list[float]]:
    """Return the frames of so many seconds, and how long after taking each was had."""
    frames: list[Frame] = []
    delays_s: list[float] = []
    first(source)
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        frame = source.read(0.5)
        if frame is not None:
            frames.append(frame)
            delays_s.append(time.monotonic() - frame.captured_at)
    assert len(frames) > 3, f"only {len(frames)} pictures in {duration_s:g} s: {source.health}"
    return frames, delays_s


def wait_for_state(source: Source, state: str, limit_s: float) -> None:
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        source.read(0.1)
        if source.health.state == state:
            return
    raise AssertionError(f"not {state} after {limit_s:g} s: {source.health}")


def offered_sizes(camera: ConnectedCamera) -> list[tuple[int, int]]:
    """Return the smallest and a middle size: of a USB camera as it lists them, a CSI camera scales to any."""
    if camera.uri.startswith("csi"):
        return [(640, 480), (1280, 720)]
    path = camera.uri.removeprefix("v4l2://")
    modes = [mode for device in list_devices() if device.path == path for mode in device.modes]
    sizes = sorted({(mode.width, mode.height) for mode in modes if mode.pixel_format in ("YUYV", "MJPG")})
    return sorted({sizes[0], sizes[len(sizes) // 2]})


def likeness(image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the correlation of two pictures in grey and small, -1 to 1."""
    small = [
        cv2.resize(cv2.cvtColor(np.ascontiguousarray(one), cv2.COLOR_RGB2GRAY), (32, 24)) for one in (image, other)
    ]
    columns = [one.ravel().astype(np.float64) - one.mean() for one in small]
    scale = float(np.linalg.norm(columns[0]) * np.linalg.norm(columns[1]))
    return float(columns[0] @ columns[1]) / scale if scale else 0.0


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
