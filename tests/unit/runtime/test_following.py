from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.config import FeedConfig
from edge_detector.detector import Detector
from edge_detector.errors import PublishError, SourceError
from edge_detector.events import Alert, Event
from edge_detector.frame import Frame, FrameResult
from edge_detector.object_config import (
    LineConfig,
    MotionConfig,
    ObjectsConfig,
    RegionsConfig,
    RuleConfig,
    TrackingConfig,
    ZoneConfig,
)
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.event_lines import open_event_lines
from edge_detector.publishers.event_store import open_event_store
from edge_detector.publishers.jsonl import open_jsonl
from edge_detector.publishers.schema import to_json
from edge_detector.runtime.feed import Feed, Search
from edge_detector.runtime.pipeline import LivePipeline, RecordedPipeline
from edge_detector.sources import SourceHealth
from edge_detector.sources.synthetic import SyntheticSource
from edge_detector.tracking.follower import Follower, FollowerOptions

LABELS = ("red", "green", "blue")
SIZE_WH = (320, 240)
MakeDetector = Callable[..., Detector]


class Collector:
    """Keeps results and events."""

    name = "collector"

    def __init__(self) -> None:
        self.results: list[FrameResult] = []
        self.events: list[Event | Alert] = []

    def publish(self, result: FrameResult) -> None:
        self.results.append(result)

    def publish_event(self, event: Event | Alert) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.events if isinstance(event, Event) and event.kind == kind]


class Failing(Collector):
    name = "failing"

    def publish_event(self, event: Event | Alert) -> None:
        raise PublishError("disk full")


class SlowScene:
    """A bright and a dark square that go to and fro, at the same speed, over a ground with some texture."""

    ground = np.random.default_rng(2).integers(80, 112, (SIZE_WH[1], SIZE_WH[0], 1), np.uint8).repeat(3, axis=2)
    colors = np.array([(240, 90, 90), (20, 20, 130)], np.uint8)  # red and blue

    def boxes(self, frame_id: int) -> npt.NDArray[np.int64]:
        way = 2.0 * frame_id
        x = np.rint([20 + way % 480, 220 - way % 480]).astype(np.int64)
        x = np.abs((x - 20) % 480 - 240) + 20
        y = np.array([40, 140])
        return np.stack([x, y, x + 60, y + 70], axis=1)

    def draw(self, frame_id: int) -> npt.NDArray[np.uint8]:
        image = self.ground.copy()
        for (x1, y1, x2, y2), color in zip(self.boxes(frame_id), self.colors, strict=True):
            image[y1:y2, x1:x2] = color
        return image


CLASS_IDS = (0, 2)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


def follow(rules: dict[str, RuleConfig] | None = None, **blocks: Any) -> Follower:
    parts = {
        "tracking": TrackingConfig(),
        "objects": ObjectsConfig(),
        "zones": {},
        "lines": {},
        "motion": MotionConfig(),
        "regions": RegionsConfig(),
    }
    options = FollowerOptions(labels=LABELS, threshold=0.5, canvas_wh=(160, 120), rules=rules)
    return Follower("yard", FeedConfig(**(parts | blocks)), options)


def scene_file(frames: int = 60, fps: float = 20.0) -> SyntheticSource:
    return SyntheticSource(fps=fps, frames=frames, scene=SlowScene())


def camera(fps: float = 40.0) -> SyntheticSource:
    return SyntheticSource(fps=fps, scene=SlowScene())


def run_file(detector: Detector, follower: Follower | None = None, **settings: Any) -> tuple[Collector, Feed]:
    source, out = settings.pop("source", None) or scene_file(), Collector()
    feed = Feed("yard", source, [out], follower=follower or follow(), event_publishers=[out], **settings)
    RecordedPipeline(feed, detector, threading.Event()).run()
    return out, feed


def overlap(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    areas = [float(np.prod(box[2:] - box[:2])) for box in (one, other)]
    return shared / (sum(areas) - shared)


def overlaps(result: FrameResult) -> list[float]:
    """Return how far each object of the scene overlaps the box that is shown of it, 0 without one."""
    truth = SlowScene().boxes(result.frame.frame_id)
    found = []
    for box, class_id in zip(truth, CLASS_IDS, strict=True):
        shown = result.detections.xyxy[result.detections.class_id == class_id]
        found.append(max((overlap(one.astype(float), box.astype(float)) for one in shown), default=0.0))
    return found


def assert_one_story_each(events: list[Event | Alert]) -> None:
    stories: dict[str, list[str]] = {}
    for event in events:
        if isinstance(event, Event):
            stories.setdefault(event.object.id, []).append(event.kind)
    assert stories
    for kinds in stories.values():
        assert (kinds[0], kinds[-1]) == ("new", "end")
        assert set(kinds[1:-1]) <= {"update"}


# Files.


def test_objects_of_a_file_keep_their_ids_and_end_with_it(color_detector: MakeDetector) -> None:
    out, _ = run_file(color_detector())
    assert [event.object.label for event in out.told("new")] == ["red", "blue"]
    ends = [event.object for event in out.told("end")]
    assert [(end.track_id, end.end_reason) for end in ends] == [(1, "camera"), (2, "camera")]
    assert [end.duration_s for end in ends] == pytest.approx([59 / 20] * 2)
    assert_one_story_each(out.events)
    for result in out.results[15:]:
        assert result.detections.tracker_id is not None
        assert sorted(result.detections.tracker_id.tolist()) == [1, 2]
        assert min(overlaps(result)) > 0.85


def test_times_of_a_file_are_those_since_its_beginning(color_detector: MakeDetector) -> None:
    out, _ = run_file(color_detector())
    first = out.told("new")[0].object
    assert (first.start_ts, first.id) == (0.0, "0.000-yard-1")
    assert out.told("end")[0].object.end_ts == pytest.approx(59 / 20)


@pytest.mark.parametrize("every", [2, 5])
def test_file_is_searched_at_the_rate_by_its_own_time_and_boxes_go_on_between(
    color_detector: MakeDetector, every: int
) -> None:
    out, feed = run_file(color_detector(), detect_fps=20 / every)
    searched = [result.frame.frame_id for result in out.results if result.age_s == 0]
    assert feed.stats.inferred == len(searched)
    assert len(searched) == pytest.approx(60 / every, abs=1)
    assert set(np.diff(searched[2:]).tolist()) == {every}
    assert len(out.results) == 60
    for result in out.results[4 * every :]:
        assert min(overlaps(result)) > 0.75
        assert result.ages_s is not None
        assert 0 <= result.ages_s.max() < every / 20


def test_second_search_comes_a_whole_period_after_the_first(color_detector: MakeDetector) -> None:
    out, _ = run_file(color_detector(), detect_fps=4)
    searched = [result.frame.frame_id for result in out.results if result.age_s == 0]
    assert searched[:3] == [0, 5, 10]


def test_boxes_between_searches_are_nearer_to_the_truth_than_those_that_were_found(
    color_detector: MakeDetector,
) -> None:
    followed, _ = run_file(color_detector(), detect_fps=2)
    plain = Collector()
    feed = Feed("yard", scene_file(), [plain], detect_fps=2)
    RecordedPipeline(feed, color_detector(), threading.Event()).run()
    late = [number for number in range(20, 60) if followed.results[number].age_s > 0.25]
    assert late
    for number in late:
        assert np.mean(overlaps(followed.results[number])) > np.mean(overlaps(plain.results[number])) + 0.1


def test_two_runs_on_a_file_write_the_same_bytes(color_detector: MakeDetector, tmp_path: Path) -> None:
    zones = {"left": ZoneConfig(coordinates="0,0,0.5,0,0.5,1,0,1")}
    lines = {"middle": LineConfig(coordinates="0.5,1,0.5,0")}
    rules = {"red": RuleConfig(label="red", zone="left")}
    written = []
    for run in range(2):
        paths = [tmp_path / f"{kind}-{run}.jsonl" for kind in ("results", "events")]
        results = open_jsonl(paths[0], LABELS, "colours", lossless=True)
        events = open_event_lines(paths[1])
        follower = follow(rules, zones=zones, lines=lines)
        feed = Feed("yard", scene_file(200), [results], detect_fps=7, follower=follower, event_publishers=[events])
        RecordedPipeline(feed, color_detector(), threading.Event()).run()
        results.close()
        events.close()
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    assert all(text.count(b"\n") > 5 for text in written[0])
    assert b"middle" in written[0][1]


def test_still_file_is_searched_less_often_and_its_objects_stay(color_detector: MakeDetector) -> None:
    class Standing(SlowScene):
        def boxes(self, frame_id: int) -> npt.NDArray[np.int64]:
            return super().boxes(7)

    source = SyntheticSource(fps=20, frames=600, scene=Standing())
    out, feed = run_file(color_detector(), follow(motion=MotionConfig(floor_s=4.0, hold_s=1.0)), source=source)
    assert feed.stats.inferred + feed.stats.skipped == feed.stats.captured == 600
    status = feed.status()
    assert min(status.fps["process"], status.fps["skipped"]) > 0
    assert sum(status.stages["track"].counts) == sum(status.stages["publish"].counts) == 600
    for stage in ("preprocess", "inference", "postprocess"):
        assert sum(status.stages[stage].counts) == feed.stats.inferred
    assert 7 <= feed.stats.inferred < 100
    assert out.results[-1].still
    assert len(out.told("new")) == len(out.told("end")) == 2
    for result in out.results[40:]:
        assert len(result.detections) == 2


def test_enlarged_searches_find_the_same_objects_in_their_places(color_detector: MakeDetector) -> None:
    source = SyntheticSource(fps=20, frames=60, scene=SlowScene())
    follower = follow(regions=RegionsConfig(enabled=True, whole_every=3))
    out, _ = run_file(color_detector((160, 120)), follower, source=source)
    assert len(out.told("new")) == 2
    assert_one_story_each(out.events)
    assert np.mean([overlaps(result) for result in out.results[20:]]) > 0.8


def test_events_reach_the_store_with_their_snapshots(color_detector: MakeDetector) -> None:
    store, out = open_event_store(), Collector()
    rules = {"red": RuleConfig(label="red")}
    zones = {"all": ZoneConfig(coordinates="0,0,1,0,1,1,0,1")}
    feed = Feed("yard", scene_file(), [out], follower=follow(rules, zones=zones), event_publishers=[store, out])
    RecordedPipeline(feed, color_detector(), threading.Event()).run()
    deadline_s = time.monotonic() + 10
    while len(store.sink.list_events(ended=True)) < 2:
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)
    rows = store.sink.list_events()
    for row, end in zip(sorted(rows, key=lambda row: row["track_id"]), out.told("end"), strict=True):
        assert row == json.loads(json.dumps(end.object.to_json())) | {"has_snapshot": True}
        assert row["entered_zones"] == ["all"]
        jpeg = store.sink.snapshot(row["id"])
        assert jpeg is not None
        assert jpeg.startswith(b"\xff\xd8")
    assert [alert["rule"] for alert in store.sink.list_alerts()] == ["red"]
    store.close()


def test_failing_publisher_of_events_is_counted_and_does_not_stop_the_others(
    color_detector: MakeDetector, caplog: pytest.LogCaptureFixture
) -> None:
    out, failing = Collector(), Failing()
    feed = Feed("yard", scene_file(), [out], follower=follow(), event_publishers=[failing, out])
    stats = RecordedPipeline(feed, color_detector(), threading.Event()).run()
    assert len(out.results) == 60
    assert_one_story_each(out.events)
    assert stats.publish_errors == len(out.events)
    assert caplog.text.count("failing: disk full") == 1


def test_counts_of_lines_and_zones_are_in_the_results(color_detector: MakeDetector) -> None:
    zones = {"all": ZoneConfig(coordinates="0,0,1,0,1,1,0,1")}
    out, _ = run_file(
        color_detector(),
        follow(zones=zones, lines={"middle": LineConfig(coordinates="0.5,1,0.5,0")}),
        source=scene_file(120),
    )
    last = out.results[-1]
    assert last.zones == [("all",), ("all",)]
    counts = last.line_counts["middle"]
    crossings = [crossing for end in out.told("end") for crossing in end.object.crossings]
    assert counts["in"] + counts["out"] == len(crossings) >= 2


def test_without_tracking_all_that_is_found_goes_out(color_detector: MakeDetector) -> None:
    out, _ = run_file(color_detector(), follow(tracking=TrackingConfig(enabled=False)))
    document = json.loads(to_json(out.results[10], LABELS, "colors"))
    assert [found["label"] for found in document["detections"]] == ["red", "blue"]
    assert "track_id" not in document["detections"][0]
    assert OverlayRenderer(LABELS).draw(out.results[10]).shape == out.results[10].frame.image.shape


def test_source_that_fails_ends_objects(color_detector: MakeDetector) -> None:
    class Broken(SyntheticSource):
        def read(self, timeout_s: float) -> Frame | None:
            frame = super().read(timeout_s)
            if frame is not None and frame.frame_id == 30:
                raise SourceError("the card was pulled out")
            return frame

    out = Collector()
    feed = Feed("yard", Broken(fps=20, frames=60, scene=SlowScene()), follower=follow())
    feed.add_events(out)
    with pytest.raises(SourceError):
        RecordedPipeline(feed, color_detector(), threading.Event()).run()
    assert [end.object.end_reason for end in out.told("end")] == ["camera", "camera"]
    assert_one_story_each(out.events)


def test_file_that_is_not_read_to_its_end_ends_objects_as_a_shutdown(color_detector: MakeDetector) -> None:
    out, stop = Collector(), threading.Event()
    feed = Feed("yard", scene_file(), [out], follower=follow())
    feed.add_events(out)
    pipeline = RecordedPipeline(feed, color_detector(), stop, lambda done, total: stop.set() if done == 30 else None)
    pipeline.run()
    assert [end.object.end_reason for end in out.told("end")] == ["shutdown", "shutdown"]


# Cameras.


class Clock:
    """A live source of pictures of `SlowScene` at the times that it is told."""

    live, fps, frame_total, name, health = True, None, None, "clock", SourceHealth()

    def __init__(self) -> None:
        self.frame_id = 0
        self.next_s = 0.0

    def read(self, timeout_s: float) -> Frame | None:
        self.frame_id += 1
        return Frame(SlowScene().draw(self.frame_id), self.frame_id, self.next_s, 1e9 + self.next_s, self.name)

    def close(self) -> None:
        pass


class Stepped:
    """A feed whose pictures, inferences and times are at the hands of the test."""

    def __init__(self, detector: Detector, **settings: Any) -> None:
        self.clock, self.out, self.detector = Clock(), Collector(), detector
        self.feed = Feed("yard", self.clock, follower=follow(**settings.pop("blocks", {})), **settings)
        self.feed.add_events(self.out)

    def picture(self, at_s: float) -> Frame:
        self.clock.next_s = at_s
        frame = self.feed.read(0.0)
        assert frame is not None
        self.feed.look(frame)
        return frame

    def search(self, frame: Frame) -> None:
        self.feed.hand_over(self.feed.detect(self.detector, Search(frame)))

    def reasons(self) -> list[str | None]:
        return [end.object.end_reason for end in self.out.told("end")]


def test_result_of_before_an_outage_is_of_no_use_after_it(color_detector: MakeDetector) -> None:
    steps = Stepped(color_detector(), max_age_s=5.0, blocks={"max_age_s": 5.0})
    now_s = time.monotonic() - 100
    for number in range(20):
        frame = steps.picture(now_s + number / 20)
        steps.search(frame)
    steps.feed.wait()  # no picture for longer than max_age_s
    assert steps.reasons() == ["camera", "camera"]
    steps.search(frame)
    steps.feed.wait()
    for number in range(20):
        steps.search(steps.picture(now_s + 60 + number / 20))
    news = [new.object for new in steps.out.told("new")]
    assert len(news) == 4
    assert all(new.start_ts >= 1e9 + now_s + 60 for new in news[2:])


def test_result_of_before_a_pause_is_of_no_use_after_it(color_detector: MakeDetector) -> None:
    steps = Stepped(color_detector())
    frame = steps.picture(0.0)
    steps.feed.detecting = False
    steps.picture(0.05)
    steps.feed.detecting = True
    steps.search(frame)
    for number in range(20):
        steps.search(steps.picture(0.1 + number / 20))
    assert all(new.object.start_ts >= 1e9 + 0.1 for new in steps.out.told("new"))
    assert len(steps.out.told("new")) == 2


def test_inference_that_gives_no_results_any_more_ends_objects(color_detector: MakeDetector) -> None:
    steps = Stepped(color_detector(), max_age_s=3.0, blocks={"max_age_s": 3.0})
    for number in range(20):
        steps.search(steps.picture(number / 20))
    for number in range(20, 140):
        steps.picture(number / 20)
    assert steps.reasons() == []
    for number in range(140, 300):
        steps.picture(number / 20)
    assert steps.reasons() == ["inference", "inference"]


def test_result_that_comes_later_than_is_allowed_is_not_used(color_detector: MakeDetector) -> None:
    steps = Stepped(color_detector(), max_age_s=3.0, blocks={"max_age_s": 3.0})
    first = [steps.picture(number / 20) for number in range(20)]
    steps.picture(4.5)
    for frame in first:
        steps.search(frame)
    steps.picture(4.6)
    assert steps.out.events == []


def test_rare_searches_end_no_objects(color_detector: MakeDetector) -> None:
    blocks = {"max_age_s": 3.0, "tracking": TrackingConfig(lost_s=60.0)}
    steps = Stepped(color_detector(), max_age_s=3.0, detect_fps=0.1, blocks=blocks)

    for number in range(800):
        frame = steps.picture(number / 20)
        if number % 200 < 10:
            steps.search(frame)
    assert len(steps.out.told("new")) == 2
    assert "inference" not in steps.reasons()


def test_enlarged_searches_take_turns_while_another_is_under_way(color_detector: MakeDetector) -> None:
    settings = RegionsConfig(enabled=True, whole_every=100)
    steps = Stepped(color_detector((160, 120)), blocks={"regions": settings})
    regions = []
    for number in range(40):
        search = steps.feed.search(steps.picture(number / 20))
        if search is not None:
            steps.feed.offer(search)
            taken = steps.feed.take(number / 20)
            steps.feed.hand_over(steps.feed.detect(steps.detector, taken))
            regions.append(taken.region)
    upper = [region[1] + region[3] < 250 for region in regions[20:] if region is not None]
    assert len(upper) >= 15
    assert all(one != other for one, other in pairwise(upper))


def test_shutdown_ends_objects(color_detector: MakeDetector) -> None:
    out = Collector()
    feed = Feed("yard", camera(), [out], follower=follow(), event_publishers=[out])
    LivePipeline([feed], color_detector(), threading.Event()).run(duration_s=1.5)
    assert len(out.told("new")) == 2
    assert {event.object.end_reason for event in out.told("end")} == {"shutdown"}
    assert_one_story_each(out.events)


def test_slow_inference_shows_boxes_where_objects_are_now(color_detector: MakeDetector) -> None:
    out = Collector()
    feed = Feed("yard", camera(30), [out], follower=follow(), event_publishers=[out])
    LivePipeline([feed], color_detector(delay_s=0.3), threading.Event()).run(duration_s=4)
    assert feed.stats.inferred < 0.3 * feed.stats.captured
    late = [result for result in out.results if result.frame.frame_id > 60 and len(result.detections)]
    assert len(late) > 20
    assert np.median([np.mean(overlaps(result)) for result in late]) > 0.6
    assert len(out.told("new")) == 2


def test_pause_ends_objects_and_those_after_it_are_new(color_detector: MakeDetector) -> None:
    out = Collector()
    feed = Feed("yard", camera(), [out], follower=follow(), event_publishers=[out])
    pipeline = LivePipeline([feed], color_detector(), threading.Event())
    timers = [
        threading.Timer(delay_s, pipeline.set_detecting, ("yard", on)) for delay_s, on in ((1.0, False), (1.6, True))
    ]
    for timer in timers:
        timer.start()
    pipeline.run(duration_s=3.0)
    for timer in timers:
        timer.join()
    reasons = [event.object.end_reason for event in out.told("end")]
    assert reasons == ["paused", "paused", "shutdown", "shutdown"]
    assert len({event.object.id for event in out.told("new")}) == 4
    assert_one_story_each(out.events)


def test_camera_that_falls_silent_ends_objects_after_the_age_that_is_allowed(color_detector: MakeDetector) -> None:
    class Silent(SyntheticSource):
        """Gives 40 pictures, and no more."""

        given = 0

        def read(self, timeout_s: float) -> Frame | None:
            if self.given >= 40:
                time.sleep(min(timeout_s, 0.02))
                return None
            frame = super().read(timeout_s)
            self.given += frame is not None
            return frame

    out = Collector()
    source = Silent(fps=40, scene=SlowScene())
    feed = Feed("yard", source, [out], follower=follow(max_age_s=0.8), max_age_s=0.8, event_publishers=[out])
    ended_s: list[float] = []
    stop = threading.Event()

    class Noting(Collector):
        def publish_event(self, event: Event | Alert) -> None:
            if isinstance(event, Event) and event.kind == "end":
                ended_s.append(time.monotonic())
                if len(ended_s) == 2:
                    stop.set()

    feed.add_events(Noting())
    LivePipeline([feed], color_detector(), stop).run(duration_s=60)
    assert [event.object.end_reason for event in out.told("end")] == ["camera", "camera"]
    assert_one_story_each(out.events)
    assert min(ended_s) - out.results[-1].frame.captured_at >= 0.8


def test_two_cameras_have_objects_of_their_own(color_detector: MakeDetector) -> None:
    outs = [Collector(), Collector()]
    feeds = [
        Feed(name, camera(), [out], follower=follow(), event_publishers=[out])
        for name, out in zip("ab", outs, strict=True)
    ]
    LivePipeline(feeds, color_detector(), threading.Event()).run(duration_s=2)
    for out in outs:
        assert [event.object.track_id for event in out.told("new")] == [1, 2]
        assert_one_story_each(out.events)
