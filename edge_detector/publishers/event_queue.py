"""EventQueue: events that wait for their sink, bounded in number and in memory."""

from __future__ import annotations

from dataclasses import replace

from edge_detector.events import Alert, Event

CAPACITY = 1000
SNAPSHOT_BYTES = 32 * 1024 * 1024


class EventQueue:
    """Events in order, at most `capacity` of them with at most `snapshot_bytes` of pictures; not thread safe.

    Of an object at most one "update" waits: a newer one takes its place, at the end of the queue, and inherits its
    snapshot if it has none of its own; unless it is not to `merge`.
    """

    def __init__(self, capacity: int = CAPACITY, snapshot_bytes: int = SNAPSHOT_BYTES, *, merge: bool = True) -> None:
        self._merge = merge
        self._capacity = capacity
        self._snapshot_bytes = snapshot_bytes
        self._events: dict[int, Event | Alert] = {}  # by number, oldest first
        self._updates: dict[str, int] = {}  # number of each object's update, oldest first
        self._bytes = 0
        self._added = 0

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event | Alert) -> int:
        """Append an event and return how many had to go for it.

        In a full queue these are the oldest updates, and where there is none the oldest of all. Pictures that take
        too much memory go without their events, oldest first, and are not counted.
        """
        if self._merge and isinstance(event, Event) and event.kind == "update":
            event = self._merged(event)
            self._updates[event.object.id] = self._added
        self._events[self._added] = event
        self._added += 1
        self._bytes += _snapshot_bytes(event)
        dropped = 0
        while len(self._events) > self._capacity:
            self._pop(next(iter(self._updates.values()), next(iter(self._events))))
            dropped += 1
        self._shed_snapshots()
        return dropped

    def take(self, count: int) -> list[Event | Alert]:
        """Remove and return the `count` oldest events, or all if there are fewer."""
        return [self._pop(number) for number in list(self._events)[:count]]

    def _merged(self, update: Event) -> Event:
        number = self._updates.get(update.object.id)
        if number is None:
            return update
        older = self._pop(number)
        if update.snapshot is None and isinstance(older, Event):
            return replace(update, snapshot=older.snapshot)
        return update

    def _pop(self, number: int) -> Event | Alert:
        event = self._events.pop(number)
        self._bytes -= _snapshot_bytes(event)
        if isinstance(event, Event) and event.kind == "update":
            self._updates.pop(event.object.id, None)
        return event

    def _shed_snapshots(self) -> None:
        if self._bytes <= self._snapshot_bytes:
            return
        for number, event in self._events.items():
            if isinstance(event, Event) and event.snapshot is not None:
                self._bytes -= event.snapshot.nbytes
                self._events[number] = replace(event, snapshot=None)
            if self._bytes <= self._snapshot_bytes:
                return


def _snapshot_bytes(event: Event | Alert) -> int:
    return event.snapshot.nbytes if isinstance(event, Event) and event.snapshot is not None else 0
