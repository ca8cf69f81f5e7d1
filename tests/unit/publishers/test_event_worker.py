from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, EventKind, ObjectState
from edge_detector.publishers.event_queue import EventQueue
from edge_detector.publishers.event_worker import PartlyWritten, QueuedEvents

MakeObject = Callable[..., ObjectState]
WaitUntil = Callable[..., None]
QUICK: dict[str, Any] = {"first_pause_s": 0.01, "max_pause_s": 0.04}


def told(event: Event | Alert) -> tuple[str, str]:
    return ("alert" if isinstance(event, Alert) else event.kind), event.object.id


class BrokenSink:
    """Writes while it is not `broken`; else fails with `error` after `writes_first` events of the batch."""

    name = "broken"

    def __init__(self, *, broken: bool = False, writes_first: int = 0, error: Exception | None = None) -> None:
        self.broken = broken
        self.tries: list[float] = []
        self.written: list[tuple[str, str]] = []
        self.events: list[Event | Alert] = []
        self.finished = 0
        self._writes_first = writes_first
        self._error = error

    def write(self, events: Sequence[Event | Alert]) -> None:
        if events:
            self.tries.append(time.monotonic())
        if self.broken:
            self._keep(events[: self._writes_first])
            raise self._error or PartlyWritten("the disk is full", len(events[: self._writes_first]))
        self._keep(events)

    def finish(self) -> None:
        self.finished += 1

    def _keep(self, events: Sequence[Event | Alert]) -> None:
        self.events += events
        self.written += [told(event) for event in events]


class GatedSink(BrokenSink):
    """Writes only while `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()

    def write(self, events: Sequence[Event | Alert]) -> None:
        self.entered.set()
        assert self.gate.wait(10)
        super().write(events)


def test_events_arrive_once_and_in_order(make_object: MakeObject) -> None:
    sink = BrokenSink()
    publisher = QueuedEvents(sink)
    wanted = []
    for number in range(300):
        for kind in ("new", "end"):
            publisher.publish_event(Event(kind, make_object(f"o{number}", ended=kind == "end")))
            wanted.append((kind, f"o{number}"))
    publisher.publish_event(Alert("loiter", 1700000000.0, make_object("o1")))
    publisher.close()
    publisher.close()
    assert sink.written == [*wanted, ("alert", "o1")]
    assert sink.finished == 1


@pytest.mark.parametrize("error", [None, PublishError("the broker is gone"), OSError("locked")])
def test_each_object_has_one_new_and_one_end_after_an_outage(
    make_object: MakeObject, wait_until: WaitUntil, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    sink = BrokenSink(broken=True, writes_first=0 if error else 3, error=error)
    publisher = QueuedEvents(sink, **QUICK)
    for number in range(50):
        for kind in ("new", "update", "end"):
            publisher.publish_event(Event(kind, make_object(f"o{number}")))
    wait_until(lambda: len(sink.tries) >= 6)
    sink.broken = False
    publisher.close()
    for kind in ("new", "end"):
        assert [name for told_kind, name in sink.written if told_kind == kind] == [f"o{n}" for n in range(50)]
    outage, end = (record.getMessage() for record in caplog.records)
    assert outage.endswith("its events are kept and tried again")
    assert end.startswith("broken takes events again after ")


def test_pauses_double_up_to_the_longest_and_are_shortened_at_random(
    make_object: MakeObject, wait_until: WaitUntil
) -> None:
    sink = BrokenSink(broken=True)
    publisher = QueuedEvents(sink, first_pause_s=0.01, max_pause_s=0.08, close_timeout_s=0.0)
    publisher.publish_event(Event("new", make_object()))
    wait_until(lambda: len(sink.tries) >= 20)  # if they went on doubling, that took an hour
    with pytest.raises(PublishError):
        publisher.close()
    pauses = np.diff(sink.tries[:20])
    assert (pauses >= np.minimum(0.01 * 2.0 ** np.arange(19), 0.08) / 2).all()
    assert pauses[3:].min() < 0.08


def test_update_takes_the_place_of_the_queued_one_and_keeps_its_snapshot(make_object: MakeObject) -> None:
    picture = np.full((4, 4, 3), 7, np.uint8)
    queue = EventQueue()
    queue.add(Event("new", make_object("a")))
    queue.add(Event("update", make_object("a", score=0.1), picture))
    queue.add(Event("update", make_object("b")))
    queue.add(Event("update", make_object("a", score=0.2)))
    new, of_b, of_a = queue.take(9)
    assert [told(new), told(of_b), told(of_a)] == [("new", "a"), ("update", "b"), ("update", "a")]
    assert of_a.object.score == 0.2
    assert isinstance(of_a, Event)
    assert of_a.snapshot is picture


def test_newer_snapshot_wins(make_object: MakeObject) -> None:
    queue = EventQueue()
    for shade in (1, 2):
        queue.add(Event("update", make_object("a"), np.full((4, 4, 3), shade, np.uint8)))
    (update,) = queue.take(9)
    assert isinstance(update, Event)
    assert update.snapshot is not None
    assert update.snapshot[0, 0, 0] == 2


def test_update_after_one_was_taken_is_queued_by_itself(make_object: MakeObject) -> None:
    queue = EventQueue()
    queue.add(Event("update", make_object("a", score=0.1)))
    assert [event.object.score for event in queue.take(1)] == [0.1]
    queue.add(Event("update", make_object("a", score=0.2)))
    assert [event.object.score for event in queue.take(1)] == [0.2]
    assert len(queue) == 0


def test_full_queue_drops_the_oldest_updates_then_the_oldest_of_all(make_object: MakeObject) -> None:
    queue = EventQueue(capacity=4)
    sequence: list[tuple[EventKind, str]] = [
        ("new", "a"),
        ("update", "a"),
        ("new", "b"),
        ("update", "b"),
        ("end", "a"),
        ("end", "b"),
        ("new", "c"),
    ]
    drops = [queue.add(Event(kind, make_object(name))) for kind, name in sequence]
    assert drops == [0, 0, 0, 0, 1, 1, 1]
    assert [told(event) for event in queue.take(9)] == [("new", "b"), ("end", "a"), ("end", "b"), ("new", "c")]


def test_snapshots_that_take_too_much_memory_go_without_their_events(make_object: MakeObject) -> None:
    queue = EventQueue(snapshot_bytes=1000)
    for number in range(5):
        queue.add(Event("new", make_object(f"o{number}"), np.zeros((10, 10, 3), np.uint8)))
    events = queue.take(9)
    assert [isinstance(event, Event) and event.snapshot is not None for event in events] == [False] * 2 + [True] * 3


def test_snapshots_of_taken_events_no_longer_count(make_object: MakeObject) -> None:
    queue = EventQueue(snapshot_bytes=1000)
    for _ in range(20):
        queue.add(Event("new", make_object(), np.zeros((10, 10, 3), np.uint8)))
        (event,) = queue.take(1)
        assert isinstance(event, Event)
        assert event.snapshot is not None


def test_slow_sink_never_blocks_the_caller_and_drops_are_counted(
    make_object: MakeObject, caplog: pytest.LogCaptureFixture
) -> None:
    sink = GatedSink()
    publisher = QueuedEvents(sink, capacity=10)
    publisher.publish_event(Event("new", make_object("first")))
    assert sink.entered.wait(10)
    started = time.monotonic()
    for number in range(25):
        publisher.publish_event(Event("new", make_object(f"o{number}")))
    assert time.monotonic() - started < 5.0
    assert publisher.dropped == 15
    sink.gate.set()
    with caplog.at_level(logging.WARNING):
        publisher.close()
    assert [name for _, name in sink.written] == ["first", *(f"o{number}" for number in range(15, 25))]
    assert "broken: 15 events dropped in all" in caplog.text


def test_lossless_publisher_waits_and_passes_on_every_update(make_object: MakeObject) -> None:
    sink, states = GatedSink(), [make_object(score=number / 100) for number in range(40)]
    publisher = QueuedEvents(sink, lossless=True, capacity=3)
    caller = threading.Thread(target=lambda: [publisher.publish_event(Event("update", state)) for state in states])
    caller.start()
    assert sink.entered.wait(10)
    caller.join(0.3)
    assert caller.is_alive()
    sink.gate.set()
    caller.join(10)
    assert not caller.is_alive()
    publisher.close()
    assert [event.object for event in sink.events] == states
    assert publisher.dropped == 0


def test_lossless_publisher_waits_no_more_when_the_program_stops(make_object: MakeObject) -> None:
    sink, stop = GatedSink(), threading.Event()
    publisher = QueuedEvents(sink, lossless=True, stop=stop, capacity=3, close_timeout_s=0.2)
    caller = threading.Thread(
        target=lambda: [publisher.publish_event(Event("new", make_object(str(number)))) for number in range(40)]
    )
    caller.start()
    assert sink.entered.wait(10)
    stop.set()
    caller.join(10)
    assert not caller.is_alive()
    assert publisher.dropped > 0
    sink.gate.set()
    publisher.close()


def test_close_tries_until_the_sink_comes_back(make_object: MakeObject) -> None:
    sink = BrokenSink(broken=True)
    publisher = QueuedEvents(sink, first_pause_s=60.0)
    publisher.publish_event(Event("end", make_object()))
    threading.Timer(0.3, setattr, (sink, "broken", False)).start()
    publisher.close()
    assert sink.written == [("end", "front-1")]


def test_close_says_how_many_are_lost(make_object: MakeObject) -> None:
    sink = BrokenSink(broken=True)
    publisher = QueuedEvents(sink, close_timeout_s=0.3)
    for number in range(7):
        publisher.publish_event(Event("new", make_object(f"o{number}")))
    started = time.monotonic()
    with pytest.raises(PublishError, match=r"^broken: 7 events are lost: the disk is full$"):
        publisher.close()
    assert 0.2 < time.monotonic() - started < 5
    publisher.close()
    assert sink.finished == 1


def test_hung_sink_does_not_hang_close(make_object: MakeObject) -> None:
    sink = GatedSink()
    publisher = QueuedEvents(sink, close_timeout_s=0.1)
    publisher.publish_event(Event("new", make_object()))
    with pytest.raises(PublishError, match=r"broken hung for 0\.1 s; 1 events are lost"):
        publisher.close()
    sink.gate.set()
    publisher._thread.join(10)


def test_closed_publisher_takes_nothing(make_object: MakeObject) -> None:
    publisher = QueuedEvents(BrokenSink())
    publisher.close()
    with pytest.raises(PublishError, match="broken is closed"):
        publisher.publish_event(Event("new", make_object()))


def test_defect_of_a_sink_costs_one_batch_and_is_logged_with_its_trace(
    make_object: MakeObject, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    sink = BrokenSink(broken=True, error=ZeroDivisionError("a defect"))
    publisher = QueuedEvents(sink, **QUICK)
    publisher.publish_event(Event("new", make_object("a")))
    wait_until(lambda: publisher.dropped == 1)
    sink.broken = False
    publisher.publish_event(Event("new", make_object("b")))
    publisher.close()
    assert sink.written == [("new", "b")]
    assert "ZeroDivisionError: a defect" in caplog.text


def test_idle_sink_gets_an_empty_batch_to_write_what_it_gathered(wait_until: WaitUntil) -> None:
    calls: list[int] = []

    class Gathering(BrokenSink):
        def write(self, events: Sequence[Event | Alert]) -> None:
            calls.append(len(events))

    publisher = QueuedEvents(Gathering())
    wait_until(lambda: bool(calls))
    publisher.close()
    assert set(calls) == {0}


def test_failure_of_finish_surfaces_in_close() -> None:
    class Unfinished(BrokenSink):
        def finish(self) -> None:
            raise PublishError("cannot commit")

    publisher = QueuedEvents(Unfinished())
    with pytest.raises(PublishError, match="cannot commit"):
        publisher.close()
