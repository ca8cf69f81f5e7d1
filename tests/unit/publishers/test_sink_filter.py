from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_detector.events import Alert, Event, ObjectState
from edge_detector.frame import FrameResult
from edge_detector.publishers.sink_filter import Rate, SinkFilter, filtered
from edge_detector.publishers.worker import QueuedPublisher
from edge_detector.sink_config import SinkFilterConfig, UdpConfig, WebhookConfig

MakeResult = Callable[..., FrameResult]
MakeObject = Callable[..., ObjectState]
LABELS = ("person", "cat", "dog")
BOXES = [(0, 0, 100, 100), (0, 0, 16, 12), (10, 10, 60, 60)]


def sink_filter(clock: Callable[[], float] = lambda: 0.0, **wanted: Any) -> SinkFilter:
    return SinkFilter(SinkFilterConfig(**wanted), LABELS, clock)


@pytest.fixture
def result(make_result: MakeResult) -> FrameResult:
    """Three objects in a picture of 160x120, with scores 0.9, 0.7 and 0.5."""
    made = make_result(BOXES, class_ids=[0, 1, 2], tracker_ids=[7, 8, 9])
    return replace(made, ages_s=np.array([0.1, 0.2, 0.3], np.float32), zones=[("door",), (), ("lawn", "door")])


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, [7, 8, 9]),
        ({"labels": ["cat", "dog"]}, [8, 9]),
        ({"labels": ["person"], "min_score": 0.95}, []),
        ({"min_score": 0.6}, [7, 8]),
        ({"zones": ["lawn", "gate"]}, [9]),
        ({"min_area": 2000.0}, [7, 9]),
        ({"min_area": 0.2}, [7]),
        ({"zones": ["door"], "labels": ["dog"], "min_area": 0.1}, [9]),
    ],
)
def test_wanted_detections_remain_with_all_that_is_known_of_them(
    result: FrameResult, wanted: dict[str, Any], ids: list[int]
) -> None:
    rest = sink_filter(**wanted).rest_of(result)
    assert rest.detections.tracker_id is not None
    assert rest.ages_s is not None
    rows = [number - 7 for number in ids]
    assert rest.detections.tracker_id.tolist() == ids
    assert rest.detections.class_id.tolist() == rows
    assert rest.detections.xyxy.tolist() == [list(BOXES[row]) for row in rows]
    assert rest.ages_s.tolist() == pytest.approx([0.1 * (row + 1) for row in rows])
    assert list(rest.zones) == [result.zones[row] for row in rows]
    assert len(result.detections) == 3


def test_detections_that_are_not_followed_are_filtered_and_are_in_no_zone(make_result: MakeResult) -> None:
    result = make_result(BOXES, class_ids=[0, 1, 2])
    assert sink_filter(labels=["cat"]).rest_of(result).detections.class_id.tolist() == [1]
    assert len(sink_filter(zones=["door"]).rest_of(result).detections) == 0


def test_results_of_other_cameras_do_not_go(result: FrameResult) -> None:
    wanted = sink_filter(cameras=["front"])
    assert not wanted.takes_result(result)
    assert wanted.takes_result(replace(result, camera="front"))


def test_inferences_go_evenly_and_each_once(result: FrameResult) -> None:
    now_s = [0.0]
    wanted = sink_filter(lambda: now_s[0], max_per_s=2.0)
    gone = []
    for step in range(30):  # ten pictures and five inferences a second
        now_s[0] = step / 10 + 1e-6
        if wanted.takes_result(replace(result, detected_at=float(step // 2))):
            gone.append(step)
    assert gone == [0, 5, 10, 15, 20, 25]
    now_s[0] = 100.0
    assert not wanted.takes_result(replace(result, detected_at=12.0))  # told at step 25
    assert wanted.takes_result(replace(result, detected_at=12.0, camera="other"))


@pytest.mark.parametrize(
    ("wanted", "yes", "no"),
    [
        ({"labels": ["cat"]}, {"label": "cat"}, {}),
        ({"cameras": ["back"]}, {"camera": "back"}, {}),
        ({"zones": ["door", "gate"]}, {"entered_zones": ("lawn", "gate")}, {"entered_zones": ("lawn",)}),
        ({"min_score": 0.8}, {"top_score": 0.8}, {"top_score": 0.79}),
        ({"min_area": 3000.0}, {"box": (0.0, 0.0, 60.0, 50.0)}, {"box": (0.0, 0.0, 60.0, 49.0)}),
        ({"min_area": 0.1}, {"box_norm": (0.0, 0.0, 0.5, 0.21)}, {"box_norm": (0.0, 0.0, 0.5, 0.19)}),
    ],
)
def test_events_of_wanted_objects_go(
    make_object: MakeObject, wanted: dict[str, Any], yes: dict[str, Any], no: dict[str, Any]
) -> None:
    for fields, goes in ((yes, True), (no, False)):
        seen = make_object(**fields)
        assert sink_filter(**wanted).takes_event(Event("new", seen)) is goes
        assert sink_filter(**wanted).takes_event(Alert("rule", 1.0, seen)) is goes


class Gathering:
    """An `EventPublisher` that keeps the kind of each event and the id of its object."""

    name = "gathering"

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []

    def publish_event(self, event: Event | Alert) -> None:
        self.got.append(("alert" if isinstance(event, Alert) else event.kind, event.object.id))

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture
def tell(make_object: MakeObject) -> Callable[..., None]:
    """Return a function that tells a publisher of an object."""

    def tell(to: Any, kind: Any, object_id: str = "o1", **fields: Any) -> None:
        seen = make_object(object_id, ended=kind == "end", **fields)
        to.publish_event(Alert("rule", 1.0, seen) if kind == "alert" else Event(kind, seen))

    return tell


def test_object_that_becomes_wanted_later_begins_then(tell: Callable[..., None]) -> None:
    sink = Gathering()
    through = filtered(sink, SinkFilterConfig(min_score=0.8), LABELS)
    for kind, score in (("new", 0.5), ("update", 0.7), ("update", 0.9), ("update", 0.9), ("end", 0.9)):
        tell(through, kind, top_score=score)
    assert sink.got == [("new", "o1"), ("update", "o1"), ("end", "o1")]


def test_only_an_object_that_has_begun_ends_and_however_it_is_then(tell: Callable[..., None]) -> None:
    sink = Gathering()
    through = filtered(sink, SinkFilterConfig(min_score=0.8), LABELS)
    tell(through, "new", "weak", top_score=0.5)
    tell(through, "end", "weak", top_score=0.9)
    tell(through, "new", "strong", top_score=0.9)
    tell(through, "end", "strong", top_score=0.1)
    tell(through, "end", "strong", top_score=0.9)
    assert sink.got == [("new", "strong"), ("end", "strong")]


def test_rate_makes_no_story_without_its_beginning(tell: Callable[..., None]) -> None:
    sink, now_s = Gathering(), [0.0]
    through = filtered(sink, SinkFilterConfig(max_per_s=2.0), LABELS)
    through._filter._clock = lambda: now_s[0]
    for number in range(4):
        tell(through, "new", f"o{number}")
    now_s[0] = 0.5
    for number in (3, 2):
        tell(through, "update", f"o{number}")
    for number in range(4):
        tell(through, "end", f"o{number}")
    assert sink.got[:3] == [("new", "o0"), ("new", "o1"), ("new", "o3")]
    assert sink.got[3:] == [("end", "o0"), ("end", "o1"), ("end", "o3")]


def test_kinds_that_do_not_go_take_nothing_of_the_rate(tell: Callable[..., None]) -> None:
    sink, now_s = Gathering(), [0.0]
    through = filtered(sink, WebhookConfig(url="http://host/", kinds=["alert"], max_per_s=1 / 60), LABELS)
    through._filter._clock = lambda: now_s[0]
    for second in range(600):
        now_s[0] = float(second)
        if second % 10 == 0:
            tell(through, "update" if second else "new")
        if second % 120 == 5:
            tell(through, "alert")
    assert sink.got == [("alert", "o1")] * 5


def test_many_who_stay_take_no_alerts_away(tell: Callable[..., None]) -> None:
    sink, now_s = Gathering(), [0.0]
    through = filtered(sink, SinkFilterConfig(max_per_s=1.0), LABELS)
    through._filter._clock = lambda: now_s[0]
    for second in range(120):
        for number in range(15):
            now_s[0] = second + number / 15
            tell(through, "update", f"o{number}")
        if second % 12 == 0:
            tell(through, "alert")
    assert sink.got.count(("alert", "o1")) == 10


def test_end_is_told_also_where_beginnings_are_not_wanted(tell: Callable[..., None]) -> None:
    sink = Gathering()
    through = filtered(sink, WebhookConfig(url="http://host/", kinds=["end"], labels=["cat"]), LABELS)
    for object_id, label in (("o1", "cat"), ("o2", "dog")):
        for kind in ("new", "update", "end"):
            tell(through, kind, object_id, label=label)
    assert sink.got == [("end", "o1")]


def test_memory_of_what_has_begun_is_bounded(tell: Callable[..., None]) -> None:
    sink = Gathering()
    through = filtered(sink, SinkFilterConfig(min_score=0.1), LABELS)
    for number in range(1500):
        tell(through, "new", f"o{number}")
    assert len(through._told["front"]) == 1000
    tell(through, "end", "o1499")
    assert sink.got[-1] == ("end", "o1499")


def test_rate_is_met_on_average_and_bursts_are_bounded() -> None:
    rate = Rate(20.0)
    assert sum(rate.take(step / 30) for step in range(300)) == pytest.approx(200, abs=2)
    burst = Rate(5.0, burst=5)
    assert [burst.take(100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [burst.take(100.21), burst.take(100.22)] == [True, False]
    assert [burst.take(200.0) for _ in range(7)] == [True] * 5 + [False] * 2


def test_publisher_gets_what_is_wanted_and_itself_if_that_is_all(result: FrameResult, make_object: MakeObject) -> None:
    got: list[Any] = []

    class Sink:
        name = "sink"
        uses_image = False
        closed = threading.Event()

        def write(self, result: FrameResult) -> None:
            got.append(result.detections.class_id.tolist())

        def finish(self, complete: bool) -> None:
            self.closed.set()

    publisher = QueuedPublisher(Sink())
    assert filtered(publisher, UdpConfig(address="host:1"), LABELS) is publisher
    through = filtered(publisher, UdpConfig(labels=["dog"], cameras=["camera"]), LABELS)
    assert through.name == "sink"
    through.publish(result)
    through.publish(replace(result, camera="other"))
    through.close()
    assert got == [[2]]
    assert Sink.closed.is_set()
