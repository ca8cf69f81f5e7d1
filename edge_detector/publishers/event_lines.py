"""Events and alerts as JSON Lines, schema 1, in a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, ObjectState
from edge_detector.publishers.append_file import UNLIMITED, AppendFile, Growth
from edge_detector.publishers.event_worker import PartlyWritten, QueuedEvents
from edge_detector.publishers.schema import event_to_json

TAIL_BYTES = 8 * 1024 * 1024  # of a file that is gone on with, in which objects without an end are looked for


def open_event_lines(
    path: str | Path,
    *,
    growth: Growth = UNLIMITED,
    lossless: bool = False,
    stop: threading.Event | None = None,
) -> QueuedEvents[EventLines]:
    """Return a publisher that appends one line per event to the file `path`; see `AppendFile` and `QueuedEvents`.

    Objects that the file leaves without an end, after a kill or a power cut, get one now.

    Raises:
        PublishError: the file cannot be written.
    """
    publisher = QueuedEvents(EventLines(path, growth), lossless=lossless, stop=stop)
    for state in _left_open(Path(path)):
        publisher.publish_event(Event("end", replace(state, end_ts=state.seen_ts, end_reason="interrupted")))
    return publisher


class EventLines:
    """An `EventSink` that appends a line per event to the file `path`, see `AppendFile`.

    Raises:
        PublishError: the file cannot be written.
    """

    def __init__(self, path: str | Path, growth: Growth = UNLIMITED) -> None:
        self.name = str(path)
        try:
            self._file = AppendFile(path, growth)
        except OSError as error:
            raise PublishError(f"cannot write {path}: {error.strerror}; choose another file") from error

    def write(self, events: Sequence[Event | Alert]) -> None:
        """Append the events; see `EventSink`."""
        for written, event in enumerate(events):
            try:
                self._file.append(event_to_json(event).encode() + b"\n")
            except OSError as error:
                raise PartlyWritten(f"cannot write {self.name}: {error.strerror}", written) from error

    def finish(self) -> None:
        """Close the file."""
        self._file.close()


def _left_open(path: Path) -> list[ObjectState]:
    """Return the objects that the end of a file tells of, and the one before it, and not that they have ended."""
    left: dict[str, ObjectState] = {}
    sizes = {part: part.stat().st_size for part in (path.with_name(f"{path.name}.1"), path) if part.is_file()}
    for part, size in sizes.items():
        # What is read must be in one piece: of the file before only what adjoins.
        wanted = TAIL_BYTES - (0 if part == path else sizes.get(path, 0))
        if wanted > 0:
            with part.open("rb") as file:
                file.seek(max(0, size - wanted))
                _read(file, left)
    return list(left.values())


def _read(lines: Iterable[bytes], left: dict[str, ObjectState]) -> None:
    for line in lines:
        try:
            document = json.loads(line)
            kind, state = document["type"], ObjectState.from_json(document["object"])
        except (ValueError, KeyError, TypeError):  # half a line, or another program's
            continue
        if kind == "end":
            left.pop(state.id, None)
        elif kind != "alert":
            left[state.id] = state
