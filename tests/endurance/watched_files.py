"""What the service writes, seen from outside while it grows, turns over and is deleted."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

from tests.endurance.deliveries import Deliveries

POLL_S = 0.5


class Tail:
    """New complete lines of a file that is renamed now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._at = 0  # where the first line begins that is not complete
        self._inode = 0

    def lines(self) -> Iterator[bytes]:
        """Yield what is new."""
        if self._file is not None:
            yield from self._read(self._file)
        with suppress(OSError):
            there = self._path.stat()
            if self._file is None or there.st_ino != self._inode:
                if self._file is not None:
                    yield from self._read(self._file)  # what came between
                self.close()
                self._file = self._path.open("rb")
                self._inode = there.st_ino
                yield from self._read(self._file)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._at = None, 0

    def _read(self, file: BinaryIO) -> Iterator[bytes]:
        file.seek(self._at)  # half a line is read again: it may have been taken away meanwhile
        *whole, half = file.read().split(b"\n")
        self._at = file.tell() - len(half)
        yield from (line for line in whole if line)


class WatchedFiles:
    """Polls the folder of outputs, on a thread of its own."""

    def __init__(self, folder: Path, deliveries: Deliveries) -> None:
        self._folder, self._deliveries = folder, deliveries
        self._results = Tail(folder / "results.jsonl")
        self._events = Tail(folder / "events.jsonl")
        self._known: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._results.close()
        self._events.close()

    def _run(self) -> None:
        while not self._over.wait(POLL_S):
            self._look_at_lines()
            self._look_at_rows()
            self._look_at_files()

    def _look_at_lines(self) -> None:
        for tail, of_events in ((self._results, False), (self._events, True)):
            for line in tail.lines():
                try:
                    document = json.loads(line)
                except ValueError:
                    self._deliveries.defect(f"a line is no JSON: {line[:40]!r}...{line[-40:]!r}")
                    continue
                self._deliveries.note("events.jsonl" if of_events else f"JSONL: {document['camera']}")
                if of_events and document["type"] == "end":
                    self._deliveries.note_end("events.jsonl", document["object"]["id"])

    def _look_at_rows(self) -> None:
        path = self._folder / "events.db"
        if not path.exists():
            return
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as rows:
            for object_id, ended in rows.execute("SELECT id, end_ts IS NOT NULL FROM objects").fetchall():
                if self._is_new(f"row {object_id}"):
                    self._deliveries.note("event database")
                if ended and self._is_new(f"end {object_id}"):
                    self._deliveries.note_end("event database", object_id)

    def _look_at_files(self) -> None:
        for path in (self._folder / "snapshots").glob("*/*/*.jpg"):
            if not path.name.startswith(".") and self._is_new(str(path)):
                self._deliveries.note("snapshots")
                with suppress(FileNotFoundError):
                    if not path.read_bytes().endswith(b"\xff\xd9"):
                        self._deliveries.defect(f"{path.name} is cut")
        for path in (self._folder / "clips").glob("*/*/*.json"):
            if str(path) in self._known:
                continue
            with suppress(FileNotFoundError, ValueError):
                shape = json.loads(path.read_bytes())
                if shape["end_ts"] is not None:
                    self._known.add(str(path))
                    self._deliveries.note(f"clips: {shape['camera']}")

    def _is_new(self, key: str) -> bool:
        if key in self._known:
            return False
        self._known.add(key)
        return True
