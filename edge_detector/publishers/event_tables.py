"""The tables of events, and what stands in their rows.

They exist twice: in `main`, the connection's own database in memory, for what is not committed, and in `kept`. The
views `current_...` show both as one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from edge_detector.events import ObjectState
from edge_detector.publishers.schema import compact

# Snapshots have a table of their own: most queries do not read them, and most updates do not write them.
TABLES = (
    """CREATE TABLE {place}.objects (
        id TEXT PRIMARY KEY, camera TEXT NOT NULL, label TEXT NOT NULL, start_ts REAL NOT NULL, end_ts REAL,
        seen_ts REAL NOT NULL, score REAL NOT NULL, top_score REAL NOT NULL, duration_s REAL NOT NULL,
        state TEXT NOT NULL)""",
    "CREATE INDEX {place}.objects_by_start ON objects (start_ts, id)",
    "CREATE INDEX {place}.open_objects ON objects (start_ts, id) WHERE end_ts IS NULL",
    "CREATE TABLE {place}.zones (zone TEXT, id TEXT, PRIMARY KEY (zone, id)) WITHOUT ROWID",
    "CREATE INDEX {place}.zones_by_id ON zones (id)",
    "CREATE TABLE {place}.snapshots (id TEXT PRIMARY KEY, jpeg BLOB NOT NULL)",
    """CREATE TABLE {place}.alerts (
        ts REAL NOT NULL, rule TEXT NOT NULL, id TEXT NOT NULL, alert TEXT NOT NULL, UNIQUE (ts, rule, id))""",
)
VIEWS = (
    """CREATE TEMP VIEW current_objects AS SELECT * FROM main.objects
        UNION ALL SELECT * FROM kept.objects WHERE id NOT IN (SELECT id FROM main.objects)""",
    "CREATE TEMP VIEW current_zones AS SELECT * FROM main.zones UNION ALL SELECT * FROM kept.zones",
    """CREATE TEMP VIEW current_alerts AS SELECT * FROM main.alerts
        UNION ALL SELECT * FROM kept.alerts WHERE (ts, rule, id) NOT IN (SELECT ts, rule, id FROM main.alerts)""",
)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done inside, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise


def put_object(connection: sqlite3.Connection, place: str, state: ObjectState, jpeg: bytes | None = None) -> None:
    """Add an object to the tables of `place`, "main" or "kept", or replace what they say about it."""
    shape = state.to_json()
    columns = ("id", "camera", "label", "start_ts", "end_ts", "seen_ts", "score", "top_score", "duration_s")
    row = (*(shape[column] for column in columns), compact(shape))
    connection.execute(f"INSERT OR REPLACE INTO {place}.objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    zones = ((zone, state.id) for zone in state.entered_zones)
    connection.executemany(f"INSERT OR IGNORE INTO {place}.zones VALUES (?, ?)", zones)
    if jpeg is not None:
        connection.execute(f"INSERT OR REPLACE INTO {place}.snapshots VALUES (?, ?)", (state.id, jpeg))
