"""`auto`: the first camera that delivers a picture, CSI cameras before USB cameras."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

from edge_detector.errors import SourceError
from edge_detector.sources.camera import Camera, CaptureOptions
from edge_detector.sources.rpicamera import list_rpicameras, open_rpicamera
from edge_detector.sources.v4l2 import list_devices, open_v4l2

logger = logging.getLogger(__name__)


def open_first_camera(_: str, options: CaptureOptions) -> Camera:
    """Open the first camera of this machine that delivers a picture.

    Raises:
        SourceError: none does.
    """
    for open_camera in _candidates(options):
        try:
            camera = open_camera()
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


def _candidates(options: CaptureOptions) -> Iterator[Callable[[], Camera]]:
    for camera in list_rpicameras():
        yield partial(open_rpicamera, str(camera.number), options)
    for device in list_devices():
        yield partial(open_v4l2, device.path, options)
