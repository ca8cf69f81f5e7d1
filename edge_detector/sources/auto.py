"""The cameras of this machine, CSI before USB; `auto` is the first that delivers a picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edge_detector.errors import SourceError
from edge_detector.sources.camera import Camera, CaptureOptions
from edge_detector.sources.rpicamera import list_rpicameras, open_rpicamera
from edge_detector.sources.v4l2 import list_devices, open_v4l2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectedCamera:
    """A camera that is there.

    Attributes:
        uri: to open it by.
        title: its own name.
        modes: one text per pixel format and size, with the rates.
        problem: why it cannot be used now, or None.
        open: opens it.
    """

    uri: str
    title: str
    modes: tuple[str, ...]
    problem: str | None
    open: Callable[[CaptureOptions], Camera]


def list_cameras() -> list[ConnectedCamera]:
    """Return all cameras of this machine."""
    csi = [
        ConnectedCamera(
            f"csi://{found.number}", found.model, tuple(found.modes), found.error, partial(open_rpicamera, found.number)
        )
        for found in list_rpicameras()
    ]
    usb = [
        ConnectedCamera(
            f"v4l2://{found.path}",
            found.name,
            tuple(map(str, found.modes)),
            found.error,
            partial(open_v4l2, found.path),
        )
        for found in list_devices()
    ]
    return csi + usb


def open_first_camera(_: str, options: CaptureOptions) -> Camera:
    """Open the first camera of this machine that delivers a picture.

    Raises:
        SourceError: none does.
    """
    for found in list_cameras():
        try:
            camera = found.open(options)
        except SourceError as error:
            logger.info("auto: %s", error)
            continue
        try:
            camera.grab()
        except SourceError as error:
            logger.info("auto: %s", error)
            camera.close()
            continue
        logger.info("auto: using %s", camera.name)
        return camera
    raise SourceError("auto: no camera found; connect one, or name a source, such as rtsp://... or demo")
