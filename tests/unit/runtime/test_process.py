from __future__ import annotations

import gc
import resource
import time
import weakref
from pathlib import Path

import cv2
import pytest

from edge_detector.runtime.process import process_status, return_memory, share_processors, throttled


def test_process_tells_what_it_uses() -> None:
    before = process_status(time.monotonic() - 5)
    sum(number * number for number in range(300_000))
    after = process_status(time.monotonic() - 5)
    assert 5 <= after.uptime_s < 60
    assert after.cpu_s > before.cpu_s > 0
    assert after.rss_bytes is not None
    assert after.rss_bytes > 10_000_000
    assert after.threads >= 1
    assert after.open_fds is not None
    assert after.open_fds >= 3


def test_without_a_free_descriptor_the_rest_is_told() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        status = process_status(time.monotonic())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (status.open_fds, status.rss_bytes) == (None, None)
    assert status.threads >= 1


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("0\n", set()),
        ("50005\n", {"under_voltage", "throttled"}),  # and both since the start, which is not now
        ("50000\n", set()),
        ("e0008\n", {"soft_temperature_limit"}),
        ("2\n", {"frequency_capped"}),
    ],
)
def test_firmware_says_why_it_is_slow(tmp_path: Path, text: str, on: set[str]) -> None:
    folder = tmp_path / "devices/platform/soc/soc:firmware"
    folder.mkdir(parents=True)
    (folder / "get_throttled").write_text(text)
    found = throttled(tmp_path)
    assert {name for name, value in found.items() if value} == on
    assert len(found) == 4


def test_other_machines_say_nothing_of_it(tmp_path: Path) -> None:
    assert throttled(tmp_path) == {}


def test_what_refers_to_itself_is_collected_and_what_was_there_is_looked_at_once() -> None:
    class Loop:
        def __init__(self) -> None:
            self.itself = self

    try:
        return_memory()
        frozen = gc.get_freeze_count()
        assert frozen > 1000
        gone = weakref.ref(Loop())
        return_memory()
        assert gone() is None
        assert gc.get_freeze_count() == frozen
    finally:
        gc.unfreeze()


def test_opencv_works_on_the_thread_that_calls_it() -> None:
    before = cv2.getNumThreads()
    try:
        share_processors()
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
