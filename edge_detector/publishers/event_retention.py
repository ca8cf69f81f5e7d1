"""Retention: how long events are kept."""

from __future__ import annotations

import math
import sqlite3
import time

from edge_detector.publishers.event_tables import transaction

STEP_ROWS = 50
MAX_STEPS = 20  # per call, so that queries need not wait long
FULL = 0.95  # what a batch adds before it is pruned must fit too
DAY_S = 86400.0

OLDEST = f"""SELECT MAX(ts) FROM (
    SELECT start_ts AS ts FROM kept.objects WHERE end_ts IS NOT NULL AND start_ts < :limit
    UNION ALL SELECT ts FROM kept.alerts WHERE ts < :limit ORDER BY ts LIMIT {STEP_ROWS})"""
GONE = "(SELECT id FROM kept.objects WHERE start_ts <= :ts AND end_ts IS NOT NULL)"
DELETE = (
    f"DELETE FROM kept.snapshots WHERE id IN {GONE}",
    f"DELETE FROM kept.zones WHERE id IN {GONE}",
    "DELETE FROM kept.objects WHERE start_ts <= :ts AND end_ts IS NOT NULL",
    "DELETE FROM kept.alerts WHERE ts <= :ts",
)


class Retention:
    """Deletes what is older than `max_age_days` (None keeps any age), and the oldest of a file that has `max_mb`.

    Objects without an end stay. Freed pages are used again; only what the file has beyond `max_mb` is cut off, for
    each move of a page is a write.
    """

    def __init__(self, max_age_days: float | None, max_mb: float) -> None:
        self._max_age_s = None if max_age_days is None else max_age_days * DAY_S
        self._max_bytes = max_mb * 1e6

    def apply(self, connection: sqlite3.Connection) -> None:
        """Delete the oldest in small batches, each committed by itself; what is left to do is for the next call."""
        page_bytes = _number(connection, "page_size")
        too_old = -math.inf if self._max_age_s is None else time.time() - self._max_age_s
        for _ in range(MAX_STEPS):
            used = _number(connection, "page_count") - _number(connection, "freelist_count")
            limit = math.inf if used * page_bytes > FULL * self._max_bytes else too_old
            if not _delete_oldest(connection, limit):
                break
        surplus = _number(connection, "page_count") - int(self._max_bytes / page_bytes)
        if surplus > 0:
            # `execute` would step once, which is one page.
            connection.executescript(f"PRAGMA kept.incremental_vacuum({surplus})")


def _delete_oldest(connection: sqlite3.Connection, limit: float) -> bool:
    """Delete a batch of what is older than `limit`, seconds since the epoch; return whether there was any."""
    (ts,) = connection.execute(OLDEST, {"limit": limit}).fetchone()
    if ts is None:
        return False
    with transaction(connection):
        for statement in DELETE:
            connection.execute(statement, {"ts": ts})
    return True


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA kept.{pragma}").fetchone()[0])
