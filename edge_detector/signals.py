"""Signals, as events that threads wait for."""

from __future__ import annotations

import signal
import threading
from _thread import start_new_thread


def stop_on_signals() -> threading.Event:
    """Return an event that Ctrl-C or SIGTERM sets; a second signal ends the program at once."""
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        _set(stop)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def event_on(number: signal.Signals) -> threading.Event:
    """Return an event that a signal sets."""
    event = threading.Event()
    signal.signal(number, lambda *_: _set(event))
    return event


def _set(event: threading.Event) -> None:
    """Set an event on a thread: the signal may have come while this one holds the event's lock, as in `Event.wait`."""
    try:
        start_new_thread(event.set, ())  # `Thread.start` has locks of its own
    except RuntimeError:  # no room for a thread
        event.set()
