from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, ObjectState
from edge_detector.frame import FrameResult
from edge_detector.publishers import worker
from edge_detector.publishers.worker import QueuedBoth, QueuedPublisher

MakeResult = Callable[..., FrameResult]


class GatedSink:
    """Writes only while `gate` is open; fails at the frame `fails_at` with `error`."""

    name = "gated"
    uses_image = False

    def __init__(self, fails_at: int = -1, error: Exception | None = None) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.written: list[int] = []
        self.finished: list[bool] = []
        self._fails_at = fails_at
        self._error = error or OSError("disk on fire")

    def write(self, result: FrameResult) -> None:
        self.entered.set()
        assert self.gate.wait(10)
        if result.frame.frame_id == self._fails_at:
            raise self._error
        self.written.append(result.frame.frame_id)

    def finish(self, complete: bool) -> None:
        self.finished.append(complete)


def start_with_one_in_hand(sink: GatedSink, make_result: MakeResult, **settings: object) -> QueuedPublisher:
    publisher = QueuedPublisher(sink, **settings)  # type: ignore[arg-type]
    publisher.publish(make_result(frame_id=0))
    assert sink.entered.wait(10)
    return publisher


def test_full_queue_drops_its_oldest_and_counts(make_result: MakeResult) -> None:
    sink = GatedSink()
    publisher = start_with_one_in_hand(sink, make_result, capacity=3)
    for frame_id in range(1, 9):
        publisher.publish(make_result(frame_id=frame_id))
    assert publisher.dropped == 5
    sink.gate.set()
    publisher.close()
    assert sink.written == [0, 6, 7, 8]


def test_lossless_publisher_waits_and_drops_nothing(make_result: MakeResult) -> None:
    sink = GatedSink()
    publisher = start_with_one_in_hand(sink, make_result, capacity=3, lossless=True)

    def publish_all() -> None:
        for frame_id in range(1, 50):
            publisher.publish(make_result(frame_id=frame_id))

    thread = threading.Thread(target=publish_all)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    sink.gate.set()
    thread.join(10)
    publisher.close()
    assert sink.written == list(range(50))
    assert publisher.dropped == 0


def test_close_writes_what_is_queued_and_finishes_once(make_result: MakeResult) -> None:
    sink = GatedSink()
    sink.gate.set()
    publisher = QueuedPublisher(sink)
    for frame_id in range(5):
        publisher.publish(make_result(frame_id=frame_id))
    publisher.close()
    publisher.close()
    assert sink.written == list(range(5))
    assert sink.finished == [True]


@pytest.mark.parametrize("lossless", [False, True])
def test_failure_of_the_sink_surfaces_as_publish_error(make_result: MakeResult, lossless: bool) -> None:
    sink = GatedSink(fails_at=1)
    sink.gate.set()
    publisher = QueuedPublisher(sink, lossless=lossless, capacity=1000)
    with pytest.raises(PublishError, match="gated: disk on fire") as caught:  # noqa: PT012 - some publish, not the first
        for frame_id in range(1000):
            publisher.publish(make_result(frame_id=frame_id))
            publisher._thread.join(0.001)
    assert isinstance(caught.value.__cause__, OSError)
    assert sink.finished == [False]
    with pytest.raises(PublishError):
        publisher.close()


def test_failure_that_no_publish_met_surfaces_in_close(make_result: MakeResult) -> None:
    sink = GatedSink(fails_at=0, error=PublishError("the disk is full"))
    publisher = start_with_one_in_hand(sink, make_result)
    sink.gate.set()
    with pytest.raises(PublishError, match=r"^the disk is full$"):
        publisher.close()
    publisher.close()


def test_hung_sink_does_not_hang_close(make_result: MakeResult) -> None:
    sink = GatedSink()
    publisher = start_with_one_in_hand(sink, make_result, close_timeout_s=0.1)
    publisher.publish(make_result(frame_id=1))
    with pytest.raises(PublishError, match=r"gated hung for 0\.1 s; 1 queued results are lost"):
        publisher.close()
    sink.gate.set()
    publisher._thread.join(10)
    assert sink.written == [0]


def test_close_frees_a_publish_that_waits(make_result: MakeResult) -> None:
    sink = GatedSink()
    stop = threading.Event()
    publisher = start_with_one_in_hand(sink, make_result, capacity=1, lossless=True, stop=stop, close_timeout_s=0.1)
    publisher.publish(make_result(frame_id=1))
    failures: list[PublishError] = []

    def publish() -> None:
        try:
            publisher.publish(make_result(frame_id=2))
        except PublishError as error:
            failures.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(PublishError, match="hung"):
        publisher.close()
    thread.join(10)
    assert [str(error) for error in failures] == ["gated is closed"]
    sink.gate.set()
    publisher._thread.join(10)


def test_close_of_a_lossless_publisher_waits_for_a_slow_sink(make_result: MakeResult) -> None:
    sink = GatedSink()
    publisher = start_with_one_in_hand(sink, make_result, lossless=True, close_timeout_s=0.01)
    publisher.publish(make_result(frame_id=1))
    threading.Timer(0.5, sink.gate.set).start()
    publisher.close()
    assert sink.written == [0, 1]


def test_stop_frees_a_lossless_publish_and_leaves_no_gap(make_result: MakeResult) -> None:
    sink, stop = GatedSink(), threading.Event()
    publisher = start_with_one_in_hand(sink, make_result, lossless=True, stop=stop)
    threading.Timer(0.3, stop.set).start()
    for frame_id in range(1, 6):
        publisher.publish(make_result(frame_id=frame_id))
    assert stop.is_set()
    sink.gate.set()
    publisher.close()
    assert sink.written == [0, 1, 2]  # one in hand and two in the queue


def test_sink_without_use_for_pictures_gets_their_size_only(make_result: MakeResult) -> None:
    images = []

    class Sizes(GatedSink):
        def write(self, result: FrameResult) -> None:
            images.append(result.frame.image)

    publisher = QueuedPublisher(Sizes())
    publisher.publish(make_result(size_wh=(160, 120)))
    publisher.close()
    assert images[0].shape == (120, 160, 3)
    assert images[0].strides == (0, 0, 0)


@pytest.mark.parametrize("error", [OSError("disk on fire"), PublishError("gated: disk on fire")])
def test_sink_that_fails_for_a_while_is_gone_on_with(
    make_result: MakeResult, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(worker, "SURE_S", 0.0)
    sink = GatedSink(fails_at=1, error=error)
    sink.gate.set()
    publisher = QueuedPublisher(sink, goes_on=True)
    for frame_id in (0, 1, 1, 2):
        publisher.publish(make_result(frame_id=frame_id))
    publisher.close()
    assert sink.written == [0, 2]
    assert (publisher.failed, publisher.dropped, sink.finished) == (2, 0, [True])
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "gated: disk on fire; it is tried again with what comes next"
    assert said[1].startswith("gated works again after")
    assert said[2:] == ["gated: 2 results could not be written in all"]


def test_sink_that_fails_to_the_end_says_so_in_close(make_result: MakeResult) -> None:
    sink = GatedSink(fails_at=1)
    sink.gate.set()
    publisher = QueuedPublisher(sink, goes_on=True)
    publisher.publish(make_result(frame_id=1))
    with pytest.raises(PublishError, match="gated: disk on fire"):
        publisher.close()
    assert sink.finished == [True]


def test_sink_that_fails_now_and_then_is_said_once(make_result: MakeResult, caplog: pytest.LogCaptureFixture) -> None:
    sink = GatedSink(fails_at=1)
    sink.gate.set()
    publisher = QueuedPublisher(sink, goes_on=True, capacity=100)
    for _ in range(10):
        publisher.publish(make_result(frame_id=1))
        publisher.publish(make_result(frame_id=2))
    publisher.close()  # the last went well
    assert sink.written == [2] * 10
    assert [record.getMessage() for record in caplog.records] == [
        "gated: disk on fire; it is tried again with what comes next",
        "gated: 10 results could not be written in all",
    ]


def test_sink_with_a_defect_is_gone_on_with_too_and_its_trace_is_said_once(
    make_result: MakeResult, caplog: pytest.LogCaptureFixture
) -> None:
    sink = GatedSink(fails_at=1, error=ZeroDivisionError("a defect"))
    sink.gate.set()
    publisher = QueuedPublisher(sink, goes_on=True)
    for frame_id in (1, 1, 2):
        publisher.publish(make_result(frame_id=frame_id))
    publisher.close()
    assert (sink.written, sink.finished) == ([2], [True])
    assert caplog.text.count("Traceback") == 1


class Both(GatedSink):
    """Takes events too, and counts its rests."""

    rests = 0

    def write_event(self, event: Event | Alert) -> None:
        self.written.append(event.object.track_id)

    def rest(self) -> None:
        self.rests += 1


def test_results_and_events_come_in_their_order(
    make_result: MakeResult, make_object: Callable[..., ObjectState]
) -> None:
    sink = Both()
    publisher = QueuedBoth(sink)
    for number in range(0, 8, 2):
        publisher.publish(make_result(frame_id=number))
        publisher.publish_event(Event("new", make_object(track_id=number + 1)))
    sink.gate.set()
    publisher.close()
    assert sink.written == list(range(8))
    with pytest.raises(PublishError, match="closed"):
        publisher.publish_event(Event("new", make_object()))


def test_full_queue_drops_results_and_no_events(
    make_result: MakeResult, make_object: Callable[..., ObjectState]
) -> None:
    sink = Both()
    publisher = QueuedBoth(sink, capacity=2)
    publisher.publish(make_result(frame_id=0))
    assert sink.entered.wait(10)
    for number in range(10, 16):
        publisher.publish(make_result(frame_id=number))
        publisher.publish_event(Event("new", make_object(track_id=number + 10)))
    sink.gate.set()
    publisher.close()
    assert sorted(sink.written) == [0, 14, 15, *range(20, 26)]
    assert publisher.dropped == 4


def test_full_queue_drops_updates_before_what_begins_and_ends(
    make_result: MakeResult, make_object: Callable[..., ObjectState]
) -> None:
    sink = Both()
    publisher = QueuedBoth(sink)
    publisher.publish(make_result(frame_id=0))
    assert sink.entered.wait(10)
    publisher.publish_event(Event("new", make_object(track_id=1)))
    publisher.publish_event(Event("end", make_object(track_id=2)))
    for number in range(worker.EVENTS_MAX):
        publisher.publish_event(Event("update", make_object(track_id=number + 10)))
    sink.gate.set()
    publisher.close()
    assert sink.written[:4] == [0, 1, 2, 12]
    assert publisher.dropped == 2


def test_sink_of_both_rests_while_nothing_comes(wait_until: Callable[..., None]) -> None:
    sink = Both()
    publisher = QueuedBoth(sink)
    wait_until(lambda: sink.rests >= 2)
    publisher.close()
