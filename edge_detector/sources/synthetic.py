"""A camera that is computed: known objects on known paths, faults at known frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast, get_args
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from edge_detector.errors import EndOfStream, SourceError
from edge_detector.frame import Frame
from edge_detector.sources import Source, SourceHealth
from edge_detector.sources.camera import CaptureOptions, Recovery, turned
from edge_detector.sources.live import LiveSource
from edge_detector.sources.pace import Pacer
from edge_detector.sources.scenes import BoxScene, PeopleScene, Scene

Fault = Literal["unplug", "stall", "freeze", "hang"]

_NAME = "synthetic://"
_UNPLUGGED_S = 3.0
_SCENES: dict[str, Callable[[int, int], Scene]] = {"boxes": BoxScene, "people": PeopleScene}


class SyntheticSource:
    """A scene as a source without a thread.

    Without `frames` it is live, endless and paced at `fps`; with `frames` it ends, and gives them as fast as they are
    read. `faults` maps a frame id to the error that reading this frame raises; the next read continues behind it.
    """

    name = _NAME
    health = SourceHealth()

    def __init__(
        self,
        width: int = 640,
        height: int = 480,
        fps: float = 30.0,
        frames: int | None = None,
        faults: Mapping[int, Exception] | None = None,
        scene: Scene | None = None,
    ) -> None:
        self.live = frames is None
        self.frame_total = frames
        self.fps: float | None = fps
        self._scene = scene or BoxScene(width, height)
        self._period_s = 1 / fps
        self._faults = faults or {}
        self._frame_id = 0
        self._pacer = Pacer(self._period_s)

    def boxes(self, frame_id: int) -> npt.NDArray[np.int64]:
        """Return where the objects are in that frame: (N, 4) x1, y1, x2, y2 in pixels, whole numbers."""
        return self._scene.boxes(frame_id)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame; see `Source.read`."""
        if self._frame_id == self.frame_total:
            raise EndOfStream
        if self.live and not self._pacer.wait(timeout_s):
            return None
        frame_id = self._frame_id
        self._frame_id += 1
        if frame_id in self._faults:
            raise self._faults[frame_id]
        since_start_s = frame_id * self._period_s
        captured_at = self._pacer.beat_s if self.live else since_start_s
        wall_time = time.time() if self.live else since_start_s
        return Frame(self._scene.draw(frame_id), frame_id, captured_at, wall_time, self.name)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class FaultyPlug:
    """The hardware behind `SyntheticCamera`: it outlives the camera that is opened on it.

    `faults` maps the number of a picture to what happens there: "unplug": it fails, and cannot be opened for
    `unplugged_s` seconds; "stall": no picture until it is started again; "freeze": the same one until then; "hang":
    the call returns when `hang_ends` is set, which nobody does.
    """

    def __init__(
        self, scene: Scene, fps: float, faults: Mapping[int, Fault] | None = None, unplugged_s: float = _UNPLUGGED_S
    ) -> None:
        self.fps = fps
        self._scene = scene
        self._faults = faults or {}
        self._unplugged_s = unplugged_s
        self.hang_ends = threading.Event()
        self._back_at = 0.0
        self._number = 0
        self._fault: Fault | None = None
        self._pacer = Pacer(1 / fps)

    def start(self) -> None:
        """Make it deliver.

        Raises:
            SourceError: it is unplugged.
        """
        if time.monotonic() < self._back_at:
            raise SourceError(f"{_NAME}: unplugged, as declared")
        self._fault = None

    def take(self, timeout_s: float) -> tuple[npt.NDArray[np.uint8], float]:
        """Return the next picture and when it was taken; see `Camera.grab`."""
        if self._fault is None and self._number in self._faults:
            self._fault = self._faults[self._number]
            self._number += 1  # each fault happens once
            if self._fault == "unplug":
                self._back_at = time.monotonic() + self._unplugged_s
        if self._fault == "unplug":
            raise SourceError(f"{_NAME}: unplugged, as declared")
        if self._fault == "hang":
            self.hang_ends.wait()
        if self._fault == "stall" or not self._pacer.wait(timeout_s):
            time.sleep(timeout_s if self._fault == "stall" else 0)
            raise SourceError(f"{_NAME}: no picture for {timeout_s:g} s")
        if self._fault is None:
            self._number += 1
        return self._scene.draw(self._number), self._pacer.beat_s


class SyntheticCamera:
    """A scene as a camera; see `Camera`."""

    name = _NAME

    def __init__(self, plug: FaultyPlug, options: CaptureOptions) -> None:
        """Open it.

        Raises:
            SourceError: it is unplugged.
        """
        self.fps: float | None = plug.fps
        self._plug = plug
        self._options = options
        plug.start()

    def grab(self) -> tuple[npt.NDArray[np.uint8], float]:
        """Return the next picture; see `Camera.grab`."""
        image, captured_at = self._plug.take(self._options.timeout_s)
        return turned(image, self._options.rotation), captured_at

    def restart(self) -> None:
        """Start it again; see `Camera.restart`."""
        self._plug.start()

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def open_synthetic(
    address: str, options: CaptureOptions | None = None, recovery: Recovery | None = None, required: bool = True
) -> Source:
    """Open `?width=&height=&fps=&frames=&scene=boxes|people&faults=unplug@100,freeze@300`, all optional.

    Raises:
        SourceError: an unknown option or a value that it cannot have.
    """
    given = dict(parse_qsl(address.lstrip("?"), keep_blank_values=True))
    options = options or CaptureOptions()
    width, height = options.size_wh or (640, 480)
    numbers = {"width": width, "height": height, "fps": options.fps or 30.0, "frames": None}
    try:
        values = {key: _positive(key, given.pop(key), numbers) for key in list(given) if key in numbers}
        scene_class = _SCENES[given.pop("scene", "boxes")]
        faults = _parse_faults(given.pop("faults", ""))
        if given:
            raise ValueError(f"{next(iter(given))} is unknown")
    except (KeyError, ValueError) as error:
        known = f"{', '.join(numbers)} as positive numbers, scene={'|'.join(_SCENES)}, faults={'|'.join(_FAULTS)}@FRAME"
        raise SourceError(f"{_NAME}{address}: {error}; give {known}") from error
    settings = numbers | values
    scene = scene_class(cast(int, settings["width"]), cast(int, settings["height"]))
    fps, frames = cast(float, settings["fps"]), cast("int | None", settings["frames"])
    if frames is not None:
        return SyntheticSource(fps=fps, frames=frames, scene=scene)
    plug = FaultyPlug(scene, fps, faults)
    return LiveSource(_NAME, lambda: SyntheticCamera(plug, options), recovery, required=required)


_FAULTS: tuple[Fault, ...] = get_args(Fault)


def _positive(key: str, text: str, numbers: Mapping[str, Any]) -> float:
    try:
        value = float(text) if key == "fps" else int(text)
    except ValueError:
        value = 0
    if not 0 < value < 100_000:
        raise ValueError(f"{key}={text}")
    return value


def _parse_faults(text: str) -> dict[int, Fault]:
    faults: dict[int, Fault] = {}
    for item in filter(None, text.split(",")):
        word, _, number = item.partition("@")
        if word not in _FAULTS or not number.isdecimal():
            raise ValueError(f"faults={item}")
        faults[int(number)] = word
    return faults
