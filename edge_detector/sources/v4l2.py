"""USB cameras and other V4L2 devices: what is there, with its modes, and pictures by OpenCV."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.errors import SourceError
from edge_detector.sources.camera import CaptureOptions, ControlValue, turned
from edge_detector.sources.opencv import open_capture

logger = logging.getLogger(__name__)

_DEV = Path("/dev")
_SIZE_WH = (1280, 720)
_FPS = 30.0
_FAILED_READS = 10  # in a row; a camera may deliver a damaged picture now and then
_RETRY_PAUSE_S = 0.02
# Raw and codec nodes of the Raspberry Pi, whose cameras csi:// serves.
_NOT_CAMERAS = ("unicam", "bcm2835-isp", "bcm2835-codec", "rp1-cfe", "pispbe", "rpi-hevc-dec", "rpivid")

# linux/videodev2.h: number, struct format. The ioctl's code holds the struct's size.
_QUERYCAP = 0x80685600
_ENUM_FMT = 0xC0405602
_ENUM_FRAMESIZES = 0xC02C564A
_ENUM_FRAMEINTERVALS = 0xC034564B
_QUERYCTRL = 0xC0445624
_S_CTRL = 0xC008561C
_CAN_CAPTURE = 0x00000001
_CAN_STREAM = 0x04000000
_HAS_DEVICE_CAPS = 0x80000000
_CAPTURE = 1
_DISCRETE = 1
_NEXT_CONTROL = 0x80000000
_CONTROL_DISABLED = 0x0001
_MENU_KINDS = (3, 9)


@dataclass(frozen=True, slots=True)
class V4l2Mode:
    """A pixel format and size, with the rates that it comes at."""

    pixel_format: str
    width: int
    height: int
    fps: tuple[float, ...]

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in self.fps) or "?"
        return f"{self.pixel_format} {self.width}x{self.height} {rates} fps"


@dataclass(frozen=True, slots=True)
class V4l2Device:
    """A device that takes pictures; `error` says why it cannot be asked."""

    path: str
    name: str
    driver: str
    modes: tuple[V4l2Mode, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class V4l2Control:
    """A setting of a device: its id, and what it may be."""

    control_id: int
    minimum: int
    maximum: int
    default: int


def list_devices() -> list[V4l2Device]:
    """Return the devices that take pictures, by their numbers."""
    nodes = [node for node in _DEV.glob("video*") if node.name[5:].isdecimal()]
    found = (_ask(str(node)) for node in sorted(nodes, key=lambda node: int(node.name[5:])))
    return [device for device in found if device is not None]


def list_controls(path: str) -> dict[str, V4l2Control]:
    """Return the settings of a device by name, as v4l2-ctl spells them.

    Raises:
        OSError: the device cannot be asked.
    """
    controls: dict[str, V4l2Control] = {}
    with _opened(path) as device:
        control_id = _NEXT_CONTROL
        while True:
            query = bytearray(struct.pack("=II32siiiiI8x", control_id, 0, b"", 0, 0, 0, 0, 0))
            try:
                fcntl.ioctl(device.number, _QUERYCTRL, query)
            except OSError:
                return controls
            found_id, kind, name, low, high, _, default, flags = struct.unpack("=II32siiiiI8x", query)
            if kind in (1, 2, *_MENU_KINDS) and not flags & _CONTROL_DISABLED:
                controls[_spelled(name)] = V4l2Control(found_id, low, high, default)
            control_id = found_id | _NEXT_CONTROL


def set_controls(path: str, wanted: dict[str, ControlValue]) -> None:
    """Set controls by name; a value that a device clamps or ignores is not an error of its.

    Raises:
        SourceError: a name is unknown, a value out of range, or refused.
    """
    known = list_controls(path) if wanted else {}
    with _opened(path) as device:
        for name, value in wanted.items():
            control = known.get(name)
            if control is None:
                raise SourceError(f"v4l2://{path}: no control {name!r}; it has: {', '.join(sorted(known))}")
            if isinstance(value, str) or not control.minimum <= value <= control.maximum:
                raise SourceError(
                    f"v4l2://{path}: {name}={value}: give a number from {control.minimum} to {control.maximum}"
                )
            try:
                fcntl.ioctl(device.number, _S_CTRL, bytearray(struct.pack("=Ii", control.control_id, int(value))))
            except OSError as error:
                raise SourceError(f"v4l2://{path}: {name}={value}: {error.strerror}") from error


def open_v4l2(address: str, options: CaptureOptions) -> V4l2Camera:
    """Open a device by its number or path.

    Raises:
        SourceError: it is not there, busy, not permitted, no camera, or a control is wrong.
    """
    return V4l2Camera(f"/dev/video{address}" if address.isdecimal() else address, options)


class V4l2Camera:
    """A USB camera; see `Camera`.

    Uncompressed pictures (YUYV) where they come at the wanted size and rate, else JPEG: over USB 2 only small ones
    come uncompressed at full rate.
    """

    def __init__(self, path: str, options: CaptureOptions) -> None:
        """Open it and choose its mode.

        Raises:
            SourceError: see `open_v4l2`.
        """
        self.name = f"v4l2://{path}"
        self._path = path
        self._options = options
        self._mode = self._choose_mode()
        self._capture = self._open()
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = fps if 0 < fps <= 1000 else None

    def grab(self) -> tuple[npt.NDArray[np.uint8], float]:
        """Return the next picture; see `Camera.grab`."""
        start_s = time.monotonic()
        for _ in range(_FAILED_READS):
            ok, bgr = self._capture.read()
            captured_at = time.monotonic()
            if ok:
                image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
                return turned(image, self._options.rotation), captured_at
            if captured_at - start_s > 0.9 * self._options.timeout_s:
                raise SourceError(f"{self.name}: no picture for {self._options.timeout_s:g} s, though open")
            time.sleep(_RETRY_PAUSE_S)
        raise SourceError(f"{self.name}: gives no more pictures; was it unplugged?")

    def restart(self) -> None:
        """Release and open it again."""
        self._capture.release()
        self._capture = self._open()

    def close(self) -> None:
        """Release it."""
        self._capture.release()

    def _choose_mode(self) -> V4l2Mode:
        device = _ask(self._path) if Path(self._path).exists() else None
        if device is None:
            there = "; ".join(f"{found.path} ({found.name})" for found in list_devices()) or "none"
            raise SourceError(f"{self.name}: no such camera; cameras here: {there}")
        if device.error is not None:
            raise SourceError(f"{self.name}: {device.error}")
        wanted_wh, wanted_fps = self._options.size_wh or _SIZE_WH, self._options.fps or _FPS
        form = {"mjpg": "MJPG", "yuyv": "YUYV", None: None}[self._options.pixel_format]
        modes = [mode for mode in device.modes if mode.pixel_format in ({form} if form else {"YUYV", "MJPG"})]
        if not modes:
            offered = ", ".join(sorted({mode.pixel_format for mode in device.modes})) or "none"
            raise SourceError(f"{self.name}: does not offer {form or 'YUYV or MJPG'}; it offers: {offered}")

        def distance(mode: V4l2Mode) -> tuple[int, float, bool]:
            too_slow = max(0.0, wanted_fps - max(mode.fps, default=wanted_fps))
            off = abs(mode.width - wanted_wh[0]) + abs(mode.height - wanted_wh[1])
            return off, too_slow, mode.pixel_format != "YUYV"

        mode = min(modes, key=distance)
        if self._options.size_wh is not None and (mode.width, mode.height) != self._options.size_wh:
            logger.info("%s: has no %dx%d; taking %s", self.name, *wanted_wh, mode)
        return mode

    def _open(self) -> cv2.VideoCapture:
        # In whole seconds, for the whole process: OpenCV's V4L2 knows no other time limit of a read.
        os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = str(max(1, round(self._options.timeout_s)))
        mode = self._mode
        settings = {
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*mode.pixel_format),
            cv2.CAP_PROP_FRAME_WIDTH: mode.width,
            cv2.CAP_PROP_FRAME_HEIGHT: mode.height,
            cv2.CAP_PROP_FPS: round(self._options.fps or min(max(mode.fps, default=_FPS), _FPS)),
            cv2.CAP_PROP_BUFFERSIZE: 2,
        }
        capture = open_capture(self._path, cv2.CAP_V4L2, [number for pair in settings.items() for number in pair])
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{self.name}: {_why_not(self._path)}")
        set_controls(self._path, dict(self._options.controls))
        return capture


def _ask(path: str) -> V4l2Device | None:
    """Return what a device says of itself; None if it takes no pictures."""
    try:
        with _opened(path) as device:
            answer = bytearray(104)
            fcntl.ioctl(device.number, _QUERYCAP, answer)
            driver, name, _, _, can, device_can = struct.unpack("=16s32s32sIII12x", answer)
            can = device_can if can & _HAS_DEVICE_CAPS else can
            if not (can & _CAN_CAPTURE and can & _CAN_STREAM) or _text(driver) in _NOT_CAMERAS:
                return None
            return V4l2Device(path, _text(name), _text(driver), tuple(_modes(device.number)))
    except PermissionError:
        advice = f"not permitted; run: sudo usermod -aG video {os.environ.get('USER', '$USER')}, and log in again"
        return V4l2Device(path, "?", "?", error=advice)
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTTY, errno.EINVAL, errno.EISDIR)
        return None if gone else V4l2Device(path, "?", "?", error=error.strerror)


def _modes(device: int) -> Iterator[V4l2Mode]:
    for index in range(64):
        answer = bytearray(struct.pack("=III32sI16x", index, _CAPTURE, 0, b"", 0))
        try:
            fcntl.ioctl(device, _ENUM_FMT, answer)
        except OSError:
            return
        fourcc = struct.unpack("=III32sI16x", answer)[4]
        for width, height in _sizes(device, fourcc):
            yield V4l2Mode(
                fourcc.to_bytes(4, "little").decode("ascii", "replace"),
                width,
                height,
                _rates(device, fourcc, width, height),
            )


def _sizes(device: int, fourcc: int) -> Iterator[tuple[int, int]]:
    for index in range(256):
        answer = bytearray(struct.pack("=III6I8x", index, fourcc, 0, *[0] * 6))
        try:
            fcntl.ioctl(device, _ENUM_FRAMESIZES, answer)
        except OSError:
            return
        _, _, kind, width, height, *rest = struct.unpack("=III6I8x", answer)
        if kind == _DISCRETE:
            yield width, height
            continue
        # A range: min_width, max_width, step_width, min_height, max_height, step_height.
        max_width, (min_height, max_height) = height, rest[1:3]
        for size_wh in ((640, 480), (1280, 720), (1920, 1080), (max_width, max_height)):
            if width <= size_wh[0] <= max_width and min_height <= size_wh[1] <= max_height:
                yield size_wh
        return


def _rates(device: int, fourcc: int, width: int, height: int) -> tuple[float, ...]:
    rates = []
    for index in range(64):
        answer = bytearray(struct.pack("=IIIII6I8x", index, fourcc, width, height, 0, *[0] * 6))
        try:
            fcntl.ioctl(device, _ENUM_FRAMEINTERVALS, answer)
        except OSError:
            break
        kind, numerator, denominator = struct.unpack("=IIIII6I8x", answer)[4:7]
        if numerator:
            rates.append(round(denominator / numerator, 3))
        if kind != _DISCRETE:
            break
    return tuple(rates)


def _why_not(path: str) -> str:
    holders = ", ".join(_holders(path))
    if holders:
        return f"cannot be opened; it is in use by {holders}: stop that program"
    return "cannot be opened; is it plugged in, and in no other program's use?"


def _holders(path: str) -> Iterator[str]:
    """Yield the other processes that hold a device open, as far as this user may see them."""
    real = os.path.realpath(path)
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with suppress(OSError):
            if any(os.path.realpath(link) == real for link in (process / "fd").iterdir()):
                yield f"{(process / 'comm').read_text().strip()} ({process.name})"


class _opened:  # noqa: N801 - a context manager that reads like a function
    """A device open for questions; other programs may hold it meanwhile."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> _opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "replace")


def _spelled(name: bytes) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in _text(name).lower()).strip("_").replace("__", "_")
