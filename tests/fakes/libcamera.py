"""What rpicamera.py needs of libcamera's Python bindings."""

from dataclasses import dataclass


@dataclass
class Transform:
    """Mirrors pictures; both together turn them by 180 degrees."""

    hflip: int = 0
    vflip: int = 0
