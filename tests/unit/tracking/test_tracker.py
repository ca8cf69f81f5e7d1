from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_detector.detections import Detections
from edge_detector.tracking.tracker import Tracker

Floats = npt.NDArray[np.float64]
SIZE_WH = np.array([30.0, 60.0])
THRESHOLD = 0.5
WEAK = 0.35
LOST_S = 2.0
PICTURE_WH = (2000, 2000)


def box(x: float, y: float = 100.0) -> list[float]:
    """Return the box of an object whose centre is there."""
    return [*(np.array([x, y]) - SIZE_WH / 2), *(np.array([x, y]) + SIZE_WH / 2)]


def found(
    boxes: Sequence[Sequence[float]], scores: float | Sequence[float] = 0.9, class_ids: int | Sequence[int] = 0
) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.broadcast_to(np.array(scores, np.float32), (count,)).copy(),
        np.broadcast_to(np.array(class_ids, np.int64), (count,)).copy(),
    )


NOTHING = found([])


def make(min_hits: int = 2, lost_s: float = LOST_S) -> Tracker:
    return Tracker(min_hits, lost_s, lambda class_id: THRESHOLD)


def shown(tracker: Tracker) -> dict[int, Floats]:
    objects = tracker.objects(PICTURE_WH)
    assert objects.tracker_id is not None
    assert len(set(objects.tracker_id.tolist())) == len(objects)
    return dict(zip(objects.tracker_id.tolist(), objects.xyxy.astype(np.float64), strict=True))


def lead(
    tracker: Tracker, times_s: Iterable[float], boxes_at: Callable[[float], Sequence[Sequence[float]]], **how: float
) -> None:
    """Let it look at, and find, objects at these times."""
    for at_s in times_s:
        tracker.step(at_s)
        tracker.update(found(boxes_at(at_s), **how), at_s)


def with_one(x: float = 100.0, until_s: float = 1.0) -> Tracker:
    """Return a tracker that has followed one standing object from second 0 on."""
    tracker = make()
    lead(tracker, np.linspace(0, until_s, 6), lambda at_s: [box(x)])
    assert list(shown(tracker)) == [1]
    return tracker


# What counts.


def test_object_counts_after_so_many_inferences_that_found_it() -> None:
    tracker = make(min_hits=3)
    counts = []
    for at_s in (0.0, 0.5, 1.0, 1.5):
        lead(tracker, [at_s], lambda _: [box(100)])
        counts.append(len(tracker.objects(PICTURE_WH)))
    assert counts == [0, 0, 1, 1]


def test_first_sight_is_enough_if_the_settings_say_so() -> None:
    tracker = make(min_hits=1)
    lead(tracker, [0.0], lambda _: [box(100)])
    assert len(tracker.objects(PICTURE_WH)) == 1


def test_flicker_of_two_pictures_in_a_row_is_no_object() -> None:
    tracker = make()
    lead(tracker, [0.0, 1 / 30], lambda _: [box(100)])
    assert len(tracker.objects(PICTURE_WH)) == 0


def test_what_was_found_once_and_no_more_never_counts() -> None:
    tracker = make()
    lead(tracker, [0.0], lambda _: [box(100)])
    for at_s in np.arange(0.3, 5, 0.3):
        tracker.step(at_s)
        tracker.update(NOTHING, at_s)
        assert len(tracker.objects(PICTURE_WH)) == 0
    assert tracker.tracks == []


def test_weak_detections_begin_nothing() -> None:
    tracker = make()
    lead(tracker, np.arange(0, 3, 0.2), lambda _: [box(100)], scores=WEAK)
    assert tracker.tracks == []


def test_weak_detections_continue_what_has_begun() -> None:
    tracker = with_one()
    lead(tracker, np.arange(1.2, 3.5, 0.2), lambda _: [box(100)], scores=WEAK)
    assert list(shown(tracker)) == [1]


def test_what_was_sure_for_long_is_shown_through_a_long_weak_time() -> None:
    tracker = with_one(until_s=6.0)
    lead(tracker, np.arange(6.2, 9, 0.2), lambda _: [box(100)], scores=WEAK)
    assert list(shown(tracker)) == [1]


def test_what_is_weak_on_the_whole_counts_no_more_until_it_is_not() -> None:
    tracker = make()
    lead(tracker, np.arange(0, 1, 0.2), lambda _: [box(100)], scores=THRESHOLD + 0.02)
    assert list(shown(tracker)) == [1]
    lead(tracker, np.arange(1, 4, 0.2), lambda _: [box(100)], scores=WEAK)
    assert list(shown(tracker)) == []
    assert [track.track_id for track in tracker.tracks] == [1]
    lead(tracker, np.arange(4, 8, 0.2), lambda _: [box(100)])
    assert list(shown(tracker)) == [1]


def test_few_weak_scores_after_the_first_ones_say_nothing() -> None:
    tracker = make()
    lead(tracker, np.arange(0, 1, 0.2), lambda _: [box(100)], scores=THRESHOLD + 0.02)
    lead(tracker, np.arange(1, 2.5, 0.2), lambda _: [box(100)], scores=WEAK)
    assert list(shown(tracker)) == [1]


def test_what_is_sure_now_and_then_does_not_come_and_go() -> None:
    tracker, seen = make(), []
    lead(tracker, np.arange(0, 1, 0.1), lambda _: [box(100)], scores=THRESHOLD + 0.02)
    for number, at_s in enumerate(np.arange(1, 30, 0.1)):
        lead(tracker, [at_s], lambda _: [box(100)], scores=WEAK if number % 10 else THRESHOLD + 0.02)
        seen.append(bool(shown(tracker)))
    assert seen[0]
    assert not seen[-1]
    assert sum(np.diff(np.array(seen, int)) != 0) == 1
    assert tracker.tracks[0].missed_s == 0


def test_object_whose_median_score_stays_low_does_not_count() -> None:
    tracker = make()
    lead(tracker, [0.0], lambda _: [box(100)], scores=THRESHOLD + 0.05)
    lead(tracker, np.arange(0.3, 2, 0.3), lambda _: [box(100)], scores=WEAK)
    assert len(tracker.tracks) == 1
    assert len(tracker.objects(PICTURE_WH)) == 0


def test_object_is_shown_with_the_median_of_its_scores() -> None:
    tracker = make()
    for at_s, score in enumerate((0.6, 0.95, 0.8)):
        lead(tracker, [float(at_s)], lambda _: [box(100)], scores=score)
    assert tracker.objects(PICTURE_WH).confidence.tolist() == pytest.approx([0.8])
    assert tracker.tracks[0].top_score == pytest.approx(0.95)


def test_threshold_is_that_of_the_class() -> None:
    tracker = Tracker(2, LOST_S, lambda class_id: (0.3, 0.7)[class_id])
    lead(tracker, np.arange(0, 2, 0.4), lambda _: [box(100)], scores=0.5)
    tracker.step(2.0)
    tracker.update(found([box(100), box(300)], 0.5, [0, 1]), 2.0)
    assert [track.class_id for track in tracker.tracks] == [0]


def test_strong_detection_is_not_left_for_a_weak_one() -> None:
    tracker = with_one()
    tracker.step(1.2)
    tracker.update(found([box(103), box(100)], [0.9, WEAK]), 1.2)
    assert [track.track_id for track in tracker.tracks] == [1]
    assert tracker.tracks[0].scores[-1] == pytest.approx(0.9)


# Ids.


def test_id_lasts_through_missed_detections_and_irregular_intervals() -> None:
    rng = np.random.default_rng(7)
    tracker, at_s, missed_s, boxes = make(), 0.0, 0.0, 0
    while at_s < 30:
        tracker.step(at_s)
        dt_s = float(rng.uniform(0.03, 0.5))
        misses = at_s > 1 and rng.random() < 0.3 and missed_s + dt_s < 0.7
        missed_s = missed_s + dt_s if misses else 0.0
        tracker.update(NOTHING if misses else found([box(100 + 25 * at_s)]), at_s)
        boxes += misses
        at_s += dt_s
    assert boxes > 10
    assert [track.track_id for track in tracker.tracks] == [1]


@pytest.mark.parametrize("gap_s", [0.4, 0.8])
def test_moving_object_is_found_again_behind_an_obstacle(gap_s: float) -> None:
    tracker = make()
    times = np.arange(0, 2, 0.1)
    lead(tracker, times, lambda at_s: [box(50 + 60 * at_s)])
    for at_s in np.arange(times[-1] + 0.1, times[-1] + gap_s, 0.1):
        lead(tracker, [at_s], lambda _: [])
    again_s = times[-1] + gap_s
    lead(tracker, [again_s], lambda at_s: [box(50 + 60 * at_s)])
    assert [track.track_id for track in tracker.tracks] == [1]


def test_two_objects_that_cross_keep_their_ids() -> None:
    tracker = make()
    lead(tracker, np.arange(0, 6, 0.1), lambda at_s: [box(40 + 50 * at_s, 100), box(340 - 50 * at_s, 115)])
    boxes = shown(tracker)
    assert sorted(boxes) == [1, 2]
    assert boxes[1][0] > boxes[2][0]


def test_order_of_detections_does_not_matter() -> None:
    tracker = make()
    for number, at_s in enumerate(np.arange(0, 2, 0.2)):
        boxes = [box(60 + 10 * at_s), box(200 - 10 * at_s), box(300)]
        lead(tracker, [at_s], lambda _, boxes=boxes, turn=number % 3: boxes[turn:] + boxes[:turn])
    assert [round(place[0] + SIZE_WH[0] / 2, -1) for _, place in sorted(shown(tracker).items())] == [80, 180, 300]


def test_object_of_another_class_at_the_same_place_is_another_one() -> None:
    tracker = make()
    for number, at_s in enumerate(np.arange(0, 3, 0.25)):
        tracker.step(at_s)
        tracker.update(found([box(100)], 0.9, number % 2), at_s)
    assert [(track.track_id, track.class_id) for track in tracker.tracks] == [(1, 0), (2, 1)]


def test_detection_far_away_is_another_object() -> None:
    tracker = with_one(100)
    lead(tracker, np.arange(1.2, 1.7, 0.1), lambda _: [box(400)])
    assert [track.track_id for track in tracker.tracks] == [1, 2]


# The end.


def test_object_is_gone_after_it_was_looked_for_in_vain_for_so_long() -> None:
    tracker = with_one(until_s=1.0)
    gone_s = None
    for at_s in np.arange(1.1, 6, 0.1):
        tracker.step(at_s)
        if [track.track_id for track in tracker.update(NOTHING, at_s)] == [1]:
            gone_s = at_s
    assert gone_s == pytest.approx(1.0 + LOST_S, abs=0.15)
    assert tracker.tracks == []


def test_what_is_missed_after_it_walked_out_of_the_picture_is_not_there() -> None:
    tracker = make()
    times = np.arange(0, 2, 0.1)
    lead(tracker, times, lambda at_s: [np.clip(box(1930 + 40 * at_s), 0, 2000).tolist()])
    assert list(shown(tracker)) == [1]
    boxes = []
    for at_s in np.arange(2, 2.8, 0.1):
        lead(tracker, [at_s], lambda _: [])
        boxes.append(list(shown(tracker)))
    assert boxes[0] == [1]
    assert boxes[-1] == []


def test_what_is_missed_at_the_edge_and_stands_is_still_there() -> None:
    tracker = make()
    lead(tracker, np.arange(0, 2, 0.1), lambda _: [np.clip(box(1990), 0, 2000).tolist()])
    lead(tracker, np.arange(2, 2.8, 0.1), lambda _: [])
    assert list(shown(tracker)) == [1]


def test_what_is_found_is_there_however_little_of_it_is_in_the_picture() -> None:
    tracker = make()
    lead(tracker, np.arange(0, 2, 0.1), lambda _: [box(1998)])
    assert list(shown(tracker)) == [1]
    np.testing.assert_allclose(shown(tracker)[1][[0, 2]], [1983, 2000], atol=1)


def test_object_is_no_longer_shown_before_it_is_gone() -> None:
    tracker = with_one(until_s=1.0)
    lead(tracker, [1.2], lambda _: [])
    assert list(shown(tracker)) == [1]
    lead(tracker, np.arange(1.4, 2.9, 0.2), lambda _: [])
    assert shown(tracker) == {}
    assert len(tracker.tracks) == 1
    lead(tracker, [2.85], lambda _: [box(100)])
    assert list(shown(tracker)) == [1]


@pytest.mark.parametrize("pause_s", [3.0, 30.0, 3600.0])
def test_mere_pause_of_inferences_ends_nothing(pause_s: float) -> None:
    tracker = with_one(until_s=1.0)
    for at_s in np.linspace(1.1, 1.0 + pause_s, 50):
        tracker.step(at_s)
        assert list(shown(tracker)) == [1]
    lead(tracker, [1.0 + pause_s], lambda _: [box(100)])
    assert list(shown(tracker)) == [1]


def test_one_search_in_vain_after_a_pause_does_not_end_an_object() -> None:
    tracker = with_one(until_s=1.0)
    assert tracker.update(NOTHING, 60.0) == []
    assert [track.track_id for track in tracker.tracks] == [1]


def test_search_of_other_parts_of_the_picture_ends_nothing() -> None:
    tracker = with_one()
    for at_s in np.arange(1.2, 20, 0.2):
        tracker.step(at_s)
        assert tracker.update(NOTHING, at_s, looked=lambda xyxy: np.zeros(len(xyxy), bool)) == []
    assert list(shown(tracker)) == [1]


def test_search_of_a_part_ends_only_what_is_there() -> None:
    tracker = make()
    lead(tracker, np.arange(0, 1, 0.2), lambda _: [box(100), box(400)])
    gone = []
    for at_s in np.arange(1, 6, 0.2):
        tracker.step(at_s)
        gone += tracker.update(NOTHING, at_s, looked=lambda xyxy: xyxy[:, 0] > 250)
    assert [track.track_id for track in gone] == [2]
    assert list(shown(tracker)) == [1]


def test_all_can_be_dropped_and_ids_go_on() -> None:
    tracker = with_one()
    assert [track.track_id for track in tracker.drop_all()] == [1]
    assert tracker.tracks == []
    assert len(tracker.objects(PICTURE_WH)) == 0
    assert len(tracker.motion) == 0
    lead(tracker, np.arange(2, 3, 0.2), lambda _: [box(100)])
    assert list(shown(tracker)) == [2]


# Results that come late.


FPS = 20.0
TURN = 0.5


def path_x(at_s: float) -> float:
    """Return where the object is: it walks, then turns around, which only optical flow sees between inferences."""
    return 100 + 60 * at_s if at_s <= TURN else 100 + 60 * TURN - 80 * (at_s - TURN)


def with_results_late_by(pictures: int, count: int = 24, every: int = 4) -> Tracker:
    """Show `count` pictures with what optical flow saw in each; of every few one is searched, and told of later."""
    tracker, waiting = make(), list[tuple[int, float]]()
    for number in range(count):
        at_s = number / FPS
        shift = path_x(at_s) - path_x((number - 1) / FPS) if number else 0.0
        tracker.step(at_s, np.tile([shift, 0.0], (len(tracker.tracks), 1)))
        if number % every == 0 and number + pictures < count:
            waiting.append((number + pictures, at_s))
        while waiting and waiting[0][0] == number:
            searched_s = waiting.pop(0)[1]
            tracker.update(found([box(path_x(searched_s))]), searched_s)
    assert not waiting
    return tracker


@pytest.mark.parametrize("pictures", [1, 3, 7])
def test_late_result_puts_the_box_where_one_in_time_would_have(pictures: int) -> None:
    late, in_time = shown(with_results_late_by(pictures)), shown(with_results_late_by(0))
    assert list(late) == list(in_time) == [1]
    np.testing.assert_allclose(late[1], in_time[1], atol=2.0)
    np.testing.assert_allclose(late[1], box(path_x(23 / FPS)), atol=4.0)


def test_two_results_of_which_both_come_late_count_one_after_the_other() -> None:
    tracker = make(min_hits=1)
    for number in range(13):
        tracker.step(number / FPS, np.tile([3.0, 0.0], (len(tracker.tracks), 1)))
    for number in (4, 8):
        tracker.update(found([box(100 + 3.0 * number)]), number / FPS, lambda xyxy: np.full((len(xyxy), 2), [24.0, 0]))
    np.testing.assert_allclose(shown(tracker)[1], box(100 + 3.0 * 12), atol=2.0)


def test_newborn_object_is_carried_to_the_newest_picture() -> None:
    tracker, asked = make(min_hits=1), []

    def carry(xyxy: Floats) -> Floats:
        asked.append(xyxy.copy())
        return np.array([[35.0, -4.0], [np.nan, np.nan]])

    for number in range(11):
        tracker.step(number / FPS)
    tracker.update(found([box(100), box(300)]), 2 / FPS, carry)
    np.testing.assert_allclose(asked, [[box(100), box(300)]])
    boxes = shown(tracker)
    np.testing.assert_allclose(boxes[1], box(135, 96), atol=1.5)
    np.testing.assert_allclose(boxes[2], box(300), atol=1e-3)
    np.testing.assert_allclose(tracker.searched.xyxy, [box(100), box(300)], atol=1e-3)


def test_object_that_came_late_goes_on_with_the_speed_that_it_was_carried_with() -> None:
    tracker = make(min_hits=1)
    for number in range(11):
        tracker.step(number / FPS)
    tracker.update(found([box(100)]), 0.0, lambda xyxy: np.array([[30.0, 0.0]]))
    before = shown(tracker)[1]
    tracker.step(12 / FPS)
    assert shown(tracker)[1][0] > before[0]


def test_result_in_time_asks_nobody_to_carry() -> None:
    tracker = make(min_hits=1)
    tracker.step(1.0)

    def carry(xyxy: Floats) -> Floats:
        raise AssertionError

    tracker.update(found([box(100)]), 1.0, carry)
    np.testing.assert_allclose(shown(tracker)[1], box(100), atol=1e-3)


def test_known_objects_keep_what_was_seen_of_their_way_when_a_late_one_is_born() -> None:
    tracker = with_one(100)
    for number in range(1, 11):
        tracker.step(1.0 + number / FPS, np.array([[6.0, 0.0]]))
    tracker.update(found([box(100), box(300)]), 1.0 + 2 / FPS, lambda xyxy: np.array([[8.0, 0.0]]))
    # It was found where it had been at the beginning: the detection pulls it back by at most what flow saw until then.
    places = tracker.motion.xyxy
    assert 100 + 8 * 6 - 5 < places[0, 0] + SIZE_WH[0] / 2 < 100 + 10 * 6 + 5
    np.testing.assert_allclose(places[1], box(308), atol=1.0)


def test_object_that_is_gone_takes_its_way_with_it() -> None:
    tracker = make(min_hits=1, lost_s=0.5)
    lead(tracker, [0.0, 0.1], lambda _: [box(100), box(400)])
    for at_s, shift in ((0.2, 5.0), (0.3, 5.0), (0.8, 5.0)):
        tracker.step(at_s, np.array([[-shift, 0.0], [shift, 0.0]]))
        tracker.update(found([box(400 + 50 * at_s)]), at_s)
    tracker.step(0.9, np.tile([5.0, 0.0], (len(tracker.tracks), 1)))
    for at_s in (1.2, 1.5):
        lead(tracker, [at_s], lambda at_s: [box(400 + 50 * at_s)])
    assert list(shown(tracker)) == [2]
    np.testing.assert_allclose(shown(tracker)[2], box(475), atol=8)


@pytest.mark.parametrize("at_s", [0.2, -5.0])
def test_result_that_is_older_than_all_that_is_known_is_taken_as_of_the_oldest_picture(at_s: float) -> None:
    tracker = with_one()
    lead(tracker, [1.2, 1.4], lambda _: [box(100)])
    tracker.update(found([box(101)]), at_s)
    assert [track.track_id for track in tracker.tracks] == [1]
    np.testing.assert_allclose(shown(tracker)[1], box(100), atol=2)


def test_history_is_bounded_and_what_is_older_still_is_taken() -> None:
    tracker = make(min_hits=1)
    lead(tracker, [0.0], lambda _: [box(100)])
    for number in range(1, 2000):
        tracker.step(number / FPS)
    tracker.update(found([box(100)]), 1 / FPS)
    assert list(shown(tracker)) == [1]


def test_same_time_twice_is_fine() -> None:
    tracker = with_one()
    for _ in range(3):
        tracker.step(1.2)
        tracker.update(found([box(100)]), 1.2)
        tracker.update(found([box(100)]), 1.2)
    tracker.update(NOTHING, 1.2)
    assert list(shown(tracker)) == [1]
    np.testing.assert_allclose(shown(tracker)[1], box(100), atol=1)


def test_old_result_after_two_pictures_of_the_same_time_is_fine() -> None:
    tracker = make(min_hits=1)
    for _ in range(2):
        tracker.step(1.0)
    tracker.update(found([box(100)]), 0.5)
    np.testing.assert_allclose(shown(tracker)[1], box(100), atol=1)


def test_update_without_a_step_is_a_picture_of_its_own() -> None:
    tracker = make()
    for at_s in (0.0, 0.3, 0.6):
        tracker.update(found([box(100 + 50 * at_s)]), at_s)
    np.testing.assert_allclose(shown(tracker)[1], box(130), atol=4)


# Numbers.


def test_nothing_in_any_picture_is_fine() -> None:
    tracker = make()
    for at_s in (0.0, 0.1, 0.2):
        tracker.step(at_s, np.zeros((0, 2)))
        assert tracker.update(NOTHING, at_s, lambda xyxy: xyxy[:, :2], lambda xyxy: np.ones(len(xyxy), bool)) == []
    assert len(tracker.objects(PICTURE_WH)) == len(tracker.motion) == len(tracker.searched) == 0


def test_five_hundred_objects_keep_their_ids() -> None:
    tracker = make()
    places = [(40.0 + 45 * column, 60.0 + 80 * row) for row in range(20) for column in range(25)]
    for at_s in (0.0, 0.3, 0.6):
        lead(tracker, [at_s], lambda at_s: [box(x + 10 * at_s, y) for x, y in places])
        assert [track.track_id for track in tracker.tracks] == list(range(1, 501))
    boxes = shown(tracker)
    for number, (x, y) in enumerate(places):
        np.testing.assert_allclose(boxes[number + 1], box(x + 6, y), atol=3)


def test_hundreds_of_detections_in_one_heap_end_and_ids_stay_unique() -> None:
    rng = np.random.default_rng(5)
    tracker = make()
    for at_s in (0.0, 0.3, 0.6):
        lead(tracker, [at_s], lambda _: [box(*(200 + rng.normal(0, 15, 2))) for _ in range(200)])
    ids = [track.track_id for track in tracker.tracks]
    assert len(set(ids)) == len(ids) >= 200


@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 1.5),
            st.lists(st.tuples(st.integers(0, 4), st.floats(0.1, 1), st.integers(0, 1)), max_size=5),
            st.sampled_from(["update", "step", "late", "drop"]),
        ),
        max_size=20,
    )
)
def test_any_sequence_leaves_rows_and_tracks_in_step(
    way: list[tuple[float, list[tuple[int, float, int]], str]],
) -> None:
    tracker, at_s, classes = make(), 0.0, dict[int, int]()
    for dt_s, places, action in way:
        at_s += dt_s
        if action != "update":
            tracker.step(at_s, np.full((len(tracker.tracks), 2), np.nan))
        if action == "drop":
            tracker.drop_all()
        elif action != "step":
            boxes = [box(60 + 60 * place) for place, _, _ in places]
            detections = found(boxes, [score for _, score, _ in places], [class_id for _, _, class_id in places])
            tracker.update(detections, at_s - 0.3 * (action == "late"))
        assert len(tracker.motion) == len(tracker.searched) == len(tracker.tracks)
        assert np.isfinite(tracker.motion.xyxy).all()
        ids = [track.track_id for track in tracker.tracks]
        assert ids == sorted(set(ids))
        for track in tracker.tracks:
            assert classes.setdefault(track.track_id, track.class_id) == track.class_id
        assert set(shown(tracker)) <= set(ids)


def test_detections_are_not_written_to() -> None:
    tracker = with_one()
    given_ = found([box(102)])
    tracker.step(1.2)
    tracker.update(given_, 1.2)
    np.testing.assert_array_equal(given_.xyxy, np.array([box(102)], np.float32))
