"""Stage 1: where pictures come from."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import unquote

from edge_detector.errors import SourceError
from edge_detector.frame import Frame

logger = logging.getLogger(__name__)


class Source(Protocol):
    """A camera, stream, video file or folder of pictures.

    `live` tells the pipeline what to do when inference is slower than the source: a live source is sampled
    newest-first and drops are counted; of a file every frame is processed, in order.
    """

    live: bool
    name: str  # the URI with credentials redacted, or the path of a file
    frame_total: int | None  # frames from beginning to end; None where endless or unknown
    fps: float | None  # frames per second as the source states it; None where it does not

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame, or None if none came within `timeout_s` seconds.

        Raises:
            EndOfStream: a file or folder has been read to its end.
            UnreadablePicture: this picture is damaged; the next call continues with the rest.
            SourceError: the source failed.
        """
        ...

    def close(self) -> None:
        """Release the device; safe to call twice."""
        ...


_NETWORK = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp")
# Scheme -> function that opens the address after "://"; of network schemes it gets the whole URI.
_OPENERS = {
    **dict.fromkeys(_NETWORK, "edge_detector.sources.opencv:open_stream"),
    "v4l2": "edge_detector.sources.opencv:open_camera",
    "auto": "edge_detector.sources.opencv:open_first_camera",
    "file": "edge_detector.sources.files:open_video",
    "images": "edge_detector.sources.files:open_pictures",
    "demo": "edge_detector.sources.files:open_demo",
    "synthetic": "edge_detector.sources.synthetic:open_synthetic",
}
_KNOWN = "a video file, a folder of pictures, v4l2:///dev/video0, rtsp://..., http://..., synthetic://, auto or demo"
PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def open_source(uri: str, *, fallback: str | None = None) -> Source:
    """Open a camera, a stream, a video, pictures or `auto`, the first camera that delivers.

    Args:
        uri: URI, number or path of a device, path of a video or picture, folder, glob pattern, "auto" or "demo".
        fallback: URI to open instead, with one warning, where `auto` finds no camera.

    Raises:
        SourceError: unknown scheme, no such camera, no such file, or not readable.
    """
    try:
        return _open(uri, fallback)
    except (OSError, RuntimeError) as error:  # of the file system; RuntimeError: "~nobody", a loop of links
        why = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{redact(uri)}: cannot be opened: {why}; check the path") from error


def _open(uri: str, fallback: str | None) -> Source:
    scheme, address = _split(uri)
    if scheme == "csi":
        raise SourceError(f"{uri}: CSI cameras are not supported yet; use a USB camera or a stream of it (rtsp://...)")
    if scheme not in _OPENERS:
        raise SourceError(f"{redact(uri)}: unknown kind of source {scheme!r}; give {_KNOWN}")
    module, _, function = _OPENERS[scheme].partition(":")
    opener = cast(Callable[[str], Source], getattr(import_module(module), function))
    try:
        return opener(address)
    except SourceError as error:
        if scheme != "auto" or fallback is None:
            raise
        logger.warning("%s; using %s instead", error, redact(fallback))
        return open_source(fallback)


def local_files(uri: str) -> list[Path]:
    """Return the files that `open_source` would read; none for other sources, and for what cannot be opened."""
    try:
        scheme, address = _split(uri)
        if scheme == "images":
            return find_pictures(address)
        return [Path(address.removesuffix("?loop=1")).expanduser()] if scheme == "file" else []
    except (SourceError, OSError, RuntimeError):
        return []


def find_pictures(address: str) -> list[Path]:
    """Return one picture, all pictures of a folder, or all that match a glob pattern; hidden ones only by their name.

    Raises:
        SourceError: there is no such picture, or the pattern is none.
    """
    path = Path(address).expanduser()
    if path.is_dir():
        paths = [file for file in _visible(path.iterdir()) if file.suffix.lower() in PICTURE_SUFFIXES]
    elif path.exists():
        paths = [path]
    else:
        try:
            paths = list(_visible(Path(path.anchor).glob(str(path).removeprefix(path.anchor))))
        except ValueError as error:
            raise SourceError(f"{address}: not a pattern: {error}; check the path") from error
    if not paths:
        problem = "no pictures in this folder" if path.is_dir() else "no such picture"
        raise SourceError(f"{address}: {problem}; check the path (known: {' '.join(sorted(PICTURE_SUFFIXES))})")
    return sorted(paths)


def _visible(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if not path.name.startswith(".") and path.is_file())


def redact(uri: str) -> str:
    """Return `uri` without its credentials: user and password before the host, and secrets among the parameters.

    A path that contains "@" loses its host too: better than showing half a password.
    """
    without_userinfo = re.sub(r"(?<=://)\S*@", "***@", uri)
    return re.sub(
        r"(?i)((?:passw(?:or)?d|pwd|passphrase|pass|token|secret|key|auth)=)[^&\s]+", r"\1***", without_userinfo
    )


def _split(uri: str) -> tuple[str, str]:
    """Return the scheme, a key of `_OPENERS` if known, and what its opener needs."""
    scheme, separator, address = uri.partition("://")
    if separator:
        scheme = scheme.lower()
        if scheme in _NETWORK:
            return scheme, uri
        return scheme, unquote(address) if scheme in ("file", "images") else address
    if uri in ("auto", "demo"):
        return uri, ""
    if uri.isdecimal() or uri.startswith("/dev/video"):
        return "v4l2", uri
    path = Path(uri).expanduser()
    several = any(sign in uri for sign in "*[") and not path.exists()
    return ("images" if several or path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES else "file"), uri
