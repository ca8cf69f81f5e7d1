"""Stage 6: results leave the device."""

from __future__ import annotations

from typing import Protocol

from edge_detector.frame import FrameResult


class Publisher(Protocol):
    """A sink for results.

    `wants_image` is asked per frame: nothing is drawn or encoded unless somebody looks.
    """

    name: str

    @property
    def wants_image(self) -> bool:
        """Whether the sink would use `FrameResult.frame.image` now."""
        ...

    def publish(self, result: FrameResult) -> None:
        """Take a result; returns at once for live sinks (a full queue drops the oldest and counts it)."""
        ...

    def close(self) -> None:
        """Write out what is queued (within a time limit) and release everything; safe to call twice."""
        ...
