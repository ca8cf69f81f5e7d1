from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_detector.events import ObjectState


@pytest.fixture(scope="session")
def make_object() -> Callable[..., ObjectState]:
    """Return a function that makes an object that is there, or with `ended` one that has gone."""

    def make(object_id: str = "front-1", *, ended: bool = False, **fields: Any) -> ObjectState:
        start_ts = fields.pop("start_ts", 1700000000.0)
        seen_ts = fields.pop("seen_ts", start_ts + 4.5)
        if ended:
            fields = {"end_ts": seen_ts, "end_reason": "gone", **fields}
        return ObjectState(
            **{
                "id": object_id,
                "camera": "front",
                "track_id": 1,
                "label": "person",
                "score": 0.75,
                "top_score": 0.9,
                "box": (16.0, 12.0, 80.0, 60.0),
                "box_norm": (0.1, 0.1, 0.5, 0.5),
                "start_ts": start_ts,
                "seen_ts": seen_ts,
                "duration_s": seen_ts - start_ts,
                **fields,
            }
        )

    return make


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: a write beyond it is cut short, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def limit_files() -> Callable[[int], Any]:
    return largest_file


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Return a function that waits for a condition, and fails after `timeout_s`."""

    def wait(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.005)

    return wait
