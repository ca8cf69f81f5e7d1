"""Errors that reach the user: one root, one exit code per cause (the numbers are sysexits.h's)."""

from __future__ import annotations

from collections.abc import Sequence


class EdgeDetectorError(Exception):
    """Root of all errors of this package; the message says what is wrong and what to do next."""

    exit_code = 70  # EX_SOFTWARE


class ConfigError(EdgeDetectorError):
    """A setting is missing, unknown or out of range; restarting will not help."""

    exit_code = 78  # EX_CONFIG


class ConfigFileError(ConfigError):
    """What is wrong in a file of settings; `lines` has each mistake by itself, as FILE:LINE: KEY: MESSAGE."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


class ModelError(EdgeDetectorError):
    """A model file cannot be used: missing, damaged, foreign, or at odds with its labels."""

    exit_code = 65  # EX_DATAERR


class DelegateError(EdgeDetectorError):
    """An accelerator or the runtime that drives it is not available; `cause` is "crash", "hang" or "error"."""

    exit_code = 69  # EX_UNAVAILABLE

    def __init__(self, message: str, cause: str = "error") -> None:
        super().__init__(message)
        self.cause = cause


class SourceError(EdgeDetectorError):
    """A camera, stream, video or picture cannot be opened or read."""

    exit_code = 66  # EX_NOINPUT


class SourceLost(SourceError):  # noqa: N818 - named as one reads it
    """No camera has given a picture for longer than it was given to come back; a new start may help."""

    exit_code = 75  # EX_TEMPFAIL


class UnreadablePicture(SourceError):  # noqa: N818 - named as one reads it
    """One picture of several cannot be decoded; the next `read` continues with the rest."""


class PublishError(EdgeDetectorError):
    """Results cannot leave the device: port in use, file not writable, broker unreachable."""

    exit_code = 73  # EX_CANTCREAT


class EndOfStream(Exception):  # noqa: N818 - control flow like StopIteration, not an error
    """Raised by `Source.read` when a file or folder has been read to its end."""
