"""How sinks are, as they say it themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, ObjectState
from edge_detector.frame import FrameResult
from edge_detector.publishers import Watched, worker
from edge_detector.publishers.event_worker import PartlyWritten, QueuedEvents
from edge_detector.publishers.worker import QueuedBoth, QueuedPublisher
from edge_detector.runtime import metrics

MakeResult = Callable[..., FrameResult]
MakeObject = Callable[..., ObjectState]
WaitUntil = Callable[..., None]


class Door:
    """A sink for all that may be shut, so that who writes waits, or broken."""

    name = "door"
    uses_image = False

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.waits = False
        self.broken: Exception | None = None

    def write(self, result: FrameResult | Sequence[Event | Alert]) -> None:
        self.waits = True
        assert self.open.wait(10)
        self.waits = False
        if self.broken is not None:
            raise self.broken

    def write_event(self, event: Event | Alert) -> None:
        self.write([event])

    def rest(self) -> None:
        """Nothing is due."""

    def finish(self, complete: bool = True) -> None:
        """Nothing is held."""


def test_sink_that_takes_all_is_ok(make_result: MakeResult, wait_until: WaitUntil) -> None:
    with closing(QueuedPublisher(Door())) as publisher:
        for _ in range(3):
            publisher.publish(make_result())
            wait_until(lambda: not publisher.status().queued)
        wait_until(lambda: publisher.status().written == 3)
        assert publisher.status() == metrics.SinkStatus("ok", 0.0, None, 0, 0, 0, 3)


def test_sink_that_fails_says_since_when_and_why(
    make_result: MakeResult, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SURE_S", 0.0)
    door = Door()
    door.broken = OSError("disk on fire")
    with closing(QueuedPublisher(door, goes_on=True)) as publisher:
        publisher.publish(make_result())
        wait_until(lambda: publisher.status().failed == 1)
        first = publisher.status()
        assert (first.state, first.error, first.written) == ("failing", "disk on fire", 0)
        wait_until(lambda: publisher.status().trouble_s > first.trouble_s)
        door.broken = None
        publisher.publish(make_result())
        wait_until(lambda: publisher.status().state == "ok")
        assert publisher.status().written == 1


def test_sink_that_failed_for_good_has_ended(make_result: MakeResult, wait_until: WaitUntil) -> None:
    door = Door()
    door.broken = PublishError("disk on fire")
    publisher = QueuedPublisher(door)
    publisher.publish(make_result())
    wait_until(lambda: publisher.status().state == "ended")
    assert publisher.status().error == "disk on fire"
    with pytest.raises(PublishError):
        publisher.close()


def test_sink_that_does_not_answer_hangs_until_it_does(
    make_result: MakeResult, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "HANGS_S", 0.05)
    door = Door()
    door.open.clear()
    with closing(QueuedBoth(door, capacity=2)) as publisher:
        assert isinstance(publisher, Watched)
        publisher.publish(make_result())
        wait_until(lambda: door.waits)
        for _ in range(4):
            publisher.publish(make_result())
        wait_until(lambda: publisher.status().state == "hanging")
        hanging = publisher.status()
        assert (hanging.queued, hanging.dropped, hanging.error) == (2, 2, "it does not answer")
        assert hanging.trouble_s > 0.05
        door.open.set()
        wait_until(lambda: publisher.status().state == "ok")
        wait_until(lambda: publisher.status().written == 3)


def test_sink_of_events_fails_hangs_and_recovers(
    make_object: MakeObject, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "HANGS_S", 0.05)
    door = Door()
    door.broken = PartlyWritten("it answers 500", 0)
    with closing(QueuedEvents(door, first_pause_s=0.01, max_pause_s=0.02)) as publisher:
        publisher.publish_event(Event("new", make_object()))
        wait_until(lambda: publisher.status().failed > 1)
        failing = publisher.status()
        assert (failing.state, failing.error, failing.queued) == ("failing", "it answers 500", 1)
        door.broken = None
        wait_until(lambda: publisher.status().state == "ok")
        assert publisher.status().written == 1
        door.open.clear()
        publisher.publish_event(Event("end", make_object(ended=True)))
        wait_until(lambda: publisher.status().state == "hanging")
        door.open.set()
        wait_until(lambda: publisher.status().state == "ok")
