"""EventStore: the history of events, in a file that stays small and wears an SD card little, or in memory."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, ObjectState
from edge_detector.jpeg import encode_jpeg
from edge_detector.publishers import event_queries
from edge_detector.publishers.event_database import EventDatabase
from edge_detector.publishers.event_queries import JsonObject, Period
from edge_detector.publishers.event_retention import Retention
from edge_detector.publishers.event_tables import put_object, transaction
from edge_detector.publishers.event_worker import QueuedEvents
from edge_detector.publishers.schema import event_to_json

COMMIT_S = 5.0
UPDATE_S = 60.0
PRUNE_S = 600.0
MAX_FILE_MB = 500.0
MAX_MEMORY_MB = 32.0
JPEG_QUALITY = 85
MAX_ROWS = 1000


def open_event_store(
    path: str | Path | None = None,
    *,
    max_age_days: float | None = None,
    max_mb: float | None = None,
    lossless: bool = False,
    stop: threading.Event | None = None,
) -> QueuedEvents[EventStore]:
    """Return a publisher that keeps events; its `sink` is the `EventStore`, which answers queries.

    `lossless` and `stop` are those of `QueuedEvents`.

    Raises:
        PublishError: the file cannot be used.
    """
    return QueuedEvents(EventStore(path, max_age_days=max_age_days, max_mb=max_mb), lossless=lossless, stop=stop)


class EventStore:
    """An `EventSink` and `EventHistory`: a row per object and per alert in the SQLite file `path`, or in memory.

    What begins and ends is committed every `commit_s` seconds at most, and what goes on every `update_s` per object,
    to spare SD cards; queries see all at once. Writing an event twice leaves one row, so a failed batch can come again.
    The file keeps its newest: what is older than `max_age_days` goes, and the oldest of a file that reaches `max_mb`
    (10^6 bytes; 500, in memory 32, unless given) beside which a log of about 4 MB lies. Objects that are there go last.
    A damaged file is moved aside, and a new one begun; objects that an earlier run of the program left without an end
    are ended. Queries are safe on any thread.

    Raises:
        PublishError: the file cannot be written, is of a newer version or of another program.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        max_age_days: float | None = None,
        max_mb: float | None = None,
        commit_s: float = COMMIT_S,
        update_s: float = UPDATE_S,
    ) -> None:
        self._commit_s, self._update_s = (0.0, 0.0) if path is None else (commit_s, update_s)
        self._retention = Retention(max_age_days, max_mb or (MAX_MEMORY_MB if path is None else MAX_FILE_MB))
        self._committed_at = -math.inf  # this and all below on the monotonic clock
        self._pruned_at = -math.inf
        self._due: dict[str, float] = {}  # when the rows of these objects are to be committed
        self._alerts_due = math.inf
        self._saved_at: dict[str, float] = {}  # when those of objects that go on have been
        self._database = EventDatabase(None if path is None else Path(path), self._begin_anew)
        self.name = self._database.name
        try:
            self._database.run(_end_interrupted)
        except PublishError:
            self._database.close()
            raise

    def write(self, events: Sequence[Event | Alert]) -> None:
        """Take events and commit what is due; see `EventSink`."""
        jpegs = [_encode(event) for event in events]
        self._database.run(lambda connection: self._take(connection, events, jpegs))

    def finish(self) -> None:
        """Commit everything and close the file.

        Raises:
            PublishError: what was not committed is lost.
        """
        try:
            self._database.run(lambda connection: self._commit(connection, time.monotonic(), everything=True))
        finally:
            self._database.close()

    def list_events(
        self,
        *,
        after: float | None = None,
        before: float | None = None,
        label: str | None = None,
        zone: str | None = None,
        camera: str | None = None,
        ended: bool | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[JsonObject]:
        """See `EventHistory`."""
        wanted = {"after": after, "before": before, "label": label, "zone": zone, "camera": camera}
        count = max(0, min(limit, MAX_ROWS))
        return self._database.run(
            lambda connection: event_queries.list_objects(connection, count, offset, ended, **wanted)
        )

    def event(self, object_id: str) -> JsonObject | None:
        """See `EventHistory`."""
        return self._database.run(lambda connection: event_queries.find_object(connection, object_id))

    def snapshot(self, object_id: str) -> bytes | None:
        """See `EventHistory`."""
        return self._database.run(lambda connection: event_queries.find_snapshot(connection, object_id))

    def counts(
        self,
        *,
        after: float | None = None,
        before: float | None = None,
        label: str | None = None,
        zone: str | None = None,
        camera: str | None = None,
        by: Period = "hour",
    ) -> list[JsonObject]:
        """See `EventHistory`."""
        wanted = {"after": after, "before": before, "label": label, "zone": zone, "camera": camera}
        return self._database.run(lambda connection: event_queries.count_objects(connection, by, **wanted))

    def list_alerts(
        self, *, after: float | None = None, before: float | None = None, rule: str | None = None, limit: int = 100
    ) -> list[JsonObject]:
        """See `EventHistory`."""
        count = max(0, min(limit, MAX_ROWS))
        return self._database.run(lambda connection: event_queries.list_alerts(connection, after, before, rule, count))

    def _begin_anew(self, connection: sqlite3.Connection) -> None:
        self._saved_at.clear()
        self._due = {row[0]: -math.inf for row in connection.execute("SELECT id FROM main.objects")}

    def _take(
        self, connection: sqlite3.Connection, events: Sequence[Event | Alert], jpegs: Sequence[bytes | None]
    ) -> None:
        now = time.monotonic()
        for event, jpeg in zip(events, jpegs, strict=True):
            seen = event.object
            if isinstance(event, Alert):
                row = (round(event.ts, 3), event.rule, seen.id, event_to_json(event))
                connection.execute("INSERT OR IGNORE INTO main.alerts VALUES (?, ?, ?, ?)", row)
                self._alerts_due = min(self._alerts_due, self._committed_at + self._commit_s)
                continue
            put_object(connection, "main", seen, jpeg)
            goes_on = event.kind == "update" and seen.id in self._saved_at
            due = self._saved_at[seen.id] + self._update_s if goes_on else self._committed_at + self._commit_s
            self._due[seen.id] = min(due, self._due.get(seen.id, math.inf))
        if min((self._alerts_due, *self._due.values())) <= now:
            self._commit(connection, now)
        elif now < self._pruned_at + PRUNE_S:
            return
        self._pruned_at = now
        self._retention.apply(connection)

    def _commit(self, connection: sqlite3.Connection, now: float, everything: bool = False) -> None:
        ids = [(object_id,) for object_id, due in self._due.items() if everything or due <= now]
        with transaction(connection):
            for statement in COMMIT_OBJECT:
                connection.executemany(statement, ids)
            for statement in COMMIT_ALERTS:
                connection.execute(statement)
            going_on = {row[0] for row in connection.execute("SELECT id FROM main.objects")}
        self._committed_at = now
        self._alerts_due = math.inf
        for (object_id,) in ids:
            del self._due[object_id]
            if object_id in going_on:
                self._saved_at[object_id] = now
            else:
                self._saved_at.pop(object_id, None)


# An object that goes on stays in memory, where its updates come.
COMMIT_OBJECT = (
    "INSERT OR REPLACE INTO kept.objects SELECT * FROM main.objects WHERE id = ?",
    "INSERT OR IGNORE INTO kept.zones SELECT * FROM main.zones WHERE id = ?",
    "INSERT OR REPLACE INTO kept.snapshots SELECT * FROM main.snapshots WHERE id = ?",
    "DELETE FROM main.snapshots WHERE id = ?",
    "DELETE FROM main.zones WHERE id = ?",
    "DELETE FROM main.objects WHERE id = ? AND end_ts IS NOT NULL",
)
COMMIT_ALERTS = ("INSERT OR IGNORE INTO kept.alerts SELECT * FROM main.alerts", "DELETE FROM main.alerts")


def _encode(event: Event | Alert) -> bytes | None:
    if isinstance(event, Alert) or event.snapshot is None or not event.snapshot.size:
        return None
    return encode_jpeg(event.snapshot, JPEG_QUALITY)


def _end_interrupted(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT state FROM kept.objects WHERE end_ts IS NULL ORDER BY start_ts").fetchall()
    with transaction(connection):
        for (text,) in rows:
            state = ObjectState.from_json(json.loads(text))
            put_object(connection, "kept", replace(state, end_ts=state.seen_ts, end_reason="interrupted"))
