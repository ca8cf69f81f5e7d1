"""What a run of the benchmarks found: plain values, to be written as JSON, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Milliseconds of `count` repeats."""

    p50_ms: float
    p95_ms: float
    least_ms: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summarize the times of repeats."""
        p50, p95 = np.percentile(seconds, (50, 95)) * 1e3
        return cls(float(p50), float(p95), 1e3 * min(seconds), len(seconds))


@dataclass(frozen=True)
class StageRow:
    """One stage of our own pipeline, such as "invoke", under one runtime, model, number of classes and threads."""

    stage: str
    runtime: str
    model: str
    classes: int
    threads: int
    timing: Timing


@dataclass(frozen=True)
class PeerRow:
    """One way from picture to detections on the same pictures with the same weights.

    Attributes:
        contender: key, such as "example-loop".
        title: what it is, with versions.
        model: name of the weights' variant, and the canvas.
        classes: of the model.
        stages: timings by stage: "preprocess", "invoke", "postprocess", where they can be told apart, and "total".
        agreement: share of the reference's confident detections that it has too (IoU 0.5 or more), 0..1.
        extra: how many of its own per 100 the reference does not have at all.
        counts: whether its times may be compared: agreement and extra within the limits.
        reason: why it does not count, or could not run; else empty.
        rss_mb: resident memory of its process at the end.
    """

    contender: str
    title: str
    model: str
    classes: int
    stages: dict[str, Timing]
    agreement: float
    extra: float
    counts: bool
    reason: str
    rss_mb: float
