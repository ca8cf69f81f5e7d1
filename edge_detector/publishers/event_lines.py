"""Events and alerts as JSON Lines, schema 1, in a file."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from io import FileIO
from pathlib import Path

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, ObjectState
from edge_detector.publishers.event_worker import PartlyWritten, QueuedEvents
from edge_detector.publishers.schema import event_to_json

TAIL_BYTES = 8 * 1024 * 1024  # of a file that is gone on with, in which objects without an end are looked for


def open_event_lines(
    path: str | Path, *, lossless: bool = False, stop: threading.Event | None = None
) -> QueuedEvents[EventLines]:
    """Return a publisher that appends one line per event to the file `path`; `lossless` and `stop` as there.

    Objects that the file leaves without an end, after a kill or a power cut, get one now.

    Raises:
        PublishError: the file cannot be written.
    """
    publisher = QueuedEvents(EventLines(path), lossless=lossless, stop=stop)
    for state in _left_open(Path(path)):
        publisher.publish_event(Event("end", replace(state, end_ts=state.seen_ts, end_reason="interrupted")))
    return publisher


class EventLines:
    """An `EventSink` that appends a line per event to the file `path`, each in one write without a buffer.

    So a kill leaves only complete lines, and of a disk that is full the half line is taken away again.

    Raises:
        PublishError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        try:
            self._file = FileIO(self.name, "a")
            if _ends_within_a_line(Path(path)):  # after a power cut
                self._file.write(b"\n")
        except OSError as error:
            raise PublishError(f"cannot write {path}: {error.strerror}; choose another file") from error

    def write(self, events: Sequence[Event | Alert]) -> None:
        """Append the events; see `EventSink`."""
        for written, event in enumerate(events):
            try:
                self._append(event_to_json(event).encode() + b"\n")
            except OSError as error:
                raise PartlyWritten(f"cannot write {self.name}: {error.strerror}", written) from error

    def finish(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: bytes) -> None:
        written = self._file.write(line)
        if written != len(line):
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _left_open(path: Path) -> list[ObjectState]:
    """Return the objects that the end of a file tells of, and not that they have ended."""
    if not path.is_file():
        return []
    left: dict[str, ObjectState] = {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        for line in file:
            try:
                document = json.loads(line)
                kind, state = document["type"], ObjectState.from_json(document["object"])
            except (ValueError, KeyError, TypeError):  # half a line, or another program's
                continue
            if kind == "end":
                left.pop(state.id, None)
            elif kind != "alert":
                left[state.id] = state
    return list(left.values())


def _ends_within_a_line(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
