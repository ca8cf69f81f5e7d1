from __future__ import annotations

import threading
import time

import pytest

from edge_detector.errors import EndOfStream, SourceError
from edge_detector.runtime.mailbox import LatestFrame


def test_newest_item_wins_and_the_replaced_are_counted() -> None:
    box: LatestFrame[int] = LatestFrame()
    for item in range(5):
        box.put(item)
    assert box.get(0) == 4
    assert box.replaced == 4


def test_item_is_handed_over_once() -> None:
    box: LatestFrame[int] = LatestFrame()
    box.put(1)
    assert box.get(0) == 1
    assert box.get(0) is None


def test_empty_box_returns_none_after_the_timeout() -> None:
    start_s = time.monotonic()
    assert LatestFrame[int]().get(0.05) is None
    assert 0.04 < time.monotonic() - start_s < 2


def test_falsy_item_is_an_item() -> None:
    box: LatestFrame[int] = LatestFrame()
    box.put(0)
    assert box.get(0) == 0


def test_put_wakes_a_waiting_reader() -> None:
    box: LatestFrame[str] = LatestFrame()
    threading.Timer(0.05, box.put, ["frame"]).start()
    start_s = time.monotonic()
    assert box.get(30) == "frame"
    assert time.monotonic() - start_s < 10


def test_close_wakes_a_waiting_reader() -> None:
    box: LatestFrame[str] = LatestFrame()
    threading.Timer(0.05, box.close).start()
    with pytest.raises(EndOfStream):
        box.get(30)


def test_last_item_is_read_before_the_stored_error_is_raised_again_and_again() -> None:
    box: LatestFrame[int] = LatestFrame()
    box.put(7)
    box.close(SourceError("cable pulled"))
    assert box.get(0) == 7
    for _ in range(2):
        with pytest.raises(SourceError, match="cable pulled"):
            box.get(0)


def test_first_close_counts_and_later_items_are_ignored() -> None:
    box: LatestFrame[int] = LatestFrame()
    box.close(SourceError("first"))
    box.close()
    box.put(1)
    with pytest.raises(SourceError, match="first"):
        box.get(0)


def test_threads_lose_nothing_but_what_is_counted() -> None:
    box: LatestFrame[int] = LatestFrame()
    total = 20_000

    def write() -> None:
        for item in range(total):
            box.put(item)
        box.close()

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[int] = []
    while (item := box.get(5)) is not None:
        seen.append(item)
        if item == total - 1:
            break
    writer.join()
    with pytest.raises(EndOfStream):
        box.get(0)
    assert seen == sorted(set(seen))
    assert seen[-1] == total - 1
    assert len(seen) + box.replaced == total
