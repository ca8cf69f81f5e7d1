from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_detector.config import FeedConfig
from edge_detector.detections import Detections
from edge_detector.errors import ConfigError
from edge_detector.events import Alert, Event
from edge_detector.frame import Frame
from edge_detector.object_config import (
    FilterConfig,
    LineConfig,
    MotionConfig,
    ObjectsConfig,
    RegionsConfig,
    RuleConfig,
    TrackingConfig,
    ZoneConfig,
)
from edge_detector.tracking.follower import Follower, FollowerOptions
from edge_detector.tracking.regions import Region

Floats = npt.NDArray[np.float64]
FPS = 10.0
SIZE_WH = (640, 480)
COLORS = [(240, 110, 110), (30, 200, 40), (20, 30, 120)]  # brighter and darker than the ground
AS_BRIGHT_AS_THE_GROUND = (220, 50, 50)
LEFT_HALF = "0,0,0.5,0,0.5,1,0,1"
RNG = np.random.default_rng(1)
GROUND = np.clip(RNG.normal(100, 12, (480, 640, 1)).repeat(3, axis=2), 0, 255).astype(np.uint8)


def config(**blocks: Any) -> FeedConfig:
    parts = {
        "tracking": TrackingConfig(),
        "objects": ObjectsConfig(),
        "zones": {},
        "lines": {},
        "motion": MotionConfig(),
        "regions": RegionsConfig(),
    }
    return FeedConfig(**(parts | blocks))


def follow(rules: dict[str, RuleConfig] | None = None, **blocks: Any) -> Follower:
    options = FollowerOptions(labels=("red", "green", "blue"), threshold=0.5, rules=rules, update_s=2.0)
    return Follower("yard", config(**blocks), options)


def frame(
    boxes: Sequence[Sequence[float]],
    at_s: float,
    size_wh: tuple[int, int] = SIZE_WH,
    wall_s: float = 0,
    colors: Sequence[tuple[int, int, int]] = COLORS,
) -> Frame:
    """Draw squares, of one colour each and in fractions of the picture, on a ground that does not change."""
    width, height = size_wh
    image = GROUND[:: 480 // height, :: 640 // width].copy()
    for box, color in zip(boxes, colors, strict=False):
        x1, y1, x2, y2 = np.rint(np.clip(box, 0, 1) * np.tile(size_wh, 2)).astype(int).tolist()
        image[y1:y2, x1:x2] = color
    return Frame(image, round(at_s * FPS), at_s, 1.7e9 + at_s + wall_s, "test://")


def found(boxes: Sequence[Sequence[float]], size_wh: tuple[int, int] = SIZE_WH, score: float = 0.9) -> Detections:
    """Return what a model without fault finds of such squares: the first is red, the second green."""
    pixels = np.array(boxes, np.float64).reshape(-1, 4) * np.tile(size_wh, 2)
    count = len(pixels)
    return Detections(pixels.astype(np.float32), np.full(count, score, np.float32), np.arange(count, dtype=np.int64))


def square(x: float, y: float = 0.5, side: float = 0.15) -> list[float]:
    """Return a box whose middle is there."""
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


@dataclass
class Watch:
    """Lets a follower see squares, and keeps what it tells."""

    follower: Follower
    events: list[Event | Alert] = field(default_factory=list)
    objects: list[Detections] = field(default_factory=list)
    wall_s: float = 0.0

    def see(self, boxes: Sequence[Sequence[float]], at_s: float, size_wh: tuple[int, int] = SIZE_WH) -> Detections:
        """Look at a picture and search it at once; return the objects there."""
        taken = frame(boxes, at_s, size_wh, self.wall_s)
        self.follower.look(taken)
        self.follower.found(found(boxes, size_wh), taken)
        self.collect()
        self.objects.append(self.follower.objects(size_wh)[0])
        return self.objects[-1]

    def lead(
        self, boxes_at: Callable[[float], Sequence[Sequence[float]]], seconds: float, start_s: float = 0.0
    ) -> None:
        for number in range(round(seconds * FPS)):
            at_s = start_s + number / FPS
            self.see(boxes_at(at_s), at_s)

    def collect(self) -> None:
        self.events += self.follower.take_events()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events if isinstance(event, Event)]

    def last(self) -> Event:
        return [event for event in self.events if isinstance(event, Event)][-1]


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / sum([(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)], -shared)


def ids(objects: Detections) -> list[int]:
    return [] if objects.tracker_id is None else objects.tracker_id.tolist()


# Objects.


def test_objects_come_with_id_place_age_and_zone() -> None:
    watch = Watch(follow(zones={"left": ZoneConfig(coordinates=LEFT_HALF)}))
    watch.lead(lambda at_s: [square(0.25), square(0.75)], 2)
    watch.follower.look(frame([square(0.25), square(0.75)], 2.5))
    objects, ages_s, zones = watch.follower.objects((320, 240))
    assert ids(objects) == [1, 2]
    assert objects.class_id.tolist() == [0, 1]
    assert objects.confidence.tolist() == pytest.approx([0.9, 0.9])
    expected = np.array([square(0.25), square(0.75)]) * [320, 240, 320, 240]
    np.testing.assert_allclose(objects.xyxy, expected, atol=3)
    assert ages_s.tolist() == pytest.approx([0.6, 0.6])
    assert zones == [("left",), ()]


def test_boxes_are_cut_at_the_picture() -> None:
    watch = Watch(follow())
    watch.lead(lambda at_s: [square(0.04)], 1)
    assert len(watch.objects[-1]) == 1
    assert watch.objects[-1].xyxy.min() >= 0


def test_without_tracking_boxes_are_those_of_the_model_in_the_asked_size() -> None:
    watch = Watch(follow(tracking=TrackingConfig(enabled=False)))
    objects = watch.see([square(0.25), square(0.75)], 0.0)
    assert objects.tracker_id is None
    np.testing.assert_allclose(objects.xyxy, found([square(0.25), square(0.75)]).xyxy)
    half = watch.follower.objects((320, 240))[0]
    np.testing.assert_allclose(half.xyxy, found([square(0.25), square(0.75)]).xyxy / 2, rtol=1e-5)
    assert watch.kinds() == []
    watch.follower.end("paused")
    assert len(watch.follower.objects(SIZE_WH)[0]) == 0


def test_without_tracking_filters_hold_all_the_same() -> None:
    watch = Watch(follow(tracking=TrackingConfig(enabled=False), objects=ObjectsConfig(track=["green"])))
    assert watch.see([square(0.25), square(0.75)], 0.0).class_id.tolist() == [1]


def test_filters_are_for_what_was_found_and_hold_in_pixels_of_the_first_picture() -> None:
    large = ObjectsConfig(filters={"red": FilterConfig(min_area=8000)})  # in 640x480; in 320x240 it would be 2000
    watch = Watch(follow(objects=large))
    watch.lead(lambda at_s: [square(0.3, side=0.25), square(0.75)], 1)
    assert ids(watch.objects[-1]) == [1, 2]
    for number in range(5):
        watch.see([square(0.3, side=0.25), square(0.75)], 1 + number / FPS, (320, 240))
    assert ids(watch.objects[-1]) == [1, 2]
    assert watch.follower.objects((320, 240))[0].class_id.tolist() == [0, 1]
    small = Watch(follow(objects=large))
    small.lead(lambda at_s: [square(0.3, side=0.1)], 1)
    assert ids(small.objects[-1]) == []


def test_lowest_score_is_the_lowest_that_anything_asks_for() -> None:
    assert follow().lowest_score < 0.5
    assert follow(tracking=TrackingConfig(enabled=False)).lowest_score == 0.5
    objects = ObjectsConfig(filters={"red": FilterConfig(min_score=0.1), "green": FilterConfig(min_score=0.9)})
    assert follow(objects=objects).lowest_score == 0.1


@pytest.mark.parametrize("size_wh", [(320, 240), (640, 480)])
def test_change_of_size_keeps_ids_and_places(size_wh: tuple[int, int]) -> None:
    watch = Watch(follow())
    watch.lead(lambda at_s: [square(0.2 + 0.05 * at_s), square(0.7)], 1.5)
    for number in range(10):
        at_s = 1.5 + number / FPS
        boxes = [square(0.2 + 0.05 * at_s), square(0.7)]
        objects = watch.see(boxes, at_s, size_wh)
        assert ids(objects) == [1, 2]
        np.testing.assert_allclose(objects.xyxy, np.array(boxes) * np.tile(size_wh, 2), atol=0.03 * size_wh[0])
    assert watch.kinds().count("new") == 2
    assert "end" not in watch.kinds()


@pytest.mark.parametrize("size_wh", [(160, 120), (640, 240)])
def test_change_to_a_size_with_another_small_picture_keeps_ids_and_places(size_wh: tuple[int, int]) -> None:
    watch = Watch(follow())
    watch.lead(lambda at_s: [square(0.3), square(0.7)], 1.5)
    watch.follower.look(frame([square(0.3), square(0.7)], 1.5, size_wh))
    objects = watch.follower.objects(size_wh)[0]
    np.testing.assert_allclose(objects.xyxy, found([square(0.3), square(0.7)], size_wh).xyxy, atol=0.02 * size_wh[0])
    assert ids(watch.see([square(0.3), square(0.7)], 1.6, size_wh)) == [1, 2]
    assert watch.kinds().count("new") == 2


def test_absolute_coordinates_outside_the_first_picture_are_an_error_with_the_path() -> None:
    outside = "0,0,700,0,700,400"
    mask = MotionConfig.model_validate({"mask": ["0,0,0.5,0,0.5,0.5", outside]})
    for path, blocks in {
        "zones.door.coordinates": {"zones": {"door": ZoneConfig(coordinates=outside)}},
        "lines.gate.coordinates": {"lines": {"gate": LineConfig(coordinates="0,0,700,400")}},
        "objects.mask": {"objects": ObjectsConfig.model_validate({"mask": [outside]})},
        "motion.mask.1": {"motion": mask},
    }.items():
        with pytest.raises(ConfigError, match=path.replace(".", r"\.")):
            follow(**blocks).look(frame([], 0.0))


def test_settings_are_checked_once_against_the_first_picture() -> None:
    sizes = []
    options = FollowerOptions(("red",), 0.5, on_size=lambda camera, size_wh: sizes.append((camera, size_wh)))
    follower = Follower("yard", config(), options)
    follower.look(frame([], 0.0))
    follower.look(frame([], 0.1, (320, 240)))
    assert sizes == [("yard", SIZE_WH)]


def test_pictures_out_of_order_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    watch, plain = Watch(follow()), Watch(follow())
    for number in range(15):
        boxes = [square(0.2 + 0.01 * number)]
        watch.see(boxes, number / FPS)
        plain.see(boxes, number / FPS)
        assert not watch.follower.look(frame([square(0.9)], number / FPS - 0.05))
        assert not watch.follower.look(frame([square(0.9)], number / FPS))
    assert caplog.text.count("pictures come out of order") == 1
    np.testing.assert_array_equal(watch.objects[-1].xyxy, plain.objects[-1].xyxy)
    assert watch.kinds() == plain.kinds()


# Results that come late.


LATE = 8  # pictures, 0.4 s


def overlaps_when_late(
    follower: Follower, speed_xy: tuple[float, float], colors: Sequence[tuple[int, int, int]] = COLORS
) -> tuple[list[float], list[float]]:
    """Lead a square through the picture, every third picture searched, told of late.

    Returns:
        How far the box that is shown overlaps the square, and how far the box that was found last does.
    """
    fps = 20.0
    frames, truth = list[Frame](), list[list[float]]()
    shown_there, stale = list[float](), list[float]()
    for number in range(44):
        at_s = number / fps
        truth.append(square(0.5 + speed_xy[0] * (at_s - 1.2), 0.5 + speed_xy[1] * (at_s - 1.2)))
        frames.append(frame([truth[-1]], at_s, colors=colors))
        follower.look(frames[-1])
        searched = number - LATE
        if searched >= 0 and searched % 3 == 0:
            follower.found(found([truth[searched]]), frames[searched])
        if number > 24:
            shown = follower.objects(SIZE_WH)[0]
            assert ids(shown) == [1]
            shown_there.append(overlap((shown.xyxy[0] / np.tile(SIZE_WH, 2)).tolist(), truth[-1]))
            stale.append(overlap(truth[searched - searched % 3], truth[-1]))
    return shown_there, stale


@pytest.mark.parametrize("speed_xy", [(0.25, 0.0), (-0.2, 0.15)])
@pytest.mark.parametrize(
    "blocks", [{}, {"tracking": TrackingConfig(flow=False)}, {"motion": MotionConfig(enabled=False)}]
)
def test_results_that_come_late_land_on_the_object(speed_xy: tuple[float, float], blocks: dict[str, Any]) -> None:
    shown, stale = overlaps_when_late(follow(**blocks), speed_xy)
    assert min(shown) > 0.6
    assert max(stale) < 0.4


def test_results_of_a_standing_object_that_come_late_leave_it_where_it_is() -> None:
    assert min(overlaps_when_late(follow(), (0.0, 0.0))[0]) > 0.95


@pytest.mark.parametrize("speed_xy", [(0.25, 0.0), (-0.2, 0.15)])
def test_object_as_bright_as_the_ground_does_not_stay_behind(speed_xy: tuple[float, float]) -> None:
    assert min(overlaps_when_late(follow(), speed_xy, [AS_BRIGHT_AS_THE_GROUND])[0]) > 0.6


def test_object_that_is_found_late_for_the_first_time_is_carried_to_where_it_is() -> None:
    follower = follow(tracking=TrackingConfig(min_hits=1))
    dots = (
        np.random.default_rng(3).integers(0, 255, (72, 96, 3), np.uint8).repeat(6, axis=0).repeat(6, axis=1)[:144, :96]
    )
    frames = []
    for number in range(9):
        x = 100 + 10 * number
        image = frame([], 0.0).image.copy()
        image[150:294, x : x + 96] = dots
        frames.append(Frame(image, number, number / 20, number / 20, "test://"))
        follower.look(frames[-1])
    there = np.array([[100, 150, 196, 294]]) / np.tile(SIZE_WH, 2)
    follower.found(found(there.tolist()), frames[0])
    shown = follower.objects(SIZE_WH)[0].xyxy[0].tolist()
    assert overlap(shown, [180, 150, 276, 294]) > 0.8


def test_box_follows_an_object_that_turns_around_while_nobody_searches() -> None:
    follower, fps = follow(), 20.0
    dots = np.random.default_rng(3).integers(0, 255, (24, 16, 3), np.uint8).repeat(6, axis=0).repeat(6, axis=1)
    for number in range(50):
        x = 60 + 12 * number if number < 25 else 60 + 12 * 25 - 10 * (number - 25)
        image = frame([], 0.0).image
        image[150:294, x : x + 96] = dots
        taken = Frame(image, number, number / fps, number / fps, "test://")
        follower.look(taken)
        truth = [x, 150, x + 96, 294]
        if number < 20:
            follower.found(found([(np.array(truth) / np.tile(SIZE_WH, 2)).tolist()]), taken)
        if number > 10:
            assert overlap(follower.objects(SIZE_WH)[0].xyxy[0].tolist(), truth) > 0.75


def test_late_result_of_a_picture_of_another_size_lands_in_its_place() -> None:
    follower = follow(tracking=TrackingConfig(min_hits=1))
    large = frame([square(0.3)], 0.0)
    follower.look(large)
    follower.look(frame([square(0.3)], 0.1, (320, 240)))
    follower.found(found([square(0.3)]), large)
    np.testing.assert_allclose(follower.objects((320, 240))[0].xyxy[0] / [320, 240, 320, 240], square(0.3), atol=0.02)


# Events.


def test_story_of_one_object() -> None:
    watch = Watch(follow())
    watch.lead(lambda at_s: [square(0.3)], 5)
    watch.lead(lambda at_s: [], 4, 5.0)
    kinds = watch.kinds()
    assert kinds[0] == "new"
    assert kinds[-1] == "end"
    assert set(kinds[1:-1]) == {"update"}
    end = watch.last().object
    assert (end.id.split("-")[1], end.camera, end.track_id, end.label, end.end_reason) == (
        "yard",
        "yard",
        1,
        "red",
        "gone",
    )
    assert end.duration_s == pytest.approx(4.9)
    assert end.end_ts == end.seen_ts == pytest.approx(1.7e9 + 4.9)
    assert end.start_ts == pytest.approx(1.7e9)
    assert end.box_norm == pytest.approx(square(0.3), abs=0.02)
    assert end.box == pytest.approx(np.multiply(end.box_norm, np.tile(SIZE_WH, 2)).tolist())
    assert end.stationary_s == pytest.approx(4.9)
    assert len({event.object.id for event in watch.events}) == 1


def test_objects_that_stay_are_told_of_once_in_a_while() -> None:
    watch = Watch(follow())
    watch.lead(lambda at_s: [square(0.3)], 11)
    assert watch.kinds()[0] == "new"
    assert 4 <= watch.kinds().count("update") <= 6  # every 2 s


def test_zones_are_told_of() -> None:
    watch = Watch(follow(zones={"left": ZoneConfig(coordinates=LEFT_HALF)}))
    watch.lead(lambda at_s: [square(0.8 - 0.15 * at_s)], 5)
    events = [event.object for event in watch.events if isinstance(event, Event)]
    assert events[0].zones == ()
    entered = next(state for state in events if state.zones)
    assert entered.zones == ("left",)
    assert entered.duration_s == pytest.approx(2.3, abs=0.4)  # told at once, not with the next update
    assert watch.last().object.entered_zones == ("left",)
    assert watch.last().object.dwell_s["left"] == pytest.approx(watch.last().object.duration_s - 2.0, abs=0.3)


@pytest.mark.parametrize(("start_x", "speed_x", "direction"), [(0.2, 0.15, "in"), (0.8, -0.15, "out")])
def test_crossing_of_a_line_is_counted(start_x: float, speed_x: float, direction: str) -> None:
    watch = Watch(follow(lines={"gate": LineConfig(coordinates="0.5,1,0.5,0")}))  # up the picture: right of it is "in"
    assert watch.follower.line_counts == {}
    watch.lead(lambda at_s: [square(start_x + speed_x * at_s)], 4)
    counts = {"in": 0, "out": 0, direction: 1}
    assert watch.follower.line_counts == {"gate": counts}
    watch.follower.end("shutdown")
    watch.collect()
    (crossing,) = watch.last().object.crossings
    assert (crossing.line, crossing.direction) == ("gate", direction)
    assert crossing.at_s == pytest.approx(2.0, abs=0.3)
    assert watch.follower.line_counts == {"gate": counts}


def test_crossing_of_what_never_counts_is_not_counted() -> None:
    strict = ObjectsConfig(filters={"red": FilterConfig(threshold=0.95, min_score=0.3)})
    watch = Watch(follow(lines={"gate": LineConfig(coordinates="0.5,1,0.5,0")}, objects=strict))
    for number in range(int(4 * FPS)):
        box = [square(0.2 + 0.15 * number / FPS)]
        taken = frame(box, number / FPS)
        watch.follower.look(taken)
        watch.follower.found(found(box, score=0.96 if number < 2 else 0.5), taken)  # its median stays below
    watch.collect()
    assert watch.kinds() == []
    assert watch.follower.line_counts == {"gate": {"in": 0, "out": 0}}


def test_counts_that_were_handed_out_do_not_change() -> None:
    watch = Watch(follow(lines={"gate": LineConfig(coordinates="0.5,1,0.5,0")}))
    watch.lead(lambda at_s: [square(0.2 + 0.15 * at_s)], 1)
    before = watch.follower.line_counts
    watch.lead(lambda at_s: [square(0.2 + 0.15 * at_s)], 4)
    assert before == {"gate": {"in": 0, "out": 0}}
    assert watch.follower.line_counts != before


def test_rules_give_alerts() -> None:
    rules = {"visit": RuleConfig(label="red", for_s=1.0), "other": RuleConfig(label="blue")}
    watch = Watch(follow(rules))
    watch.lead(lambda at_s: [square(0.3), square(0.7)], 3)
    alerts = [event for event in watch.events if isinstance(event, Alert)]
    assert [(alert.rule, alert.object.label, alert.count) for alert in alerts] == [("visit", "red", 1)]
    assert alerts[0].ts == pytest.approx(1.7e9 + 1.0, abs=0.2)


def test_objects_end_when_nobody_looks_any_more() -> None:
    for reason in ("paused", "shutdown", "camera"):
        watch = Watch(follow())
        watch.lead(lambda at_s: [square(0.3), square(0.7)], 1)
        watch.follower.end(reason)
        watch.follower.end(reason)
        watch.collect()
        ends = [event.object for event in watch.events if isinstance(event, Event) and event.kind == "end"]
        assert [(state.track_id, state.end_reason) for state in ends] == [(1, reason), (2, reason)]
        assert len(watch.follower.objects(SIZE_WH)[0]) == 0


def test_nothing_at_all_has_happened_before_the_first_picture() -> None:
    follower = follow()
    follower.end("shutdown")
    assert follower.take_events() == []
    objects, ages_s, zones = follower.objects(SIZE_WH)
    assert (len(objects), ages_s, zones) == (0, None, [])
    assert follower.wants_search()


def test_region_before_the_first_picture_is_the_whole() -> None:
    assert follow().propose_region(SIZE_WH) is None


way = st.lists(
    st.tuples(
        st.sets(st.integers(0, 2), max_size=3),
        st.sampled_from(["search", "search", "search", "look", "pause", "end", "jump"]),
        st.floats(0.05, 2.5),
    ),
    max_size=40,
)
PLACES = [square(0.2, side=0.2), square(0.5, side=0.2), square(0.8, side=0.2)]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(way)
def test_every_object_has_one_new_and_one_end_whatever_happens(way: list[tuple[set[int], str, float]]) -> None:
    watch, at_s = Watch(follow(max_age_s=2.0)), 0.0
    for present, action, dt_s in way:
        at_s += dt_s
        boxes = [PLACES[number] for number in sorted(present)]
        taken = frame(boxes, at_s, (160, 120), watch.wall_s)
        detections = replace(found(boxes, (160, 120)), class_id=np.array(sorted(present), np.int64))
        if action in ("search", "look"):
            watch.follower.look(taken)
        if action == "search":
            watch.follower.found(detections, taken)
        elif action in ("pause", "end"):
            watch.follower.end("paused" if action == "pause" else "camera")
        elif action == "jump":
            watch.wall_s += 86400 if dt_s > 1 else -86400
        watch.collect()
    watch.follower.end("shutdown")
    watch.collect()
    stories: dict[str, list[str]] = {}
    for event in watch.events:
        assert isinstance(event, Event)
        stories.setdefault(event.object.id, []).append(event.kind)
        assert event.object.duration_s >= 0
        assert (event.object.end_reason is not None) == (event.kind == "end") == (event.object.end_ts is not None)
    for kinds in stories.values():
        assert kinds[0] == "new"
        assert kinds[-1] == "end"
        assert set(kinds[1:-1]) <= {"update"}


@pytest.mark.parametrize("jump_s", [86400.0, -86400.0])
def test_wall_clock_that_is_set_changes_no_duration_and_no_story(jump_s: float) -> None:
    def story(jump_s: float) -> Watch:
        watch = Watch(follow(zones={"left": ZoneConfig(coordinates=LEFT_HALF)}))
        watch.lead(lambda at_s: [square(0.3)], 2)
        watch.wall_s = jump_s
        watch.lead(lambda at_s: [square(0.3)], 3, 2.0)
        watch.lead(lambda at_s: [], 3, 5.0)
        return watch

    plain, jumped = story(0.0), story(jump_s)
    assert jumped.kinds() == plain.kinds()
    one, other = plain.last().object, jumped.last().object
    assert (other.duration_s, other.stationary_s, other.dwell_s, other.path) == (
        one.duration_s,
        one.stationary_s,
        one.dwell_s,
        one.path,
    )
    assert len({event.object.id for event in jumped.events}) == 1
    assert other.seen_ts == pytest.approx(one.seen_ts + jump_s)


# When and where to search.


def test_moving_scene_is_always_searched_and_a_still_one_only_once_in_a_while() -> None:
    follower = follow(motion=MotionConfig(floor_s=3.0, hold_s=1.0))
    wanted = []
    for number in range(int(20 * FPS)):
        at_s = number / FPS
        follower.look(frame([square(0.2 * at_s)] if at_s < 4 else [], at_s))
        wanted.append(follower.wants_search())
    assert all(wanted[: int(4 * FPS)])
    still = wanted[int(10 * FPS) :]
    assert 2 <= still.count(True) <= 5


def test_still_scene_is_searched_twice_in_the_age_that_is_allowed() -> None:
    follower = follow(motion=MotionConfig(floor_s=60.0, hold_s=0.5), max_age_s=3.0)
    wanted_s = []
    for number in range(int(20 * FPS)):
        follower.look(frame([], number / FPS))
        if follower.wants_search():
            wanted_s.append(number / FPS)
    np.testing.assert_allclose(np.diff([at_s for at_s in wanted_s if at_s > 2]), 1.5, atol=0.11)


def test_still_empty_scene_is_searched_by_the_floor_alone() -> None:
    follower = follow(motion=MotionConfig(floor_s=5.0, hold_s=1.0))
    wanted_s = []
    for number in range(int(30 * FPS)):
        follower.look(frame([], number / FPS))
        if follower.wants_search():
            wanted_s.append(number / FPS)
    later = [at_s for at_s in wanted_s if at_s > 2]
    assert len(later) >= 5
    np.testing.assert_allclose(np.diff(later), 5.0, atol=0.11)
    assert follower.still


def test_without_the_gate_every_picture_is_searched() -> None:
    follower = follow(motion=MotionConfig(enabled=False))
    for number in range(50):
        follower.look(frame([], number / FPS))
        assert follower.wants_search()
        assert not follower.still


def test_object_that_stands_still_is_not_ended_by_the_gate() -> None:
    watch = Watch(follow(motion=MotionConfig(floor_s=5.0, hold_s=0.5)))
    searched = 0
    for number in range(int(60 * FPS)):
        taken = frame([square(0.4)], number / FPS)
        watch.follower.look(taken)
        if watch.follower.wants_search():
            searched += 1
            watch.follower.found(found([square(0.4)]), taken)
        watch.collect()
        if number > 10:
            assert ids(watch.follower.objects(SIZE_WH)[0]) == [1]
    assert searched < 60
    assert watch.kinds().count("new") == 1
    assert "end" not in watch.kinds()
    np.testing.assert_allclose(watch.follower.objects(SIZE_WH)[0].xyxy[0], found([square(0.4)]).xyxy[0], atol=3)


def test_object_that_was_found_once_is_looked_for_again_though_nothing_moves() -> None:
    follower = follow(motion=MotionConfig(floor_s=60.0, hold_s=0.1))
    for number in range(20):
        taken = frame([square(0.4)], number / FPS)
        follower.look(taken)
        if follower.wants_search() and number == 0:
            follower.found(found([]), taken)
    assert not follower.wants_search()
    follower.found(found([square(0.4)]), taken)
    follower.look(frame([square(0.4)], 2.1))
    assert follower.wants_search()


def test_small_moving_object_is_searched_enlarged_and_found_in_its_place() -> None:
    follower = follow(regions=RegionsConfig(enabled=True, whole_every=3))
    regions: list[Region] = []
    for number in range(30):
        box = square(0.2 + 0.01 * number, 0.3, side=0.05)
        taken = frame([box], number / FPS)
        follower.look(taken)
        region = follower.propose_region(SIZE_WH) if follower.wants_search() else None
        follower.searching(taken, region)
        follower.found(found([box]), taken, region)
        if region is not None:
            regions.append(region)
            pixels = np.array(box) * np.tile(SIZE_WH, 2)
            assert (pixels[:2] >= region[:2]).all()
            assert (pixels[2:] <= region[2:]).all()
    assert len(regions) >= 15
    assert ids(follower.objects(SIZE_WH)[0]) == [1]


def test_box_that_the_edge_of_a_region_cuts_is_not_taken() -> None:
    follower = follow(tracking=TrackingConfig(min_hits=1), regions=RegionsConfig(enabled=True))
    taken = frame([square(0.5)], 0.0)
    follower.look(taken)
    follower.found(found([[0.4, 0.4, 0.499, 0.6]]), taken, (0, 0, 320, 480))
    assert len(follower.objects(SIZE_WH)[0]) == 0
    follower.found(found([[0.3, 0.4, 0.4, 0.6]]), taken, (0, 0, 320, 480))
    assert len(follower.objects(SIZE_WH)[0]) == 1


def test_search_of_another_part_does_not_end_an_object() -> None:
    watch = Watch(follow())
    watch.lead(lambda at_s: [square(0.8)], 1)
    for number in range(60):
        taken = frame([square(0.8)], 1 + number / FPS)
        watch.follower.look(taken)
        watch.follower.found(found([]), taken, (0, 0, 320, 240))
    assert ids(watch.follower.objects(SIZE_WH)[0]) == [1]


def test_fast_object_that_leaves_the_picture_is_no_error() -> None:
    follower = follow(
        tracking=TrackingConfig(lost_s=6.0), regions=RegionsConfig(enabled=True), motion=MotionConfig(enabled=False)
    )
    for number in range(80):
        box = square(0.9 - 0.06 * number, 0.3, side=0.1)
        boxes = [box] if box[0] > 0 else []
        taken = frame(boxes, number / FPS)
        follower.look(taken)
        region = follower.propose_region(SIZE_WH)
        follower.searching(taken, region)
        follower.found(found(boxes), taken, region)


# The same again.


def test_two_followers_that_see_the_same_tell_the_same() -> None:
    def story() -> Watch:
        rng = np.random.default_rng(8)
        watch = Watch(follow({"any": RuleConfig(label="red")}, zones={"left": ZoneConfig(coordinates=LEFT_HALF)}))
        for number in range(60):
            jitter = rng.normal(0, 0.004, (2, 4))
            boxes = (np.array([square(0.1 + 0.012 * number), square(0.8 - 0.01 * number)]) + jitter).tolist()
            watch.see(boxes[: 1 + (number % 5 > 0)], number / FPS)
        watch.follower.end("shutdown")
        watch.collect()
        return watch

    one, other = story(), story()
    assert [event.object.to_json() for event in one.events] == [event.object.to_json() for event in other.events]
    assert len(one.events) > 4
    for mine, yours in zip(one.objects, other.objects, strict=True):
        np.testing.assert_array_equal(mine.xyxy, yours.xyxy)
        np.testing.assert_array_equal(mine.tracker_id, yours.tracker_id)
    for mine, yours in zip(one.events, other.events, strict=True):
        if isinstance(mine, Event) and mine.snapshot is not None:
            np.testing.assert_array_equal(mine.snapshot, yours.snapshot)


def test_pictures_and_detections_are_not_written_to() -> None:
    watch = Watch(follow())
    watch.lead(lambda at_s: [square(0.3)], 1)
    taken, detections = frame([square(0.3)], 1.0), found([square(0.3)])
    picture, boxes = taken.image.copy(), detections.xyxy.copy()
    watch.follower.look(taken)
    watch.follower.found(detections, taken)
    np.testing.assert_array_equal(taken.image, picture)
    np.testing.assert_array_equal(detections.xyxy, boxes)
