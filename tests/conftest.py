from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edge_detector.detections import Detections
from edge_detector.frame import Frame, FrameResult

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in a shell's background job, and inherited by child processes
    signal.signal(signal.SIGINT, signal.default_int_handler)

with suppress(ImportError):  # the acceptance of a Raspberry Pi does without it
    from hypothesis import HealthCheck, settings

    # A Raspberry Pi, or a PC that does other things too, takes longer than the 200 ms that an example is given.
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photos and reference outputs that lies beside the checkout and is never committed."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference folder ../shared beside the checkout")
    return folder


@pytest.fixture(scope="session")
def make_result() -> Callable[..., FrameResult]:
    """Return a function that makes a result: a grey picture with boxes of class 0 and falling confidence."""

    def make(
        boxes: Sequence[Sequence[float]] = ((20, 10, 60, 90),),
        *,
        frame_id: int = 0,
        size_wh: tuple[int, int] = (160, 120),
        color: int | tuple[int, int, int] = 90,
        age_s: float = 0.0,
        source: str = "clip.mp4",
        class_ids: Sequence[int] | None = None,
        tracker_ids: Sequence[int] | None = None,
        live: bool = True,
    ) -> FrameResult:
        image = np.full((size_wh[1], size_wh[0], 3), color, np.uint8)
        detections = Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
            np.array(class_ids if class_ids is not None else [0] * len(boxes), np.int64),
            None if tracker_ids is None else np.array(tracker_ids, np.int64),
        )
        now = time.monotonic()
        frame = Frame(image, frame_id, captured_at=now, wall_time=1700000000.1234, source=source)
        fps = {"capture": 25.0, "inference": 2.5} if live else {}
        return FrameResult(frame, detections, now - age_s, {"preprocess": 0.002, "inference": 0.4}, fps)

    return make
