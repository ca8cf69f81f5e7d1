"""Settings of live video as H.264."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from edge_detector.object_config import Part
from edge_detector.sink_config import Secret, known


def _check_rtsp(text: str) -> str:
    try:
        parts = urlsplit(text.replace("{camera}", "camera"))
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme != "rtsp" or not parts.hostname or port == 0 or re.search(r"[^!-~]", text):
        raise ValueError("give an address such as rtsp://user:password@host:8554/{camera}")
    return text


class StreamConfig(Part):
    """The annotated picture as H.264, encoded once per camera and only while somebody takes it.

    Attributes:
        webrtc: whether the page's server gives it by WebRTC, at /whep.
        rtsp_push: an RTSP server that it is sent to; may hold `{EDGE_DETECTOR_...}`, and {camera} for the name.
        fps: at most so many pictures per second.
        bitrate_kbps: of each camera.
        max_width: wider pictures are scaled down to it; null: never.
        encoder: auto takes the hardware's (h264_v4l2m2m, Raspberry Pi 4 and before) where it works, else libx264.
    """

    webrtc: bool = False
    rtsp_push: Annotated[Secret, known(_check_rtsp)] | None = None
    fps: Annotated[float, Field(ge=1, le=60)] = 15.0
    bitrate_kbps: Annotated[int, Field(ge=50, le=50_000)] = 2000
    max_width: Annotated[int, Field(ge=16, le=16_384)] | None = None
    encoder: Literal["auto", "libx264", "h264_v4l2m2m"] = "auto"
