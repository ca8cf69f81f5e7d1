from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edge_detector.events import Event, ObjectState
from edge_detector.publishers import EventHistory
from edge_detector.publishers.event_store import EventStore

MakeObject = Callable[..., ObjectState]
START_TS = 1700000000.0


@contextmanager
def opened(path: Path | None = None, **settings: Any) -> Iterator[EventStore]:
    store = EventStore(path, **settings)
    try:
        yield store
    finally:
        store.finish()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def ids(store: EventHistory, **wanted: Any) -> list[str]:
    return [found["id"] for found in store.list_events(**wanted)]


@pytest.fixture(params=[0.0, 3600.0], ids=["committed", "uncommitted"])
def week(request: pytest.FixtureRequest, path: Path, make_object: MakeObject) -> Iterator[EventStore]:
    """A store with objects o0..o9, a minute apart; the even ones have ended, every third one is a car."""
    with opened(path, commit_s=request.param) as made:
        made.write([Event("new", make_object("o0", start_ts=START_TS))])  # the first is committed at once
        for number in range(10):
            state = make_object(
                f"o{number}",
                ended=number % 2 == 0,
                start_ts=START_TS + 60 * number,
                label="car" if number % 3 == 0 else "person",
                camera="back" if number > 6 else "front",
                entered_zones=("drive", "porch") if number in (2, 3) else ("drive",) if number == 8 else (),
            )
            made.write([Event("end" if number % 2 == 0 else "new", state)])
        yield made


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ({"limit": 3}, [9, 8, 7]),
        ({"limit": 3, "offset": 8}, [1, 0]),
        ({"limit": -1}, []),
        ({"after": START_TS + 120, "before": START_TS + 240}, [3, 2]),
        ({"label": "car"}, [9, 6, 3, 0]),
        ({"camera": "back"}, [9, 8, 7]),
        ({"zone": "drive"}, [8, 3, 2]),
        ({"zone": "porch", "ended": True}, [2]),
        ({"ended": False}, [9, 7, 5, 3, 1]),
        ({"ended": True, "label": "car"}, [6, 0]),
        ({"label": "x' OR '1'='1"}, []),
    ],
)
def test_objects_are_listed_newest_first_and_filtered(
    week: EventStore, wanted: dict[str, Any], numbers: list[int]
) -> None:
    assert ids(week, **wanted) == [f"o{number}" for number in numbers]


def test_objects_are_counted_by_label_in_the_hour_in_which_they_came(week: EventStore, make_object: MakeObject) -> None:
    week.write([Event("new", make_object("late", start_ts=START_TS + 7200, seen_ts=START_TS + 99999))])
    hours = week.counts(by="hour")
    assert [(hour["count"], hour["labels"]) for hour in hours] == [
        (10, {"car": 4, "person": 6}),
        (1, {"person": 1}),
    ]
    first = datetime.fromtimestamp(hours[0]["ts"])
    assert (first.minute, first.second) == (0, 0)
    assert 0 <= START_TS - hours[0]["ts"] < 3600
    assert week.counts(zone="porch", label="car")[0]["count"] == 1
    assert sum(day["count"] for day in week.counts(by="day", camera="front")) == 8


def ts_of(utc: str) -> float:
    return datetime.fromisoformat(f"{utc}:00+00:00").timestamp()


@pytest.mark.parametrize(
    ("zone", "came", "hours", "days"),
    [
        # India is 5:30 ahead: its hours begin at UTC's half hours.
        (
            "Asia/Kolkata",
            ["2024-05-16T18:20", "2024-05-16T18:40"],
            ["2024-05-16T17:30", "2024-05-16T18:30"],
            ["2024-05-15T18:30", "2024-05-16T18:30"],
        ),
        # The hour from 2 to 3 comes twice on the day on which summer time ends.
        (
            "Europe/Berlin",
            ["2024-10-27T00:30", "2024-10-27T01:30"],
            ["2024-10-27T00:00", "2024-10-27T01:00"],
            ["2024-10-26T22:00"],
        ),
        # In Havana it is that from 0 to 1, and the day begins with the first.
        (
            "America/Havana",
            ["2024-11-03T04:30", "2024-11-03T05:30"],
            ["2024-11-03T04:00", "2024-11-03T05:00"],
            ["2024-11-03T04:00"],
        ),
        # In Beirut the day on which summer time begins has no midnight: it begins at 1.
        (
            "Asia/Beirut",
            ["2024-03-30T22:30", "2024-03-31T12:00"],
            ["2024-03-30T22:00", "2024-03-31T12:00"],
            ["2024-03-30T22:00"],
        ),
    ],
)
def test_hours_and_days_are_those_of_local_time(
    monkeypatch: pytest.MonkeyPatch,
    make_object: MakeObject,
    zone: str,
    came: list[str],
    hours: list[str],
    days: list[str],
) -> None:
    if not Path("/usr/share/zoneinfo", zone).exists():
        pytest.skip("needs the time zones of the system (apt install tzdata)")
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        with opened() as store:
            for number, utc in enumerate(came):
                store.write([Event("new", make_object(f"o{number}", start_ts=ts_of(utc)))])
            assert [hour["ts"] for hour in store.counts(by="hour")] == [ts_of(utc) for utc in hours]
            assert [day["ts"] for day in store.counts(by="day")] == [ts_of(utc) for utc in days]
    finally:
        monkeypatch.undo()
        time.tzset()
