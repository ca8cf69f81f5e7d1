"""EventDatabase: the file with the tables of events, or the same in memory."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge_detector.errors import PublishError
from edge_detector.publishers.event_tables import TABLES, VIEWS, transaction

logger = logging.getLogger(__name__)
T = TypeVar("T")

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 1.0  # how long another program's lock is waited for
WAL_BYTES = 4 * 1024 * 1024
_MAGIC = b"SQLite format 3\0"


class EventDatabase:
    """The database `main` in memory with the database `kept` in the file `path`, or in memory; safe on any thread.

    A damaged file is moved aside and a new one begun, whenever that is found; then `on_loss` is called with the
    connection. What is in `main` stays.
    """

    def __init__(self, path: Path | None, on_loss: Callable[[sqlite3.Connection], None]) -> None:
        self.name = "the store of events" if path is None else str(path)
        self._path = path
        self._on_loss = on_loss
        self._lock = threading.Lock()
        self._attached = False
        self._closed = False
        self._connection = sqlite3.connect(
            ":memory:", timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        for statement in (*TABLES, *VIEWS):
            self._connection.execute(statement.format(place="main"))

    def run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `action` returns, which has the database for itself; with a new file, it is done once more.

        Raises:
            PublishError: it failed, with nothing of an open transaction done, or the database is closed.
        """
        with self._lock:
            if self._closed:
                raise PublishError(f"{self.name} is closed")
            try:
                try:
                    return action(self._opened())
                except sqlite3.DatabaseError as error:
                    if self._path is None or not _is_damage(error):
                        raise
                    if not self._attached and not _was_database(self._path):
                        raise PublishError(f"{self._path} is no database of events; choose another file") from error
                    self._begin_anew(self._path, error)
                    return action(self._opened())
            except (sqlite3.Error, OSError) as error:
                raise PublishError(f"cannot use {self.name}: {error}") from error

    def close(self) -> None:
        """Close the file; what is in `main` is gone."""
        with self._lock:
            self._closed = True
            self._connection.close()

    def _opened(self) -> sqlite3.Connection:
        if not self._attached:
            _attach(self._connection, self._path)
            self._attached = True
        return self._connection

    def _begin_anew(self, path: Path, error: sqlite3.DatabaseError) -> None:
        if self._attached:
            self._connection.execute("DETACH kept")
            self._attached = False
        logger.warning("%s is damaged (%s): moved to %s, and a new one is begun", path, error, _move_aside(path))
        self._on_loss(self._connection)


def _attach(connection: sqlite3.Connection, path: Path | None) -> None:
    connection.execute("ATTACH ? AS kept", (":memory:" if path is None else str(path),))
    try:
        _prepare(connection, path)
    except BaseException:
        connection.execute("DETACH kept")
        raise


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    version = connection.execute("PRAGMA kept.user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise PublishError(f"{path} is of a newer edge_detector; update this one or choose another file")
    if version == 0 and connection.execute("SELECT 1 FROM kept.sqlite_master").fetchone():
        raise PublishError(f"{path} is a database of another program; choose another file")
    connection.execute("PRAGMA kept.auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA kept.journal_mode = WAL")
    connection.execute("PRAGMA kept.synchronous = NORMAL")
    connection.execute(f"PRAGMA kept.journal_size_limit = {WAL_BYTES}")
    if version == 0:
        with transaction(connection):
            for statement in TABLES:
                connection.execute(statement.format(place="kept"))
            connection.execute(f"PRAGMA kept.user_version = {SCHEMA_VERSION}")


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether the file is damaged or no database: locks, full disks and so on have classes of their own."""
    return type(error) is sqlite3.DatabaseError


def _was_database(path: Path) -> bool:
    """Return whether the file may have been one: it begins like one, or holds what a power cut leaves, nothing."""
    with path.open("rb") as file:
        begin = file.read(len(_MAGIC))
    return begin == _MAGIC or not begin.strip(b"\0")


def _move_aside(path: Path) -> Path:
    """Rename a damaged database and what belongs to it, and return its new name, which no file had."""
    stem = f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    target, number = path.with_name(stem), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{stem}-{number}")
    # First the log: without its database it would be taken for that of the next.
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(target.with_name(target.name + suffix))
    return target
