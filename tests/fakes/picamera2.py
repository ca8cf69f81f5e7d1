"""picamera2 as its documentation and sources (0.3.36) describe it, without a camera; faults on demand.

The camera shows red at the left and green at the right. `plug` is the hardware: what is set there happens next.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import libcamera
import numpy as np

STRIDE = 64  # bytes that rows of buffers are padded to


@dataclass
class Plug:
    """The hardware behind all `Picamera2` objects."""

    cameras: int = 1
    holder: Any = None  # the object that has acquired the camera
    fault: str | None = None  # "hang", "timeout", "error", "start"
    borrowed: int = 0  # requests that nobody has released
    forgotten: int = 0  # captures that timed out: each takes a request once the camera runs again
    starts: int = 0
    autofocus: bool = True
    clock_offset_s: float = 0.0
    hang_ends: threading.Event = field(default_factory=threading.Event)


plug = Plug()


class CompletedRequest:
    """A filled set of buffers, lent until `release`."""

    def __init__(self, camera: Picamera2) -> None:
        self._camera = camera
        self._lent = True
        plug.borrowed += 1

    def make_buffer(self, name: str) -> np.ndarray:
        assert self._lent, "used after release"
        return self._camera.fill(name)

    def make_array(self, name: str) -> np.ndarray:
        config = self._camera.camera_configuration()[name]
        (width, height), stride = config["size"], config["stride"]
        rows = self.make_buffer(name).reshape(-1, stride)
        if config["format"] in ("RGB888", "BGR888"):
            return rows[:, : 3 * width].reshape(height, width, 3)
        return rows  # YUV420 comes with its padding

    def get_metadata(self) -> dict[str, int]:
        return {"SensorTimestamp": int((time.monotonic() - 0.02 + plug.clock_offset_s) * 1e9)}

    def release(self) -> None:
        assert self._lent, "released twice"
        self._lent = False
        plug.borrowed -= 1


class Picamera2:
    """One camera, acquired from construction to `close`."""

    @staticmethod
    def global_camera_info() -> list[dict[str, Any]]:
        return [
            {"Model": "imx708", "Location": 2, "Rotation": 180, "Id": f"/base/soc/i2c{number}/imx708@1a", "Num": number}
            for number in range(plug.cameras)
        ] + [{"Model": "UVC Camera", "Location": 0, "Id": "/base/soc/usb@1/1-1:1.0", "Num": plug.cameras}]

    def __init__(self, camera_num: int = 0) -> None:
        if camera_num >= plug.cameras:
            raise IndexError("list index out of range")
        if plug.holder is not None:
            raise RuntimeError("Failed to acquire camera: Device or resource busy")
        plug.holder = self
        self.camera_controls = {
            "ExposureTime": (1, 66666, None),
            "AeEnable": (False, True, None),
            "FrameDurationLimits": (11111, 15534444, None),
        }
        if plug.autofocus:
            self.camera_controls["AfMode"] = (0, 2, 0)
        self.sensor_modes = [{"format": "SRGGB10_CSI2P", "size": (2304, 1296), "fps": 56.03}]
        self.started = False
        self._configuration: dict[str, Any] | None = None

    def create_video_configuration(
        self,
        main: dict[str, Any],
        lores: dict[str, Any] | None = None,
        raw: Any = None,
        transform: libcamera.Transform | None = None,
        colour_space: Any = None,
        buffer_count: int = 6,
        controls: dict[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        return {
            "main": dict(main),
            "lores": None if lores is None else dict(lores),
            "transform": transform or libcamera.Transform(),
            "buffer_count": buffer_count,
            "controls": {"FrameDurationLimits": (33333, 33333), **(controls or {})},
        }

    def configure(self, configuration: dict[str, Any]) -> None:
        if self.started:
            raise RuntimeError("Camera must be stopped before configuring")
        main, lores = configuration["main"], configuration["lores"]
        if main["size"][0] * main["size"][1] * configuration["buffer_count"] > 4056 * 3040 * 4:
            raise RuntimeError("Cannot allocate memory")
        if lores is not None:
            if lores["size"][0] > main["size"][0] or lores["size"][1] > main["size"][1]:
                raise RuntimeError("lores stream dimensions may not exceed main stream")
            lores["stride"] = -(-lores["size"][0] // STRIDE) * STRIDE
        main["stride"] = -(-3 * main["size"][0] // STRIDE) * STRIDE
        self._configuration = configuration

    def camera_configuration(self) -> dict[str, Any]:
        assert self._configuration is not None
        return self._configuration

    def start(self) -> None:
        if plug.fault == "start":
            raise RuntimeError("Failed to start camera: Input/output error")
        if self._configuration is None:
            raise RuntimeError("Camera has not been configured")
        plug.fault = None
        plug.borrowed, plug.forgotten = plug.borrowed + plug.forgotten, 0
        plug.starts += 1
        self.started = True

    def cancel_all_and_flush(self) -> None:
        plug.forgotten = 0

    def stop(self) -> None:
        self.started = False

    def close(self) -> None:
        self.stop()
        if plug.holder is self:
            plug.holder = None

    def capture_request(self, wait: bool | float | None = None) -> CompletedRequest:
        assert isinstance(wait, int | float), "without a time limit it can wait for ever"
        assert not isinstance(wait, bool), "without a time limit it can wait for ever"
        configuration = self.camera_configuration()
        if plug.fault == "hang":
            plug.hang_ends.wait()
        if plug.fault == "timeout" or plug.borrowed >= configuration["buffer_count"] or not self.started:
            time.sleep(wait)
            plug.forgotten += 1
            raise TimeoutError
        if plug.fault == "error":
            raise RuntimeError("Camera frontend has timed out!")
        time.sleep(configuration["controls"]["FrameDurationLimits"][0] / 1e6)
        return CompletedRequest(self)

    def fill(self, name: str) -> np.ndarray:
        """Return the bytes of a stream's buffer, its padding white."""
        configuration = self.camera_configuration()
        config = configuration[name]
        (width, height), stride = config["size"], config["stride"]
        left, right = [(220, 30, 30), (30, 220, 30)][:: -1 if configuration["transform"].hflip else 1]
        if name == "main":
            # Named by the order in a word: what is called BGR888 has red first in memory.
            order = slice(None) if config["format"] == "BGR888" else slice(None, None, -1)
            rows = np.full((height, stride), 255, np.uint8)
            half = width // 2 * 3
            rows[:, :half] = np.tile(np.array(left[order], np.uint8), width // 2)
            rows[:, half : 3 * width] = np.tile(np.array(right[order], np.uint8), width - width // 2)
            return rows.ravel()
        planes = []
        for plane, shrink in ((0, 1), (1, 2), (2, 2)):
            rows = np.full((height // shrink, stride // shrink), 255, np.uint8)
            half = width // shrink // 2
            rows[:, :half], rows[:, half : width // shrink] = _yuv(left)[plane], _yuv(right)[plane]
            planes.append(rows.ravel())
        return np.concatenate(planes)


def _yuv(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """BT.601, limited range."""
    red, green, blue = (value / 255 for value in rgb)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return (
        round(16 + 219 * luma),
        round(128 + 224 * (blue - luma) / 1.772),
        round(128 + 224 * (red - luma) / 1.402),
    )
