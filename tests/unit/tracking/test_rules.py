from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from edge_detector.events import Crossing, ObjectState
from edge_detector.object_config import RuleConfig
from edge_detector.tracking.rules import Rules

DAY_S = 86400.0
IN, OUT = Crossing("gate", "in", 1.0), Crossing("gate", "out", 2.0)


def ts(clock: str, day: int = 5) -> float:
    """Return the local time HH:MM on a day of June 2026; the 5th is a Friday."""
    return datetime(2026, 6, day, int(clock[:2]), int(clock[3:])).timestamp()


def someone(id_: str = "a", *, in_door_s: float | None = None, **state: Any) -> ObjectState:
    """Return a person seen by camera front, in zone door if seconds are given."""
    there: dict[str, Any] = {}
    if in_door_s is not None:  # and 50 s at an earlier visit
        there = {"zones": ("door",), "dwell_s": {"door": in_door_s + 50}, "stay_s": {"door": in_door_s}}
    values: dict[str, Any] = {"id": id_, "camera": "front", "track_id": 1, "label": "person"}
    values |= {"score": 0.8, "top_score": 0.9, "box": (0, 0, 1, 1), "box_norm": (0, 0, 1, 1)}
    values |= {"start_ts": 0.0, "seen_ts": 1.0, "crossing_count": len(state.get("crossings", ()))}
    return ObjectState(**(values | there | state))


def one_rule(**rule: Any) -> Rules:
    return Rules({"visit": RuleConfig(**rule)})


def fired(rules: Rules, *checks: tuple[float, Sequence[ObjectState]]) -> list[list[str]]:
    """Return the ids of the objects that fired in each check, given its monotonic second and the objects."""
    noon = ts("12:00")
    return [[alert.object.id for alert in rules.check(states, noon + now_s, now_s)] for now_s, states in checks]


def test_alert_names_rule_time_object_and_count() -> None:
    here = someone(in_door_s=9.0)
    (alert,) = one_rule(zone="door").check([here], 1234.5, 7.0)
    assert (alert.rule, alert.ts, alert.object, alert.count) == ("visit", 1234.5, here, 1)


def test_object_fires_once_while_it_meets_the_rule_and_again_after_it_ceased_to() -> None:
    inside, outside = [someone(in_door_s=1.0)], [someone()]
    checks = [(0.0, inside), (1.0, inside), (2.0, outside), (3.0, inside), (4.0, inside), (5.0, []), (6.0, inside)]
    assert fired(one_rule(zone="door", cooldown_s=0), *checks) == [["a"], [], [], ["a"], [], [], []]


def test_object_must_have_been_in_the_zone_for_so_long() -> None:
    seconds = [(at_s, [someone(in_door_s=at_s, duration_s=100.0)]) for at_s in (0.0, 4.9, 5.0, 6.0)]
    assert fired(one_rule(label="person", zone="door", for_s=5), *seconds) == [[], [], ["a"], []]


def test_without_a_zone_the_time_in_view_counts() -> None:
    seconds = [(at_s, [someone(duration_s=at_s)]) for at_s in (0.0, 4.9, 5.0, 6.0)]
    assert fired(one_rule(label="person", for_s=5), *seconds) == [[], [], ["a"], []]


@pytest.mark.parametrize(
    ("rule", "state"),
    [
        ({"label": "car"}, {}),
        ({"label": "person", "camera": "back"}, {}),
        ({"zone": "yard"}, {"in_door_s": 9.0}),
        ({"zone": "door"}, {"zones": (), "dwell_s": {"door": 9.0}}),
        ({"zone": "door"}, {"in_door_s": 9.0, "end_ts": 1.0}),
        ({"line": "gate"}, {}),
        ({"line": "fence"}, {"crossings": (IN,)}),
        ({"line": "gate", "direction": "out"}, {"crossings": (IN,)}),
        ({"line": "gate", "label": "car"}, {"crossings": (IN,)}),
        ({"line": "gate", "zone": "door"}, {"crossings": (IN,)}),
    ],
)
def test_rule_does_not_fire_for_what_it_does_not_ask_for(rule: dict[str, Any], state: dict[str, Any]) -> None:
    assert fired(one_rule(**rule), (0.0, [someone(**state)])) == [[]]


def test_each_crossing_fires_once() -> None:
    ways = [(), (IN,), (IN,), (IN, OUT), (IN, OUT, IN, OUT), (IN, OUT, IN, OUT)]
    checks = [(float(at_s), [someone(crossings=way)]) for at_s, way in enumerate(ways)]
    assert fired(one_rule(line="gate", cooldown_s=0), *checks) == [[], ["a"], [], ["a"], ["a", "a"], []]
    assert fired(one_rule(line="gate", direction="out", cooldown_s=0), *checks) == [[], [], [], ["a"], ["a"], []]


def test_crossings_fire_though_the_oldest_are_forgotten() -> None:
    ways = [(100, (IN,) * 100), (103, (IN,) * 98 + (OUT, IN)), (103, (IN,) * 98 + (OUT, IN))]
    checks = [(float(at_s), [someone(crossings=way, crossing_count=count)]) for at_s, (count, way) in enumerate(ways)]
    rule = one_rule(line="gate", direction="in", cooldown_s=0)
    assert [len(ids) for ids in fired(rule, *checks)] == [100, 2, 0]


def test_crossing_while_the_rule_cools_down_is_not_told() -> None:
    checks = [
        (0.0, [someone(crossings=(IN,))]),
        (9.0, [someone(crossings=(IN, IN))]),
        (10.0, [someone(crossings=(IN, IN))]),
    ]
    assert fired(one_rule(line="gate", cooldown_s=10), *checks) == [["a"], [], []]


def test_who_comes_while_the_rule_cools_down_is_told_of_afterwards_if_still_there() -> None:
    first, second = someone("a", in_door_s=1.0), someone("b", in_door_s=1.0)
    checks = [(0.0, [first]), (3.0, [first, second]), (9.9, [second]), (10.0, [second]), (30.0, [second])]
    assert fired(one_rule(zone="door", cooldown_s=10), *checks) == [["a"], [], [], ["b"], []]


def test_one_alert_tells_of_all_who_come_together() -> None:
    both = [someone("a", in_door_s=1.0), someone("b", in_door_s=1.0)]
    rules = one_rule(zone="door", cooldown_s=10)
    assert [(alert.object.id, alert.count) for alert in rules.check(both, ts("12:00"), 0.0)] == [("a", 2)]
    assert fired(rules, (20.0, both)) == [[]]


def test_without_cooldown_everyone_is_told_of() -> None:
    both = [someone("a", in_door_s=1.0), someone("b", in_door_s=1.0)]
    assert fired(one_rule(zone="door", cooldown_s=0), (0.0, both), (1.0, both)) == [["a", "b"], []]


def test_cooldown_is_kept_per_camera() -> None:
    front, back = someone("a"), someone("b", camera="back")
    assert fired(one_rule(label="person"), (0.0, [front]), (1.0, [front, back]), (2.0, [back])) == [["a"], ["b"], []]


def test_so_many_at_once_fire_together_and_the_last_to_come_is_named() -> None:
    a, b, c = (someone(id_, in_door_s=1.0) for id_ in "abc")
    rules = one_rule(zone="door", min_count=2, cooldown_s=0)
    checks = [(0.0, [b]), (1.0, [a, b]), (2.0, [a, b]), (3.0, [b]), (4.0, [b, c]), (5.0, [a, b, c])]
    assert fired(rules, *checks) == [[], ["a"], [], [], ["c"], ["a"]]
    (alert,) = one_rule(zone="door", min_count=2).check([a, b, c, someone("d")], ts("12:00"), 0.0)
    assert alert.count == 3


def test_objects_of_two_cameras_do_not_add_up() -> None:
    states = [someone("a"), someone("b", camera="back")]
    assert fired(one_rule(label="person", min_count=2), (0.0, states)) == [[]]


def test_check_of_one_camera_does_not_end_the_objects_of_another() -> None:
    front, back = [someone("a")], [someone("b", camera="back")]
    rules = one_rule(label="person", cooldown_s=0)
    assert fired(rules, (0.0, front), (1.0, back), (2.0, front), (3.0, back)) == [["a"], ["b"], [], []]


@pytest.mark.parametrize(
    ("rule", "clock", "day", "due"),
    [
        ({"between": "22:00-06:00"}, "21:59", 5, False),
        ({"between": "22:00-06:00"}, "22:00", 5, True),
        ({"between": "22:00-06:00"}, "00:00", 5, True),
        ({"between": "22:00-06:00"}, "05:59", 5, True),
        ({"between": "22:00-06:00"}, "06:00", 5, False),
        ({"between": "08:00-17:30"}, "17:29", 5, True),
        ({"between": "08:00-17:30"}, "17:30", 5, False),
        ({"between": "18:00-24:00"}, "23:59", 5, True),
        ({"between": "18:00-24:00"}, "00:00", 5, False),
        ({"weekdays": ["fri"]}, "00:00", 5, True),
        ({"weekdays": ["fri"]}, "12:00", 6, False),
        ({"weekdays": ["fri"], "between": "22:00-06:00"}, "23:00", 5, True),
        ({"weekdays": ["fri"], "between": "22:00-06:00"}, "05:00", 6, True),  # the night from Friday on
        ({"weekdays": ["fri"], "between": "22:00-06:00"}, "05:00", 5, False),
        ({"weekdays": ["sun"], "between": "22:00-06:00"}, "05:00", 8, True),  # Monday
    ],
)
def test_rule_holds_at_its_time_of_day_and_week(rule: dict[str, Any], clock: str, day: int, due: bool) -> None:
    assert bool(one_rule(label="person", **rule).check([someone()], ts(clock, day), 0.0)) is due


def test_who_is_there_when_the_time_begins_is_told_of_then() -> None:
    rules = one_rule(zone="door", between="22:00-06:00")
    here = [someone(in_door_s=500.0)]
    clocks = [("21:59", 0.0), ("22:00", 60.0), ("22:01", 120.0)]
    assert [len(rules.check(here, ts(clock), now_s)) for clock, now_s in clocks] == [0, 1, 0]


@pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S])
@pytest.mark.parametrize("rule", [{}, {"between": "22:00-06:00"}, {"weekdays": ["fri"]}])
def test_clock_that_jumps_by_a_day_and_back_does_not_fire_anew(jump_s: float, rule: dict[str, Any]) -> None:
    rules = one_rule(zone="door", cooldown_s=5, **rule)
    here = [someone(in_door_s=9.0)]
    night = ts("23:00")
    times = [(night, 0.0), (night + jump_s, 10.0), (night, 20.0), (night + 30, 30.0)]
    assert [len(rules.check(here, now_ts, now_s)) for now_ts, now_s in times] == [1, 0, 0, 0]


def test_cooldown_does_not_follow_the_wall_clock() -> None:
    rules = one_rule(zone="door", cooldown_s=60)
    night = ts("23:00")
    assert len(rules.check([someone("a", in_door_s=9.0)], night, 0.0)) == 1
    assert rules.check([someone("b", in_door_s=9.0)], night + DAY_S, 1.0) == []
    assert len(rules.check([someone("b", in_door_s=9.0)], night - DAY_S, 60.0)) == 1


def test_rules_are_checked_each_for_itself() -> None:
    rules = Rules({"any": RuleConfig(label="person"), "door": RuleConfig(zone="door"), "cars": RuleConfig(label="car")})
    assert [alert.rule for alert in rules.check([someone(in_door_s=1.0)], ts("12:00"), 0.0)] == ["any", "door"]


def test_nothing_in_view_fires_nothing() -> None:
    assert one_rule(label="person").check([], ts("12:00"), 0.0) == []
