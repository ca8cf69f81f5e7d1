"""Stage 1: where pictures come from."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import unquote

from edge_detector.errors import SourceError
from edge_detector.frame import Frame
from edge_detector.sources.camera import Camera, CaptureOptions, Recovery, parse_options

logger = logging.getLogger(__name__)

_POLL_S = 0.1  # how soon a wait notices that it shall end


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """How a source is.

    Attributes:
        state: "opening", "live", "frozen" (the same picture again and again), "reconnecting", or "failed": so many
            calls hang that only a new start of the program helps.
        since: monotonic time of its beginning.
        error: what went wrong last, until it is over.
        lost: whether no picture came for as long as was given it to come back.
        reopened: times that the device was stopped and started in place.
        recreated: times that it was opened anew.
        freezes: times that it froze.
        abandoned: calls that hung and were left behind.
        errors: times that it had to be started again after an error, in place or anew,
        hangs: and after a call that did not return.
    """

    state: Literal["opening", "live", "frozen", "reconnecting", "failed"] = "live"
    since: float = 0.0
    error: str | None = None
    lost: bool = False
    reopened: int = 0
    recreated: int = 0
    freezes: int = 0
    abandoned: int = 0
    errors: int = 0
    hangs: int = 0


class Source(Protocol):
    """A camera, stream, video file or folder of pictures.

    `live` tells the pipeline what to do when inference is slower than the source: a live source is sampled
    newest-first and drops are counted; of a file every frame is processed, in order.
    """

    live: bool
    name: str  # the URI with credentials redacted, or the path of a file
    frame_total: int | None  # frames from beginning to end; None where endless or unknown
    fps: float | None  # frames per second as the source states it; None where it does not

    @property
    def health(self) -> SourceHealth:
        """Its state, safe to read from any thread."""
        ...

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
# Scheme -> what opens its address, the part after "://"; for network schemes the whole URI.
_CAMERAS = {  # called with address and `CaptureOptions`, returns a `Camera`
    **dict.fromkeys(_NETWORK, "edge_detector.sources.opencv:StreamCamera"),
    "auto": "edge_detector.sources.auto:open_first_camera",
    "csi": "edge_detector.sources.rpicamera:open_rpicamera",
    "v4l2": "edge_detector.sources.v4l2:open_v4l2",
}
_OTHERS = {  # called with the address, "synthetic" with all settings; returns a `Source`
    "file": "edge_detector.sources.files:open_video",
    "images": "edge_detector.sources.files:open_pictures",
    "demo": "edge_detector.sources.files:open_demo",
    "synthetic": "edge_detector.sources.synthetic:open_synthetic",
}
_KNOWN = (
    "a video file, a folder of pictures, csi://0, v4l2:///dev/video0, rtsp://..., http://..., synthetic://, auto or "
    "demo"
)
PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def open_source(
    uri: str,
    *,
    options: CaptureOptions | None = None,
    recovery: Recovery | None = None,
    required: bool = True,
    fallback: str | None = None,
    stop: threading.Event | None = None,
) -> Source:
    """Open a camera, a stream, a video, pictures or `auto`, the first camera that delivers.

    Args:
        uri: URI, number or path of a device, path of a video or picture, folder, glob pattern, "auto" or "demo".
        options: how a camera takes pictures; the query of a device's URI goes before them.
        recovery: when a camera is given up.
        required: return when a camera has given its first picture, and fail if it does not. Otherwise return at once;
            a camera that is not there is waited for.
        fallback: URI to open instead, with one warning, where `auto` finds no camera.
        stop: ends the wait for the first picture when set.

    Raises:
        SourceError: unknown scheme, no such camera, no such file, or not readable.
    """
    scheme = ""
    try:
        scheme, address = _split(uri)
        if scheme in _OTHERS:
            settings = (options, recovery, required) if scheme == "synthetic" else ()
            opened: Source = _resolve(_OTHERS[scheme])(address, *settings)
            return opened
        _check_scheme(uri, scheme)
        return _open_camera(scheme, address, options or CaptureOptions(), recovery, required, stop)
    except SourceError as error:
        if scheme != "auto" or fallback is None:
            raise
        logger.warning("%s; using %s instead", error, redact(fallback))
        return open_source(fallback)
    except (OSError, RuntimeError) as error:  # of the file system; RuntimeError: "~nobody", a loop of links
        why = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{redact(uri)}: cannot be opened: {why}; check the path") from error


def _open_camera(
    scheme: str,
    address: str,
    options: CaptureOptions,
    recovery: Recovery | None,
    required: bool,
    stop: threading.Event | None,
) -> Source:
    name = redact(address) if scheme in _NETWORK else scheme if scheme == "auto" else f"{scheme}://{address}"
    if scheme not in _NETWORK:
        address, _, query = address.partition("?")
        options = parse_options(query, options, name)
    opener: Callable[[str, CaptureOptions], Camera] = _resolve(_CAMERAS[scheme])
    live = import_module("edge_detector.sources.live")
    source: Source = live.LiveSource(name, lambda: opener(address, options), recovery, required=required)
    try:
        while required and not (stop is not None and stop.is_set()):
            if source.read(_POLL_S) is not None:
                break
    except BaseException:
        source.close()
        raise
    return source


def _resolve(target: str) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function


def _check_scheme(uri: str, scheme: str) -> None:
    if scheme not in _OTHERS and scheme not in _CAMERAS:
        raise SourceError(f"{redact(uri)}: unknown kind of source {scheme!r}; give {_KNOWN}")


def check_source(uri: str, options: CaptureOptions) -> None:
    """Check what can be checked of a source without opening it: its kind, files, and the settings of its query.

    Raises:
        SourceError: of an unknown kind, no such file, or a setting that is unknown or out of range.
    """
    scheme, address = _split(uri)
    _check_scheme(uri, scheme)
    if scheme == "images":
        find_pictures(address)
    elif scheme == "file" and not Path(address.removesuffix("?loop=1")).expanduser().is_file():
        raise SourceError(f"{address}: no such file; check the path")
    elif scheme in _CAMERAS and scheme not in _NETWORK:
        address, _, query = address.partition("?")
        parse_options(query, options, f"{scheme}://{address}")


def local_files(uri: str) -> list[Path]:
    """Return the files that `open_source` would read; none for other sources, and for what cannot be opened."""
    with suppress(SourceError, OSError, RuntimeError):
        scheme, address = _split(uri)
        if scheme == "images":
            return find_pictures(address)
        if scheme == "file":
            return [Path(address.removesuffix("?loop=1")).expanduser()]
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
    """Return the scheme, and the address that its opener takes."""
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
