"""Damage, locks, full disks and kills: what becomes of the store of events."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, ObjectState
from edge_detector.publishers import EventHistory
from edge_detector.publishers.event_store import EventStore
from edge_detector.publishers.event_tables import transaction
from edge_detector.publishers.event_worker import QueuedEvents

MakeObject = Callable[..., ObjectState]
LimitFiles = Callable[[int], AbstractContextManager[None]]
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


def ask(path: Path, query: str) -> list[Any]:
    """Return what another program sees in the file."""
    with closing(sqlite3.connect(path)) as other:
        return other.execute(query).fetchall()


def ids(store: EventHistory, **wanted: Any) -> list[str]:
    return [found["id"] for found in store.list_events(**wanted)]


def picture(shade: int, side: int = 16) -> npt.NDArray[np.uint8]:
    return np.full((side, side, 3), shade, np.uint8)


@pytest.mark.parametrize("damage", [b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 5000])
def test_damaged_file_is_moved_aside_and_a_new_one_begun(
    path: Path, make_object: MakeObject, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        path.write_bytes(damage)
        with opened(path) as store:
            store.write([Event("new", make_object())])
            assert ids(store) == ["front-1"]
    aside = list(path.parent.glob("events.db.damaged-*"))
    assert [file.read_bytes() for file in aside] == [damage] * 2
    assert len(caplog.records) == 2
    assert "is damaged" in caplog.text


def test_file_that_never_was_a_database_is_left_alone(path: Path) -> None:
    path.write_text("my notes\n" * 99)
    with pytest.raises(PublishError, match=r"events\.db is no database of events; choose another file"):
        EventStore(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_text() == "my notes\n" * 99


def test_damage_found_later_loses_nothing_that_goes_on(
    path: Path, make_object: MakeObject, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path, commit_s=0.0) as store:
        for number in range(200):
            state = make_object(f"old-{number}", ended=True)
            store.write([Event("new", state, picture(9, 64)), Event("end", state)])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))
    with opened(path, commit_s=0.0) as store:
        store.write([Event("new", make_object("now"))])
        assert ids(store) == ["now"]
        store.write([Event("end", make_object("now", ended=True))])
        assert ids(store, ended=True) == ["now"]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert [file.stat().st_size for file in path.parent.glob("events.db.damaged-*")] == [size]
    assert len(caplog.records) == 1


def test_damage_while_open_keeps_what_was_committed_and_goes_on(path: Path, make_object: MakeObject) -> None:
    with opened(path, commit_s=0.0, update_s=3600.0) as store:
        store.write([Event("new", make_object("now", start_ts=START_TS + 60))])
        assert ask(path, "PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (path.stat().st_size - 4096))
        store.write([Event("end", make_object("other", ended=True))])
        assert ids(store) == ["now", "other"]
        assert ask(path, "SELECT id FROM objects ORDER BY id") == [("now",), ("other",)]


def test_failed_transaction_leaves_nothing_and_does_not_stay_open() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE kept (id)")
        with pytest.raises(KeyError), transaction(connection):  # noqa: PT012 - it fails after the first statement
            connection.execute("INSERT INTO kept VALUES (1)")
            raise KeyError
        assert not connection.in_transaction
        assert connection.execute("SELECT * FROM kept").fetchall() == []


def write_through_an_outage(store: EventStore, make_object: MakeObject, wait_until: WaitUntil) -> QueuedEvents[Any]:
    publisher = QueuedEvents(store, first_pause_s=0.02, max_pause_s=0.05)
    for number in range(100):
        state = make_object(f"o{number}", ended=True)
        publisher.publish_event(Event("new", state, picture(number, 64)))
        publisher.publish_event(Event("end", state))
        publisher.publish_event(Alert("a", START_TS, state))
    wait_until(lambda: publisher._failing_since is not None)
    return publisher


def assert_complete(path: Path) -> None:
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert ask(path, "SELECT COUNT(*), COUNT(end_ts) FROM objects") == [(100, 100)]
    assert ask(path, "SELECT COUNT(*) FROM snapshots") == ask(path, "SELECT COUNT(*) FROM alerts") == [(100,)]


def test_nothing_is_lost_while_another_program_locks_the_file(
    path: Path, make_object: MakeObject, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    store = EventStore(path, commit_s=0.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        publisher = write_through_an_outage(store, make_object, wait_until)
        assert "o0" in ids(store, limit=1000)
    publisher.close()
    assert_complete(path)
    assert "database is locked; its events are kept and tried again" in caplog.text


def test_nothing_is_lost_while_the_disk_is_full(
    path: Path, make_object: MakeObject, wait_until: WaitUntil, limit_files: LimitFiles
) -> None:
    store = EventStore(path, commit_s=0.0)
    with limit_files(60_000):
        publisher = write_through_an_outage(store, make_object, wait_until)
        time.sleep(0.2)
    publisher.close()
    assert_complete(path)


# For each line that it reads, forks a writer and kills it at some moment; a writer tells of all that it has written.
WRITERS = """
import os, random, signal, sys, time
import numpy as np
from edge_detector.events import Event, ObjectState
from edge_detector.publishers.event_store import EventStore

def state(name, **fields):
    return ObjectState(name, "front", 1, "person", 0.5, 0.5, (0, 0, 9, 9), (0, 0, 1, 1), 1e9, 1e9, **fields)

def write(turn):
    store = EventStore(sys.argv[1], commit_s=0.0)
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for number in range(10**9):
        name = f"{turn}-{number}"
        store.write([Event("new", state(name), picture)])
        if number % 3:
            store.write([Event("end", state(name, end_ts=1e9, end_reason="gone"))])
        os.write(1, f"{name}\\n".encode())

for line in sys.stdin:
    turn, delay_s = line.split()
    child = os.fork()
    if child == 0:
        write(turn)
    time.sleep(float(delay_s))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.write(1, b"killed\\n")
"""


def test_killed_writer_leaves_a_sound_file_and_each_object_ends_once(path: Path, repository: Path) -> None:
    told: list[str] = []
    command = [sys.executable, "-c", WRITERS, str(path)]
    with subprocess.Popen(
        command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as writers:
        assert writers.stdin
        assert writers.stdout
        for turn in range(20):
            writers.stdin.write(f"{turn} {random.uniform(0.02, 0.3)}\n")
            told += iter(writers.stdout.readline, "killed\n")
            with opened(path) as store:
                assert ids(store, ended=False) == []
            assert ask(path, "PRAGMA integrity_check") == [("ok",)]
            reasons = dict(ask(path, "SELECT id, json_extract(state, '$.end_reason') FROM objects"))
            assert {name.strip() for name in told} <= set(reasons)
        writers.stdin.close()
    assert len(told) > 20
    assert len(reasons) - len(told) <= 20  # of each writer at most the one that it was about to tell
    for name in told:
        number = int(name.strip().rpartition("-")[2])
        assert reasons[name.strip()] == ("gone" if number % 3 else "interrupted")
