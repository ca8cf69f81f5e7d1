"""What can be asked of the database of events; see `EventHistory`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

JsonObject = dict[str, Any]
Period = Literal["hour", "day"]

BIN_S = 900  # all time zones are whole quarters of an hour from UTC
CONDITIONS = {
    "after": "start_ts >= ?",
    "before": "start_ts < ?",
    "label": "label = ?",
    "camera": "camera = ?",
    "zone": "id IN (SELECT id FROM current_zones WHERE zone = ?)",
}
ENDED = {None: (), True: ("end_ts IS NOT NULL",), False: ("end_ts IS NULL",)}
OBJECT = """state, EXISTS (SELECT 1 FROM main.snapshots AS own WHERE own.id = current_objects.id)
    OR EXISTS (SELECT 1 FROM kept.snapshots AS own WHERE own.id = current_objects.id)"""


def list_objects(
    connection: sqlite3.Connection, limit: int, offset: int, ended: bool | None, **wanted: Any
) -> list[JsonObject]:
    """Return objects, newest first, that meet all of `CONDITIONS` whose value is not None."""
    where, values = _where(wanted, *ENDED[ended])
    # SQLite merges both tables in order only where it returns the columns of the order, and has no subquery among them.
    query = f"SELECT start_ts, id FROM current_objects {where} ORDER BY start_ts DESC, id DESC LIMIT ? OFFSET ?"
    page = connection.execute(query, (*values, limit, offset)).fetchall()
    return [found for _, object_id in page if (found := find_object(connection, object_id))]


def find_object(connection: sqlite3.Connection, object_id: str) -> JsonObject | None:
    """Return the object, or None if there is none."""
    row = connection.execute(f"SELECT {OBJECT} FROM current_objects WHERE id = ?", (object_id,)).fetchone()
    if row is None:
        return None
    shape: JsonObject = json.loads(row[0])
    return shape | {"has_snapshot": bool(row[1])}


def find_snapshot(connection: sqlite3.Connection, object_id: str) -> bytes | None:
    """Return the object's newest picture as JPEG, or None if there is none."""
    for place in ("main", "kept"):
        row = connection.execute(f"SELECT jpeg FROM {place}.snapshots WHERE id = ?", (object_id,)).fetchone()
        if row is not None:
            return bytes(row[0])
    return None


def count_objects(connection: sqlite3.Connection, by: Period, **wanted: Any) -> list[JsonObject]:
    """Return how many objects came in each hour or day in which any came, oldest first."""
    where, values = _where(wanted)
    query = f"SELECT CAST(start_ts / {BIN_S} AS INTEGER), label, COUNT(*) FROM current_objects {where} GROUP BY 1, 2"
    counts: dict[int, dict[str, int]] = {}
    for number, label, count in connection.execute(query, values):
        labels = counts.setdefault(period_start(number * BIN_S, by), {})
        labels[label] = labels.get(label, 0) + count
    return [
        {"ts": start_ts, "count": sum(labels.values()), "labels": dict(sorted(labels.items()))}
        for start_ts, labels in sorted(counts.items())
    ]


def list_alerts(
    connection: sqlite3.Connection, after: float | None, before: float | None, rule: str | None, limit: int
) -> list[JsonObject]:
    """Return alerts, newest first."""
    terms = {"ts >= ?": after, "ts < ?": before, "rule = ?": rule}
    asked = {term: value for term, value in terms.items() if value is not None}
    query = f"SELECT ts, alert FROM current_alerts {_conjunction(list(asked))} ORDER BY ts DESC LIMIT ?"
    return [json.loads(text) for _, text in connection.execute(query, (*asked.values(), limit))]


def period_start(ts: float, by: Period) -> int:
    """Return when the hour or day of `ts` began by the device's local time, in seconds since the epoch."""
    start = datetime.fromtimestamp(ts).replace(minute=0, second=0, microsecond=0)
    if by == "day":
        start = start.replace(hour=0, fold=0)
    return int(start.timestamp())


def _where(wanted: JsonObject, *terms: str) -> tuple[str, Sequence[Any]]:
    asked = {CONDITIONS[name]: value for name, value in wanted.items() if value is not None}
    return _conjunction([*asked, *terms]), tuple(asked.values())


def _conjunction(terms: Sequence[str]) -> str:
    return "WHERE " + " AND ".join(terms) if terms else ""
