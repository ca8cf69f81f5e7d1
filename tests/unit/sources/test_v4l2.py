"""USB cameras: OpenCV and our own questions against a device that is faked at the kernel's interface, in C."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_detector.errors import SourceError
from edge_detector.sources.camera import CaptureOptions
from edge_detector.sources.v4l2 import open_v4l2

SOURCE = Path(__file__).resolve().parents[2] / "fixtures" / "fake_v4l2.c"
# What runs with the fake in place; `show(...)` sends values to the test.
PROLOGUE = """
import json, logging, os, sys, time
from pathlib import Path
import numpy as np
from edge_detector.errors import SourceError
from edge_detector.sources import v4l2
from edge_detector.sources.camera import CaptureOptions, Recovery
from edge_detector.sources.live import LiveSource
folder = Path(os.environ["FAKE_V4L2"])
v4l2._DEV = folder
device = str(folder / "video0")
def show(*values): print(json.dumps(values), flush=True)
def state(word): (folder / "state.new").write_text(word); (folder / "state.new").rename(folder / "state")
def failing(function, *arguments):
    try: function(*arguments)
    except SourceError as error: return str(error)
    return "no error"
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to build the camera that is faked at the kernel's interface")
    built = tmp_path_factory.mktemp("v4l2") / "fake_v4l2.so"
    subprocess.run([compiler, "-Wall", "-Werror", "-shared", "-fPIC", "-o", built, SOURCE, "-ldl"], check=True)
    return built


@pytest.fixture
def run(library: Path, tmp_path: Path) -> Callable[[str], list[Any]]:
    """Return a function that runs Python with the fake camera, and returns what it showed."""
    picture = np.zeros((720, 1280, 3), np.uint8)
    picture[:360] = (200, 30, 30)  # B, G, R
    cv2.imwrite(str(tmp_path / "picture.jpg"), picture)
    for name in ("video0", "video1", "state"):
        (tmp_path / name).touch()

    def run_code(code: str) -> list[Any]:
        environment = {**os.environ, "FAKE_V4L2": str(tmp_path), "LD_PRELOAD": str(library)}
        result = subprocess.run(
            [sys.executable, "-c", PROLOGUE + code], capture_output=True, text=True, timeout=60, env=environment
        )
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run_code


Run = Callable[[str], list[Any]]


def test_devices_that_take_pictures_are_listed_with_their_modes(run: Run) -> None:
    ((count, name, driver, error, modes),) = run(
        "found = v4l2.list_devices()\n"
        "show(len(found), found[0].name, found[0].driver, found[0].error, [str(mode) for mode in found[0].modes])"
    )
    assert (count, name, driver, error) == (1, "Fake Camera", "uvcvideo", None)  # the metadata node is left out
    assert modes == [
        "YUYV 640x480 30, 15 fps",
        "YUYV 1280x720 10 fps",
        "MJPG 640x480 30 fps",
        "MJPG 1280x720 30 fps",
    ]


@pytest.mark.parametrize(
    ("options", "shape", "fps", "red_or_blue"),
    [
        ("", [720, 1280, 3], 30, "blue"),  # by default 720p, as JPEG because uncompressed it comes at 10 only
        ("size_wh=(640, 480)", [480, 640, 3], 30, "red"),  # uncompressed, for that comes as fast
        ("size_wh=(640, 480), fps=15", [480, 640, 3], 15, "red"),
        ("size_wh=(1280, 720), fps=10", [720, 1280, 3], 10, "red"),
        ("pixel_format='mjpg'", [720, 1280, 3], 30, "blue"),
        ("size_wh=(640, 480), rotation=90", [640, 480, 3], 30, "red"),
    ],
)
def test_mode_is_chosen_and_colours_are_right(
    run: Run, options: str, shape: list[int], fps: int, red_or_blue: str
) -> None:
    ((found_shape, found_fps, top, elapsed_s),) = run(
        f"camera = v4l2.open_v4l2(device, CaptureOptions({options}))\n"
        "camera.grab(); start = time.monotonic()\n"
        "for _ in range(5): image, captured_at = camera.grab()\n"
        "elapsed = time.monotonic() - start\n"
        "assert abs(time.monotonic() - captured_at) < 1\n"
        "corner = image[10, 10] if image.shape[0] < image.shape[1] else image[10, -10]\n"
        "show(image.shape, camera.fps, corner.tolist(), elapsed); camera.close(); camera.close()"
    )
    assert found_shape == shape
    assert found_fps == fps
    red, _, blue = top
    assert (red > 150 > 100 > blue) if red_or_blue == "red" else (blue > 150 > 100 > red)
    assert 0.5 * 5 / fps < elapsed_s < 3  # paced by the device


def test_command_lists_cameras_with_their_modes_and_auto_takes_the_first(run: Run) -> None:
    lines, (name, shape) = run(
        "import contextlib, io\n"
        "from edge_detector.cli import cameras\n"
        "from edge_detector.sources import open_source\n"
        "with contextlib.redirect_stdout(io.StringIO()) as printed: cameras()\n"
        "show(*printed.getvalue().replace(str(folder), '').splitlines())\n"
        "source = open_source('auto'); frame = source.read(5); source.close()\n"
        "show(frame.source.replace(str(folder), ''), frame.image.shape)"
    )
    assert lines[0] == "v4l2:///video0  Fake Camera"
    assert lines[1:3] == ["    YUYV 640x480 30, 15 fps", "    YUYV 1280x720 10 fps"]
    assert (name, shape) == ("v4l2:///video0", [720, 1280, 3])


def test_controls_are_set_and_checked(run: Run) -> None:
    known, brightness, unknown, beyond = run(
        "show(list(v4l2.list_controls(device)))\n"
        "camera = v4l2.open_v4l2(device, CaptureOptions(controls={'brightness': 77}))\n"
        "import cv2; show(camera._capture.get(cv2.CAP_PROP_BRIGHTNESS)); camera.close()\n"
        "for controls in ({'zoom': 1}, {'brightness': 256}):\n"
        "    show(failing(v4l2.open_v4l2, device, CaptureOptions(controls=controls)))"
    )
    assert known == [["brightness"]]
    assert brightness[0] in (77, pytest.approx(77 / 255, abs=0.01))
    assert "no control 'zoom'; it has: brightness" in unknown[0]
    assert "give a number from 0 to 255" in beyond[0]


def test_stalled_camera_fails_at_the_time_limit(run: Run) -> None:
    ((message, elapsed_s),) = run(
        "camera = v4l2.open_v4l2(device, CaptureOptions(timeout_s=1)); camera.grab(); state('stalled')\n"
        "start = time.monotonic(); message = failing(lambda: [camera.grab() for _ in range(9)])\n"
        "show(message, time.monotonic() - start); camera.close()"
    )
    assert "no picture for 1 s, though open" in message
    assert elapsed_s < 3


def test_camera_that_was_unplugged_is_found_again(run: Run) -> None:
    away, back, away_message = run(
        "source = LiveSource('camera', lambda: v4l2.open_v4l2(device, CaptureOptions(timeout_s=1)),\n"
        "    Recovery(retry_s=0.05, retry_max_s=0.1))\n"
        "def wait(wanted):\n"
        "    end = time.monotonic() + 15\n"
        "    while source.health.state != wanted and time.monotonic() < end: source.read(0.05)\n"
        "    show(source.health.state); return source.health.error\n"
        "wait('live') if False else [source.read(0.1) for _ in range(20)]\n"
        "state('unplugged'); os.rename(device, device + '.away'); error = wait('reconnecting')\n"
        "state(''); os.rename(device + '.away', device); wait('live'); show(error); source.close()"
    )
    assert (away, back) == (["reconnecting"], ["live"])
    assert away_message[0]


def test_hanging_call_does_not_hold_up_the_end(run: Run) -> None:
    ((abandoned, closed_s),) = run(
        "source = LiveSource('camera', lambda: v4l2.open_v4l2(device, CaptureOptions(timeout_s=1)), Recovery())\n"
        "while source.read(0.2) is None: pass\n"
        "state('hang'); time.sleep(0.5); start = time.monotonic(); source.close()\n"
        "show(source.health.abandoned, time.monotonic() - start); sys.stdout.flush(); os._exit(0)"
    )
    assert abandoned == 1
    assert closed_s < 1


def test_damaged_pictures_are_skipped(run: Run) -> None:
    ((good,),) = run(
        "state('damaged'); camera = v4l2.open_v4l2(device, CaptureOptions(pixel_format='mjpg'))\n"
        "show(len([camera.grab() for _ in range(10)])); camera.close()"
    )
    assert good == 10


def test_busy_camera_names_its_holder(run: Run) -> None:
    ((message,),) = run(
        "import subprocess\n"
        "code = 'import sys, time; f = open(sys.argv[1]); print(1, flush=True); time.sleep(30)'\n"
        "holder = subprocess.Popen([sys.executable, '-c', code, device], stdout=subprocess.PIPE)\n"
        "holder.stdout.readline()\n"
        "first = v4l2.open_v4l2(device, CaptureOptions())\n"
        "show(failing(v4l2.open_v4l2, device, CaptureOptions())); holder.kill(); holder.wait()"
    )
    assert "it is in use by python" in message


def test_device_that_is_not_there_is_a_source_error_that_lists_those_that_are(run: Run) -> None:
    ((message,),) = run("show(failing(v4l2.open_v4l2, '/dev/video42', CaptureOptions()))")
    assert "/dev/video42: no such camera" in message
    assert "video0 (Fake Camera)" in message


def test_file_that_is_no_device_is_no_camera(tmp_path: Path) -> None:
    path = tmp_path / "video9"
    path.touch()
    with pytest.raises(SourceError, match="no such camera"):
        open_v4l2(str(path), CaptureOptions())
