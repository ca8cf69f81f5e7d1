"""CSI cameras of the Raspberry Pi, by picamera2 (its releases from 0.3.36 on; never run on hardware so far)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.errors import SourceError
from edge_detector.sources.camera import CaptureOptions, turned

logger = logging.getLogger(__name__)

# Small, for what the camera memory (CMA) of a Pi holds: a buffer of this size takes 2.8 MB.
_SIZE_WH = (1280, 720)
_LORES_WH = (640, 480)
_FPS = 30.0
_BUFFERS = 4  # one in the sensor, one in the ISP, one borrowed, one to spare
_CONTINUOUS_FOCUS = 2  # libcamera.controls.AfModeEnum.Continuous
_OLDEST_S = 2.0  # a time stamp that says more is of another clock


@dataclass(frozen=True, slots=True)
class RpiCameraInfo:
    """A camera that libcamera knows; `error` says why its modes are unknown."""

    number: int
    model: str
    location: str
    modes: tuple[str, ...] = ()
    error: str | None = None


def list_rpicameras() -> list[RpiCameraInfo]:
    """Return the CSI cameras; none where picamera2 is not installed or does not work."""
    try:
        picamera2 = _import("picamera2")
    except SourceError as error:
        logger.debug("%s", error)
        return []
    cameras = []
    for number, found in enumerate(picamera2.Picamera2.global_camera_info()):
        if "usb" in str(found.get("Id", "")).lower():
            continue  # libcamera lists USB cameras too, which V4L2 serves
        number = int(found.get("Num", number))
        model, location = str(found.get("Model", "camera")), str(found.get("Location", ""))
        try:
            camera = picamera2.Picamera2(number)
        except Exception as error:  # noqa: BLE001 - picamera2 raises many kinds
            cameras.append(RpiCameraInfo(number, model, location, error=_explain(number, error)))
            continue
        try:
            modes = tuple(_mode(mode) for mode in camera.sensor_modes)
            cameras.append(RpiCameraInfo(number, model, location, modes))
        finally:
            camera.close()
    return cameras


def _mode(mode: Mapping[str, Any]) -> str:
    width, height = mode["size"]
    return f"{mode.get('format', 'raw')} {width}x{height} {float(mode.get('fps', 0)):g} fps"


def open_rpicamera(number: int | str, options: CaptureOptions) -> RpiCamera:
    """Open the CSI camera of this number.

    Raises:
        SourceError: there is none, it is busy, picamera2 is missing, or a control is unknown.
    """
    if not str(number).isdecimal():
        raise SourceError(f"csi://{number}: give the camera's number, such as csi://0")
    return RpiCamera(int(number), options)


class RpiCamera:
    """A CSI camera; see `Camera`. Pictures come from its main stream, or from the small second one ("lores").

    picamera2 names formats by the order of bytes in a 32-bit word: its "BGR888" is R, G, B in memory.
    """

    def __init__(self, number: int, options: CaptureOptions) -> None:
        """Open, configure and start it.

        Raises:
            SourceError: there is none, it is busy, picamera2 is missing, or a control is unknown.
        """
        picamera2, libcamera = _import("picamera2"), _import("libcamera")
        self.name = f"csi://{number}"
        self.fps: float | None = options.fps or _FPS
        self._number = number
        self._options = options
        self._camera: Any = None
        try:
            self._camera = picamera2.Picamera2(number)
            self._camera.configure(self._configuration(libcamera))
            self._camera.start()
        except SourceError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise SourceError(_explain(number, error)) from error

    def grab(self) -> tuple[npt.NDArray[np.uint8], float]:
        """Return the next picture and when its first row was exposed; see `Camera.grab`."""
        try:
            # Never without a time limit: a camera that has stopped would keep the caller for ever.
            request = self._camera.capture_request(wait=self._options.timeout_s)
        except Exception as error:
            raise SourceError(_explain(self._number, error)) from error
        try:
            image = self._picture(request)
            stamp_s = request.get_metadata().get("SensorTimestamp", 0) / 1e9
        except Exception as error:
            raise SourceError(_explain(self._number, error)) from error
        finally:
            request.release()
        now_s = time.monotonic()
        plausible = 0 <= now_s - stamp_s < _OLDEST_S
        rotation = 0 if self._options.rotation == 180 else self._options.rotation
        return turned(image, rotation), stamp_s if plausible else now_s

    def restart(self) -> None:
        """Stop and start it; see `Camera.restart`."""
        try:
            # A request that was waited for in vain is still on order: it would come, and never be given back.
            self._camera.cancel_all_and_flush()
            self._camera.stop()
            self._camera.start()
        except Exception as error:
            raise SourceError(_explain(self._number, error)) from error

    def close(self) -> None:
        """Stop and release it, so that it can be opened again in this process."""
        camera, self._camera = self._camera, None
        if camera is not None:
            with suppress(Exception):
                camera.cancel_all_and_flush()
            with suppress(Exception):
                camera.stop()
            with suppress(Exception):
                camera.close()

    def _picture(self, request: Any) -> npt.NDArray[np.uint8]:
        """Return a copy of the borrowed picture as RGB."""
        if self._options.stream == "main":
            return np.ascontiguousarray(request.make_array("main"), np.uint8)
        config = self._camera.camera_configuration()["lores"]
        (width, height), stride = config["size"], config["stride"]
        planes = np.asarray(request.make_buffer("lores"), np.uint8)
        luma = planes[: height * stride].reshape(height, stride)[:, :width]
        chroma = planes[height * stride : height * stride * 3 // 2].reshape(height, stride // 2)[:, : width // 2]
        packed = np.concatenate([luma.ravel(), chroma.ravel()]).reshape(height * 3 // 2, width)
        return cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_I420).astype(np.uint8, copy=False)

    def _configuration(self, libcamera: Any) -> Any:
        options = self._options
        half = int(options.rotation == 180)
        lores = options.stream == "lores"
        size_wh = options.size_wh or (_LORES_WH if lores else _SIZE_WH)
        main_wh = (max(size_wh[0], _SIZE_WH[0]), max(size_wh[1], _SIZE_WH[1])) if lores else size_wh
        return self._camera.create_video_configuration(
            main={"size": main_wh, "format": "BGR888"},
            lores={"size": size_wh, "format": "YUV420"} if lores else None,
            transform=libcamera.Transform(hflip=half, vflip=half),
            controls=self._controls(),
            buffer_count=_BUFFERS,
        )

    def _controls(self) -> dict[str, Any]:
        known = self._camera.camera_controls
        for name, value in self._options.controls.items():
            if name not in known:
                raise SourceError(f"{self.name}: no control {name!r}; this camera has: {', '.join(sorted(known))}")
            low, high = known[name][:2]
            if isinstance(low, int | float) and not (isinstance(value, int | float) and low <= value <= high):
                raise SourceError(f"{self.name}: {name}={value}: give a number from {low:g} to {high:g}")
        frame_us = round(1e6 / (self._options.fps or _FPS))
        focus = {"AfMode": _CONTINUOUS_FOCUS} if "AfMode" in known else {}
        return {"FrameDurationLimits": (frame_us, frame_us), **focus, **self._options.controls}


def _import(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise SourceError(
            f"csi: {module} is not usable ({error}); run: sudo apt install python3-picamera2, and make the environment "
            "with python3 -m venv --system-site-packages"
        ) from error
    except (ValueError, AttributeError) as error:  # numpy.dtype size changed; an undefined symbol
        raise SourceError(f"csi: {module} does not fit the other packages ({error}); run: sudo apt upgrade") from error


_NO_CAMERA = "is its ribbon cable in, and its dtoverlay set? `edge-detector cameras` lists what is there"
_REMEDIES = {
    "no camera": _NO_CAMERA,
    "out of range": f"no such camera; {_NO_CAMERA}",
    "busy": "another program holds it; stop that, such as rpicam-hello or a second edge-detector",
    "acquire": "another program holds it; stop that, such as rpicam-hello or a second edge-detector",
    "allocate": "not enough camera memory; give a smaller size, or dtoverlay=vc4-kms-v3d,cma-256 in config.txt",
    "time": "no picture came; check the ribbon cable",
}


def _explain(number: int, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, TimeoutError | IndexError):
        sign = "time" if isinstance(error, TimeoutError) else "out of range"
    else:
        sign = next((sign for sign in _REMEDIES if sign in text.lower()), "")
    return f"csi://{number}: {text}: {_REMEDIES.get(sign, 'see `journalctl -k`')}"
