from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Crossing, Event, ObjectState
from edge_detector.publishers import EventHistory, EventPublisher, open_event_publisher
from edge_detector.publishers.event_store import EventStore, open_event_store
from edge_detector.publishers.schema import compact

MakeObject = Callable[..., ObjectState]
WaitUntil = Callable[..., None]
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


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[EventStore]:
    with opened(path if request.param == "file" else None) as made:
        yield made


def ask(path: Path, query: str) -> list[Any]:
    """Return what another program sees in the file."""
    with closing(sqlite3.connect(path)) as other:
        return other.execute(query).fetchall()


def ids(store: EventHistory, **wanted: Any) -> list[str]:
    return [found["id"] for found in store.list_events(**wanted)]


def picture(shade: int, side: int = 16) -> npt.NDArray[np.uint8]:
    return np.full((side, side, 3), shade, np.uint8)


def shade_of(jpeg: bytes | None) -> int:
    assert jpeg is not None
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return int(decoded[0, 0, 0])


def test_object_is_one_row_that_follows_its_events(store: EventStore, make_object: MakeObject) -> None:
    store.write([Event("new", make_object(), picture(10))])
    assert store.event("front-1") == {**make_object().to_json(), "has_snapshot": True}
    later = make_object(seen_ts=START_TS + 9, entered_zones=("porch",), crossings=(Crossing("gate", "in", 2.0),))
    store.write([Event("update", later)])
    assert store.list_events() == [{**later.to_json(), "has_snapshot": True}]
    assert shade_of(store.snapshot("front-1")) == pytest.approx(10, abs=2)
    gone = make_object(ended=True, seen_ts=START_TS + 12)
    store.write([Event("end", gone, picture(200))])
    assert store.list_events() == [{**gone.to_json(), "has_snapshot": True}]
    assert shade_of(store.snapshot("front-1")) == pytest.approx(200, abs=2)


def test_unknown_object_is_none(store: EventStore, make_object: MakeObject) -> None:
    store.write([Event("new", make_object())])
    assert store.event("nobody") is None
    assert store.snapshot("front-1") is None
    assert store.event("front-1") == {**make_object().to_json(), "has_snapshot": False}


def test_object_survives_the_way_through_json(make_object: MakeObject) -> None:
    state = make_object(
        ended=True,
        path=((0.0, 0.1, 0.2), (1.5, 0.3, 0.4)),
        zones=("porch",),
        entered_zones=("drive", "porch"),
        dwell_s={"drive": 1.5},
        crossings=(Crossing("gate", "out", 0.5),),
    )
    assert ObjectState.from_json(json.loads(compact(state.to_json()))) == state


def test_alerts_are_listed_newest_first_and_once(store: EventStore, make_object: MakeObject) -> None:
    alerts = [Alert(rule, START_TS + at_s, make_object(), 2) for at_s, rule in enumerate(("a", "b", "a"))]
    store.write(alerts)
    store.write(alerts)
    assert [(alert["rule"], alert["ts"] - START_TS) for alert in store.list_alerts()] == [("a", 2), ("b", 1), ("a", 0)]
    assert store.list_alerts(rule="b")[0] == {
        "schema": 1,
        "type": "alert",
        "rule": "b",
        "ts": START_TS + 1,
        "count": 2,
        "object": make_object().to_json(),
    }
    assert len(store.list_alerts(after=START_TS + 1, before=START_TS + 2)) == 1
    assert len(store.list_alerts(limit=2)) == 2


def test_first_event_is_committed_at_once_and_the_next_ones_are_seen_before(
    path: Path, make_object: MakeObject
) -> None:
    with opened(path, commit_s=3600.0) as store:
        store.write([Event("new", make_object("o0"))])
        store.write([Event("new", make_object("o1"), picture(3))])
        store.write([Event("end", make_object("o1", ended=True)), Alert("a", START_TS, make_object("o1"))])
        assert ask(path, "SELECT id FROM objects") == [("o0",)]
        assert sorted(ids(store)) == ["o0", "o1"]
        assert store.snapshot("o1")
        assert len(store.list_alerts()) == 1
    assert ask(path, "SELECT id, end_ts IS NULL FROM objects ORDER BY id") == [("o0", 1), ("o1", 0)]
    assert ask(path, "SELECT id FROM alerts") == ask(path, "SELECT id FROM snapshots") == [("o1",)]


def test_what_waits_is_committed_together_when_it_is_time(
    path: Path, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    with opened(path, commit_s=0.05) as store:
        store.write([Event("new", make_object("o0"))])
        store.write([Event("new", make_object("o1")), Alert("a", START_TS, make_object("o1"))])
        store.write([Event("end", make_object("o0", ended=True))])

        def is_committed() -> bool:
            store.write([])
            return bool(ask(path, "SELECT id FROM objects WHERE id = 'o1'"))

        wait_until(is_committed)
        assert ask(path, "SELECT id, end_ts IS NULL FROM objects ORDER BY id") == [("o0", 0), ("o1", 1)]
        assert ask(path, "SELECT id FROM alerts") == [("o1",)]


def test_updates_are_committed_seldom_but_seen_at_once(path: Path, make_object: MakeObject) -> None:
    with opened(path, commit_s=0.0, update_s=3600.0) as store:
        store.write([Event("new", make_object("o0", score=0.1)), Event("new", make_object("o1", score=0.1))])
        store.write([Event("update", make_object("o0", score=0.2), picture(5))])
        store.write([Event("end", make_object("o1", score=0.3, ended=True))])
        assert ask(path, "SELECT score FROM objects ORDER BY id") == [(0.1,), (0.3,)]
        found = store.event("o0")
        assert found
        assert (found["score"], found["has_snapshot"]) == (0.2, True)
        store.write([Event("end", make_object("o0", score=0.4, ended=True))])
        assert ask(path, "SELECT score FROM objects ORDER BY id") == [(0.4,), (0.3,)]


def test_update_is_committed_without_a_further_event(
    path: Path, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    with opened(path, commit_s=3600.0, update_s=0.05) as store:
        store.write([Event("new", make_object(score=0.1))])
        store.write([Event("update", make_object(score=0.2))])

        def is_committed() -> bool:
            store.write([])
            return ask(path, "SELECT score FROM objects") == [(0.2,)]

        wait_until(is_committed)


def test_everything_is_there_again_after_reopening(path: Path, make_object: MakeObject) -> None:
    with opened(path) as store:
        for number in range(3):
            state = make_object(f"o{number}", ended=True, start_ts=START_TS + number, entered_zones=("porch",))
            store.write([Event("new", state, picture(80)), Event("end", state)])
        store.write([Alert("a", START_TS, make_object())])
    with opened(path) as store:
        assert [store.event(f"o{number}")["end_reason"] for number in range(3)] == ["gone"] * 3
        assert ids(store, zone="porch") == ["o2", "o1", "o0"]
        assert shade_of(store.snapshot("o2")) == pytest.approx(80, abs=2)
        assert len(store.list_alerts()) == 1
    assert not path.with_name("events.db-wal").exists()


def test_objects_without_an_end_are_ended_when_last_seen(path: Path, make_object: MakeObject) -> None:
    with opened(path) as store:
        store.write([Event("new", make_object("o0", entered_zones=("porch",))), Event("new", make_object("o1"))])
        store.write([Event("end", make_object("o1", ended=True))])
    with opened(path) as store:
        left = make_object("o0", entered_zones=("porch",), end_ts=START_TS + 4.5, end_reason="interrupted")
        assert store.event("o0") == {**left.to_json(), "has_snapshot": False}
        assert store.event("o1")["end_reason"] == "gone"
        assert ids(store, ended=False) == []


def test_file_of_a_newer_version_or_another_program_is_left_alone(path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 7")
    with pytest.raises(PublishError, match="of a newer edge_detector; update this one or choose another file"):
        EventStore(path)
    with closing(sqlite3.connect(tmp_path / "songs.db")) as other:
        other.execute("CREATE TABLE songs (title)")
    with pytest.raises(PublishError, match="another program"):
        EventStore(tmp_path / "songs.db")
    assert ask(tmp_path / "songs.db", "SELECT name FROM sqlite_master") == [("songs",)]


def test_unusable_path_is_a_publish_error(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"cannot use .*missing"):
        EventStore(tmp_path / "missing" / "events.db")


def test_closed_store_says_so(path: Path) -> None:
    store = EventStore(path)
    store.finish()
    with pytest.raises(PublishError, match="is closed"):
        store.list_events()


def test_file_stays_bounded_and_keeps_the_newest(path: Path, make_object: MakeObject) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)  # about 6 kB each as JPEG
    sizes = []
    with opened(path, max_mb=2.0, commit_s=0.0) as store:
        store.write([Event("new", make_object("still there", start_ts=START_TS - 1))])
        for number in range(0, 3000, 20):
            states = [make_object(f"o{n}", ended=True, start_ts=START_TS + n) for n in range(number, number + 20)]
            store.write([Event("end", state, noise[n % 8]) for n, state in enumerate(states)])
            store.write([Alert("a", state.start_ts, state) for state in states])
            sizes.append(path.stat().st_size + path.with_name("events.db-wal").stat().st_size)
        assert max(sizes) < 2_100_000 + 4_500_000
        kept = ids(store, limit=1000)
        assert len(kept) > 100
        assert kept == [f"o{2999 - n}" for n in range(len(kept) - 1)] + ["still there"]
        assert all(store.snapshot(name) for name in kept[:-1])
        assert store.snapshot("o5") is None
        assert 0 < len(store.list_alerts(limit=1000)) <= len(kept)
    assert 1_500_000 < path.stat().st_size < 2_100_000
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert ask(path, "SELECT COUNT(*) FROM snapshots WHERE id NOT IN (SELECT id FROM objects)") == [(0,)]
    with opened(path, max_mb=0.5) as store:
        store.write([])
    assert path.stat().st_size < 600_000


def test_events_older_than_the_limit_go(path: Path, make_object: MakeObject) -> None:
    now = time.time()
    with opened(path) as store:
        for days in range(300):
            state = make_object(f"o{days}", ended=True, start_ts=now - 86400 * days - 60, entered_zones=("porch",))
            store.write([Event("end", state, picture(7)), Alert("a", state.start_ts, state)])
    with opened(path, max_age_days=2) as store:
        store.write([])
        assert ids(store) == ["o0", "o1"]
        assert len(store.list_alerts()) == 2
    for table in ("snapshots", "zones"):
        assert ask(path, f"SELECT id FROM {table} ORDER BY id") == [("o0",), ("o1",)]


def test_memory_is_bounded_too(make_object: MakeObject) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with opened(max_mb=0.5) as store:
        for number in range(500):
            state = make_object(f"o{number}", ended=True, start_ts=START_TS + number)
            store.write([Event("end", state, noise)])
        kept = ids(store, limit=1000)
    assert 20 < len(kept) < 100
    assert kept[0] == "o499"


def test_queries_are_safe_while_events_come(store: EventStore, make_object: MakeObject) -> None:
    done = threading.Event()

    def query() -> None:
        while not done.is_set():
            for found in store.list_events(zone="porch"):
                assert store.event(found["id"])
            assert sum(hour["count"] for hour in store.counts()) <= 300

    with ThreadPoolExecutor(3) as executor:
        queries = [executor.submit(query) for _ in range(3)]
        for number in range(300):
            store.write([Event("new", make_object(f"o{number}", entered_zones=("porch",)), picture(9))])
        done.set()
    for asked in queries:
        asked.result()
    assert sum(hour["count"] for hour in store.counts()) == 300


def test_publisher_of_the_table_keeps_events_and_answers(path: Path, make_object: MakeObject) -> None:
    publisher: EventPublisher = open_event_publisher("store", path=path, max_age_days=None, max_mb=1)
    publisher.publish_event(Event("new", make_object()))
    publisher.close()
    typed = open_event_store(path)
    history: EventHistory = typed.sink
    assert ids(history) == ["front-1"]
    typed.close()
