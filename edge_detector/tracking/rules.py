"""Rules: objects -> alerts, when what a rule of the settings asks for comes true."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import get_args

from edge_detector.events import Alert, ObjectState
from edge_detector.object_config import RuleConfig, Weekday, parse_period

_WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)
_DAY_MINUTES = 24 * 60


class Rules:
    """The rules of the settings, for the objects of all cameras.

    An object fires a rule once, and again only after it has ceased to meet it; the time of day takes no part in that,
    so that a clock that is set does not fire it anew. Who meets a rule while it cools down fires it afterwards, if it
    is still met then; a crossing in that time is not told. An alert tells of all who meet the rule just then.
    """

    def __init__(self, rules: Mapping[str, RuleConfig]) -> None:
        self._rules = rules
        # By rule and camera: ids of those who meet it, in the order in which they came to, and whether it was told.
        self._told: dict[tuple[str, str], dict[str, bool]] = {}
        self._fired_s: dict[tuple[str, str], float] = {}
        self._crossings: dict[str, dict[str, int]] = {}  # by camera and id: how many were seen

    def check(self, states: Sequence[ObjectState], now_ts: float, now_s: float) -> list[Alert]:
        """Return the alerts that are due now.

        Args:
            states: all objects of one or more cameras; one of such a camera that is missing has ended.
            now_ts: seconds since the epoch, for the time of day.
            now_s: monotonic seconds.
        """
        cameras: dict[str, list[ObjectState]] = {}
        for state in states:
            cameras.setdefault(state.camera, []).extend([state] if state.end_ts is None else [])
        alerts = []
        for camera, objects in cameras.items():
            for name, rule in self._rules.items():
                if rule.camera in (None, camera):
                    alerts += self._check_rule(name, camera, objects, now_ts, now_s)
            self._crossings[camera] = {state.id: state.crossing_count for state in objects}
        return alerts

    def _check_rule(
        self, name: str, camera: str, objects: Sequence[ObjectState], now_ts: float, now_s: float
    ) -> list[Alert]:
        rule, key = self._rules[name], (name, camera)
        met = {state.id: state for state in objects if _meets(rule, state)}
        if rule.line is not None:
            fresh = [state for state in met.values() for _ in range(self._new_hits(rule, state))]
            met = {state.id: state for state in fresh}
        else:
            before = self._told.get(key, {})
            told = {id_: was_told for id_, was_told in before.items() if id_ in met}
            self._told[key] = told | {id_: False for id_ in met if id_ not in told}
            fresh = [met[id_] for id_, was_told in self._told[key].items() if not was_told]
            if rule.min_count > 1:  # the last to come made it true
                fresh = fresh[-1:] if len(met) >= rule.min_count else []
        alerts: list[Alert] = []
        if not _is_time(rule, now_ts):
            return alerts
        for state in fresh:
            if now_s - self._fired_s.get(key, -math.inf) >= rule.cooldown_s:
                self._fired_s[key] = now_s
                alerts.append(Alert(name, now_ts, state, len(met)))
        if alerts and rule.line is None:
            self._told[key] = dict.fromkeys(self._told[key], True)
        return alerts

    def _new_hits(self, rule: RuleConfig, state: ObjectState) -> int:
        """Return how often the object has gone over the rule's line since the last check."""
        fresh = state.crossing_count - self._crossings.get(state.camera, {}).get(state.id, 0)
        newest = state.crossings[-fresh:] if fresh else ()
        directions = [crossing.direction for crossing in newest if crossing.line == rule.line]
        return sum(rule.direction in (None, direction) for direction in directions)


def _meets(rule: RuleConfig, state: ObjectState) -> bool:
    """Say whether an object is what and where the rule asks for, and has been for long enough."""
    if rule.label not in (None, state.label):
        return False
    if rule.zone is None:
        return state.duration_s >= rule.for_s
    return rule.zone in state.zones and state.stay_s.get(rule.zone, 0.0) >= rule.for_s


def _is_time(rule: RuleConfig, now_ts: float) -> bool:
    """Say whether the rule holds at this time of day and week, by the local clock."""
    now = datetime.fromtimestamp(now_ts)
    start, end = (0, _DAY_MINUTES) if rule.between is None else parse_period(rule.between)
    minute, day = 60 * now.hour + now.minute, now.weekday()
    if start < end:
        within = start <= minute < end
    else:
        within = minute >= start or minute < end
        day -= minute < end  # it began the day before
    return within and (rule.weekdays is None or _WEEKDAYS[day] in rule.weekdays)
