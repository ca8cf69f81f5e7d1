"""Threads that hang in a call and were left behind: counted, and known to whoever ends the program."""

from __future__ import annotations

import threading

_threads: list[threading.Thread] = []
_lock = threading.Lock()


def leave_behind(thread: threading.Thread) -> None:
    """Note that nobody waits for `thread` any more; it must be a daemon."""
    with _lock:
        _threads.append(thread)


def count_abandoned() -> int:
    """Return how many of them still hang; while there are any, only `os._exit` ends the program for sure."""
    with _lock:
        _threads[:] = [thread for thread in _threads if thread.is_alive()]
        return len(_threads)
