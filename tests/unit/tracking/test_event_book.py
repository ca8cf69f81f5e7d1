from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_detector.events import Alert, Event, ObjectState
from edge_detector.frame import Frame
from edge_detector.object_config import LineConfig, RuleConfig, ZoneConfig
from edge_detector.tracking.event_book import SNAPSHOT_SIDE, EventBook
from edge_detector.tracking.rules import Rules
from edge_detector.tracking.tracker import Track
from edge_detector.tracking.zones import Lines, Presence, Zones

SIZE_WH = (640, 480)
GROUND, RED, GREEN = 90, (230, 20, 20), (20, 230, 20)
START_TS = 1.7e9
LEFT = ZoneConfig(coordinates="0,0,0.5,0,0.5,1,0,1", inertia=1)
MIDDLE = LineConfig(coordinates="0.5,1,0.5,0")

Box = Sequence[float]


def book(
    zones: Mapping[str, ZoneConfig] | None = None,
    lines: Mapping[str, LineConfig] | None = None,
    rules: Mapping[str, RuleConfig] | None = None,
    update_s: float = 1000.0,
    run_id: str = "ab12-",
) -> EventBook:
    presence = Presence(Zones(zones or {}, SIZE_WH), Lines(lines or {}, SIZE_WH))
    return EventBook("yard", ("person", "car"), presence, Rules(rules or {}), run_id, update_s)


def track(track_id: int = 1, class_id: int = 0, confirmed: bool = True) -> Track:
    return Track(track_id, class_id, first_s=0.0, found_s=0.0, confirmed=confirmed)


def picture(
    at_s: float, box: Box | None = None, color: Sequence[int] = RED, size_wh: tuple[int, int] = SIZE_WH
) -> Frame:
    image = np.full((size_wh[1], size_wh[0], 3), GROUND, np.uint8)
    if box is not None:
        x1, y1, x2, y2 = np.rint(np.clip(box, 0, 1) * np.tile(size_wh, 2)).astype(int).tolist()
        image[y1:y2, x1:x2] = color
    return Frame(image, 0, at_s, START_TS + at_s, "test://")


def at(x: float, y: float = 0.5, side: float = 0.2) -> list[float]:
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def show(of: EventBook, one: Track, box: Box, at_s: float, score: float = 0.8, **how: Any) -> list[Event | Alert]:
    """Let the model find the object there; return what is told of it."""
    one.found_s = at_s
    one.hits += 1
    one.scores.append(score)
    one.top_score = max(one.top_score, score)
    of.see([one], np.array([box], np.float64), picture(at_s, box, **how))
    return of.take()


def miss(of: EventBook, one: Track, box: Box, at_s: float) -> list[Event | Alert]:
    of.see([one], np.array([box], np.float64), picture(at_s))
    return of.take()


def states(events: Sequence[Event | Alert], kind: str | None = None) -> list[ObjectState]:
    return [event.object for event in events if isinstance(event, Event) and kind in (None, event.kind)]


def pictures(events: Sequence[Event | Alert]) -> list[npt.NDArray[np.uint8]]:
    return [event.snapshot for event in events if isinstance(event, Event) and event.snapshot is not None]


def part_of(color: Sequence[int], snapshot: npt.NDArray[np.uint8]) -> float:
    return float(np.mean(np.abs(snapshot.astype(int) - color).max(axis=2) < 30))


# The story.


def test_object_is_told_of_when_it_counts_with_all_since_it_was_first_seen() -> None:
    of, one = book(), track(confirmed=False)
    assert show(of, one, at(0.3), 0.0) == []
    assert show(of, one, at(0.32), 0.5) == []
    one.confirmed = True
    (event,) = show(of, one, at(0.34), 1.0, 0.7)
    assert isinstance(event, Event)
    assert event.kind == "new"
    state = event.object
    assert (state.camera, state.track_id, state.label) == ("yard", 1, "person")
    assert (state.start_ts, state.seen_ts, state.end_ts) == (START_TS, START_TS + 1, None)
    assert state.duration_s == 1.0
    assert (state.score, state.top_score) == (0.8, 0.8)
    assert [point[0] for point in state.path] == [0.0, 0.5, 1.0]
    assert state.box_norm == pytest.approx(at(0.34))
    assert state.box == pytest.approx([0.24 * 640, 0.4 * 480, 0.44 * 640, 0.6 * 480])


def test_id_names_start_camera_run_and_number() -> None:
    states_of = [states(show(book(run_id=run_id), track(7), at(0.3), 2.5))[0] for run_id in ("ab12-", "cd34-", "")]
    assert [state.id for state in states_of] == [f"{START_TS + 2.5:.3f}-yard-{run}7" for run in ("ab12-", "cd34-", "")]


def test_object_that_never_counted_ends_in_silence() -> None:
    of, one = book(), track(confirmed=False)
    show(of, one, at(0.3), 0.0)
    of.end([1], "gone")
    of.end_all("shutdown")
    assert of.take() == []


def test_end_is_told_once_with_the_reason_and_the_last_time_it_was_seen() -> None:
    of, one = book(), track()
    show(of, one, at(0.3), 0.0)
    show(of, one, at(0.3), 2.0)
    miss(of, one, at(0.3), 3.0)
    of.end([1, 99], "gone")
    of.end([1], "gone")
    of.end_all("shutdown")
    (end,) = states(of.take())
    assert end.end_reason == "gone"
    assert end.end_ts == end.seen_ts == START_TS + 2.0
    assert end.duration_s == 2.0


def test_events_are_taken_once_and_in_their_order() -> None:
    of = book()
    for number in (1, 2):
        one = track(number)
        one.scores.append(0.8)
        of.see([one], np.array([at(0.3)]), picture(0.0))
    of.end([2], "gone")
    of.end_all("paused")
    told = [(event.kind, event.object.track_id) for event in of.take() if isinstance(event, Event)]
    assert told == [("new", 1), ("new", 2), ("end", 2), ("end", 1)]
    assert of.take() == []


@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(1, 4)), st.sets(st.integers(1, 4)), st.sampled_from(["see", "see", "end", "all"])
        ),
        max_size=30,
    )
)
def test_each_object_that_counted_has_one_new_and_one_end(way: list[tuple[set[int], set[int], str]]) -> None:
    of = book(zones={"left": LEFT}, update_s=2.0)
    there, next_id, events = dict[int, Track](), 1, list[Event | Alert]()
    for number, (present, confirmed, action) in enumerate(way):
        if action == "see":
            for slot in present:
                if slot not in there:
                    there[slot] = track(next_id, confirmed=False)
                    next_id += 1
                there[slot].found_s = float(number)
                there[slot].scores.append(0.8)
                there[slot].confirmed |= slot in confirmed
            boxes = np.array([at(0.2 * slot) for slot in there]).reshape(-1, 4)
            of.see(list(there.values()), boxes, picture(float(number)))
        elif action == "end":
            of.end([there.pop(slot).track_id for slot in present if slot in there], "gone")
        else:
            of.end_all("camera")
            there.clear()
        events += of.take()
    of.end_all("shutdown")
    events += of.take()
    stories: dict[int, list[str]] = {}
    for event in events:
        assert isinstance(event, Event)
        stories.setdefault(event.object.track_id, []).append(event.kind)
    for kinds in stories.values():
        assert (kinds[0], kinds[-1]) == ("new", "end")
        assert set(kinds[1:-1]) <= {"update"}


def test_object_that_stays_is_told_of_anew_in_a_while_found_or_not() -> None:
    of, one = book(update_s=10.0), track()
    told = []
    for at_s in range(3, 45, 3):
        events = show(of, one, at(0.3), float(at_s)) if at_s % 2 else miss(of, one, at(0.3), float(at_s))
        told += [(event.kind, at_s) for event in events if isinstance(event, Event)]
    assert told == [("new", 3), ("update", 15), ("update", 27), ("update", 39)]


def test_missed_object_keeps_its_last_place_and_time() -> None:
    of, one = book(update_s=1.0), track()
    show(of, one, at(0.3), 0.0)
    (state,) = states(miss(of, one, at(0.9), 5.0))
    assert state.box_norm == pytest.approx(at(0.3))
    assert state.seen_ts == START_TS
    assert state.duration_s == 0.0


@pytest.mark.parametrize("jump_s", [86400.0, -86400.0])
def test_wall_clock_that_is_set_changes_neither_durations_nor_the_id(jump_s: float) -> None:
    of, one = book(zones={"left": LEFT}), track()
    (first,) = states(show(of, one, at(0.3), 0.0))
    one.found_s = 4.0
    later = picture(4.0)
    of.see([one], np.array([at(0.3)]), Frame(later.image, 1, 4.0, START_TS + jump_s + 4, "test://"))
    of.end([1], "gone")
    end = states(of.take())[-1]
    assert end.id == first.id
    assert (end.duration_s, end.stationary_s, end.dwell_s) == (4.0, 4.0, {"left": 4.0})
    assert end.start_ts == START_TS
    assert end.end_ts == START_TS + jump_s + 4


# Zones, lines and rules.


def test_zones_and_crossings_are_told_of_at_once() -> None:
    of, one = book({"left": LEFT}, {"gate": MIDDLE}), track()
    told = [show(of, one, at(x), at_s) for at_s, x in enumerate((0.2, 0.3, 0.4, 0.6, 0.7, 0.8))]
    kinds = [[event.kind for event in events if isinstance(event, Event)] for events in told]
    assert kinds == [["new"], [], [], ["update"], [], []]
    (state,) = states(told[3])
    assert (state.zones, state.entered_zones) == ((), ("left",))
    assert [(crossing.line, crossing.direction, crossing.at_s) for crossing in state.crossings] == [("gate", "in", 3.0)]
    assert states(told[0])[0].zones == ("left",)
    assert of.zones_of(1) == ()
    assert of.zones_of(77) == ()


def test_middle_of_the_lower_edge_counts_for_a_zone() -> None:
    lower = ZoneConfig(coordinates="0,0.5,1,0.5,1,1,0,1", inertia=1)
    of, one = book({"lower": lower}), track()
    show(of, one, [0.4, 0.1, 0.6, 0.45], 0.0)
    assert of.zones_of(1) == ()
    show(of, one, [0.4, 0.1, 0.6, 0.55], 1.0)
    assert of.zones_of(1) == ("lower",)


def test_zone_of_one_object_is_forgotten_with_it() -> None:
    of, one = book({"left": LEFT}), track()
    show(of, one, at(0.3), 0.0)
    of.end([1], "gone")
    assert of.zones_of(1) == ()


def test_alert_follows_the_event_of_its_object_and_only_for_what_counts() -> None:
    of, one = book({"left": LEFT}, rules={"visit": RuleConfig(zone="left")}), track(confirmed=False)
    assert show(of, one, at(0.3), 0.0) == []
    one.confirmed = True
    event, alert = show(of, one, at(0.3), 1.0)
    assert isinstance(event, Event)
    assert isinstance(alert, Alert)
    assert (alert.rule, alert.object.id, alert.ts) == ("visit", event.object.id, START_TS + 1)
    assert show(of, one, at(0.3), 2.0) == []


# Where it was, and whether it stands.


def test_path_is_bounded_and_keeps_both_ends_and_the_order() -> None:
    of, one = book(), track()
    for number in range(1500):
        show(of, one, at(0.5 + 0.4 * np.sin(number / 40), 0.5 + 0.3 * np.cos(number / 9)), number / 10)
    of.end_all("shutdown")
    path = np.array(states(of.take())[-1].path)
    assert 50 <= len(path) <= 300
    assert path[0, 0] == 0.0
    assert path[-1, 0] == pytest.approx(149.9, abs=0.3)
    assert (np.diff(path[:, 0]) > 0).all()
    np.testing.assert_allclose(path[:, 1], 0.5 + 0.4 * np.sin(path[:, 0] * 10 / 40), atol=1e-6)


def test_path_is_that_of_the_middle_of_the_lower_edge_without_trembling() -> None:
    of, one = book(), track()
    for number in range(100):
        show(of, one, at(0.3 + 0.001 * (number % 2), 0.5), number / 10)
    show(of, one, at(0.6, 0.5), 20.0)
    of.end_all("shutdown")
    path = states(of.take())[-1].path
    assert len(path) == 2
    assert path[0] == pytest.approx((0.0, 0.3, 0.6))
    assert path[1] == pytest.approx((20.0, 0.6, 0.6))


def test_object_stands_still_while_it_only_trembles() -> None:
    of, one = book(update_s=0.0), track()
    for number in range(11):
        (state,) = states(show(of, one, at(0.3 + 0.004 * (number % 3)), float(number)))
        assert state.stationary_s == pytest.approx(number)
    (state,) = states(show(of, one, at(0.6), 11.0))
    assert state.stationary_s == 0.0
    (state,) = states(show(of, one, at(0.6), 14.0))
    assert state.stationary_s == 3.0


def test_slow_object_does_not_stand_still() -> None:
    of, one = book(update_s=0.0), track()
    for number in range(60):
        (state,) = states(show(of, one, at(0.2 + 0.01 * number), float(number)))
        assert state.stationary_s < 10


# Snapshots.


def test_snapshot_shows_the_object_and_something_around_it() -> None:
    (snapshot,) = pictures(show(book(), track(), at(0.5), 0.0))
    height, width = snapshot.shape[:2]
    assert snapshot.dtype == np.uint8
    red = np.argwhere(np.abs(snapshot.astype(int) - RED).max(axis=2) < 30)
    assert 0.15 < part_of(RED, snapshot) < 0.6
    np.testing.assert_allclose((red.min(axis=0) + red.max(axis=0)) / 2, [height / 2, width / 2], atol=3)


def test_snapshot_is_bounded_in_size_and_small_ones_are_not_enlarged() -> None:
    (large,) = pictures(show(book(), track(), at(0.5, side=0.9), 0.0))
    assert max(large.shape) == SNAPSHOT_SIDE
    (small,) = pictures(show(book(), track(), at(0.5, side=0.1), 0.0))
    assert 64 < max(small.shape) < 200


def test_snapshot_is_told_of_once_and_again_when_it_is_much_better() -> None:
    of, one = book(update_s=0.0), track()
    assert len(pictures(show(of, one, at(0.5, side=0.1), 0.0, 0.5))) == 1
    assert pictures(show(of, one, at(0.5, side=0.1), 1.0, 0.5, color=GREEN)) == []
    assert pictures(show(of, one, at(0.5, side=0.1), 2.0, 0.3, color=GREEN)) == []
    (better,) = pictures(show(of, one, at(0.5, side=0.3), 3.0, 0.9, color=GREEN))
    assert part_of(GREEN, better) > 0.15
    assert pictures(show(of, one, at(0.5, side=0.1), 4.0, 0.5)) == []


def test_best_snapshot_before_the_object_counts_is_told_of_when_it_does() -> None:
    of, one = book(), track(confirmed=False)
    show(of, one, at(0.5, side=0.3), 0.0, 0.9, color=GREEN)
    show(of, one, at(0.5, side=0.1), 1.0, 0.5)
    one.confirmed = True
    (snapshot,) = pictures(show(of, one, at(0.5, side=0.1), 2.0, 0.5))
    assert part_of(GREEN, snapshot) > 0.15
    assert part_of(RED, snapshot) == 0


def test_snapshot_that_was_not_told_of_comes_with_the_end() -> None:
    of, one = book(), track()
    show(of, one, at(0.5, side=0.1), 0.0, 0.5)
    assert show(of, one, at(0.5, side=0.3), 1.0, 0.9, color=GREEN) == []
    of.end_all("shutdown")
    (snapshot,) = pictures(of.take())
    assert part_of(GREEN, snapshot) > 0.15


def test_whole_object_is_preferred_to_one_that_the_picture_cuts() -> None:
    of, one = book(update_s=0.0), track()
    show(of, one, at(0.05), 0.0)
    assert len(pictures(show(of, one, at(0.5), 1.0, color=GREEN))) == 1
    assert pictures(show(of, one, at(0.95), 2.0)) == []


@pytest.mark.parametrize("box", [[-0.5, 0.2, -0.3, 0.6], [1.2, 0.2, 1.5, 0.6], [0.2, 1.3, 0.4, 1.7]])
def test_object_outside_of_the_picture_has_no_snapshot_and_a_box_within(box: Box) -> None:
    (event,) = show(book(), track(), box, 0.0)
    assert isinstance(event, Event)
    assert event.snapshot is None
    assert all(0 <= value <= 1 for value in event.object.box_norm)


@pytest.mark.parametrize("size_wh", [SIZE_WH, (200, 160)])
def test_snapshot_owns_its_pixels(size_wh: tuple[int, int]) -> None:
    of, one = book(), track()
    one.scores.append(0.8)
    taken = picture(0.0, at(0.5, side=0.7), size_wh=size_wh)
    of.see([one], np.array([at(0.5, side=0.7)]), taken)
    (snapshot,) = pictures(of.take())
    assert not np.shares_memory(snapshot, taken.image)


def test_box_in_pixels_is_of_the_picture_that_showed_it() -> None:
    of, one = book(update_s=0.0), track()
    show(of, one, at(0.5), 0.0)
    (state,) = states(show(of, one, at(0.5), 1.0, size_wh=(320, 240)))
    assert state.box == pytest.approx([0.4 * 320, 0.4 * 240, 0.6 * 320, 0.6 * 240])
    assert state.box_norm == pytest.approx(at(0.5))


def test_no_objects_are_fine() -> None:
    of = book({"left": LEFT}, {"gate": MIDDLE})
    of.see([], np.zeros((0, 4)), picture(0.0))
    of.end_all("shutdown")
    assert of.take() == []
