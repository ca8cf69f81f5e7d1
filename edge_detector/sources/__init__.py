"""Stage 1: where pictures come from."""

from __future__ import annotations

from typing import Protocol

from edge_detector.frame import Frame


class Source(Protocol):
    """A camera, stream, video file or folder of pictures.

    `live` tells the pipeline what to do when inference is slower than the source: a live source is sampled
    newest-first and drops are counted; of a file every frame is processed, in order.
    """

    live: bool
    name: str  # the URI with credentials redacted

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame, or None if none came within `timeout_s` seconds.

        Raises:
            EndOfStream: a file or folder has been read to its end.
            SourceError: the source failed.
        """
        ...

    def close(self) -> None:
        """Release the device; safe to call twice."""
        ...
