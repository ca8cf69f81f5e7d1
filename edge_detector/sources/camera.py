"""What a camera driver is: the blocking calls that `LiveSource` runs in a thread of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from edge_detector.errors import SourceError
from edge_detector.frame import parse_size

ControlValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How to take pictures; None leaves it to the device.

    Attributes:
        size_wh: width and height in pixels.
        fps: pictures per second.
        pixel_format: "mjpg" or "yuyv"; USB cameras only.
        rotation: degrees clockwise that the picture is turned by: 0, 90, 180 or 270.
        stream: "main" or "lores", which of its two streams a CSI camera gives.
        timeout_s: without a picture for so long, the device has failed.
        controls: settings of the device by the names that it has for them.
    """

    size_wh: tuple[int, int] | None = None
    fps: float | None = None
    pixel_format: str | None = None
    rotation: int = 0
    stream: Literal["main", "lores"] = "main"
    timeout_s: float = 5.0
    controls: Mapping[str, ControlValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recovery:
    """When a camera is given up, in seconds.

    Attributes:
        open_s: opening it may take so long before the call counts as hanging.
        grab_s: so may one picture; longer than the camera's own time-out.
        frozen_s: without a change of any pixel for so long it is frozen; None never looks.
        retry_s: pause before the first new try; doubles with each, +-20%.
        retry_max_s: the longest such pause.
        give_up_s: without a picture for so long it is lost.
        max_abandoned: with so many hanging calls it is not tried any more.
    """

    open_s: float = 20.0
    grab_s: float = 12.0
    frozen_s: float | None = 60.0
    retry_s: float = 0.5
    retry_max_s: float = 30.0
    give_up_s: float = 600.0
    max_abandoned: int = 8


class Camera(Protocol):
    """An open camera; every method may block, and all are called on one thread, its reader.

    A call that hangs is given up by `LiveSource`.
    """

    name: str  # URI without credentials
    fps: float | None  # as the device states it

    def grab(self) -> tuple[npt.NDArray[np.uint8], float]:
        """Wait for the next picture; return it, (H, W, 3) uint8 RGB and owned by the caller, and `captured_at`.

        Raises:
            SourceError: no picture came within `CaptureOptions.timeout_s`, or the device failed.
        """
        ...

    def restart(self) -> None:
        """Stop and start the device, keeping what can be kept of it.

        Raises:
            SourceError: it does not start; close it and open it anew.
        """
        ...

    def close(self) -> None:
        """Release the device; safe to call twice and after a failure."""
        ...


def parse_options(query: str, options: CaptureOptions, name: str) -> CaptureOptions:
    """Return `options` with what the query of a device's URI says in its place: `size=1280x720&fps=15&rotation=180`.

    Any key that is none of `CaptureOptions` is a control of the device.

    Raises:
        SourceError: a value is out of range.
    """
    changes: dict[str, object] = {}
    controls = dict(options.controls)
    for key, text in parse_qsl(query, keep_blank_values=True):
        try:
            if key == "size":
                changes["size_wh"] = parse_size(text)
            elif key == "fps":
                changes["fps"] = _in_range(float(text), 0.1, 1000)
            elif key == "format":
                changes["pixel_format"] = _one_of(text, "mjpg", "yuyv")
            elif key == "rotation":
                changes["rotation"] = int(_one_of(text, "0", "90", "180", "270"))
            elif key == "stream":
                changes["stream"] = _one_of(text, "main", "lores")
            else:
                controls[key] = _control(text)
        except ValueError as error:
            raise SourceError(f"{name}: {key}={text}: {error}") from error
    return replace(options, controls=controls, **changes)  # type: ignore[arg-type]  # checked above


def turned(image: npt.NDArray[np.uint8], rotation: int) -> npt.NDArray[np.uint8]:
    """Return `image` turned clockwise by so many degrees, a multiple of 90; C-contiguous."""
    return np.ascontiguousarray(np.rot90(image, -rotation // 90)) if rotation else image


def _in_range(value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"give a number from {low:g} to {high:g}")
    return value


def _one_of(text: str, *words: str) -> str:
    if text.lower() not in words:
        raise ValueError(f"give {', '.join(words[:-1])} or {words[-1]}")
    return text.lower()


def _control(text: str) -> ControlValue:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
