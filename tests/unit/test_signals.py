"""Signals that come at the worst moment."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# The signal comes while the thread that it comes to holds the event's lock, as for a moment in every `Event.wait`.
PROGRAM = """
import signal
from edge_detector.signals import event_on, stop_on_signals

event = {event}
with event._cond:
    signal.raise_signal(signal.{name})
assert event.wait(20)
print("ended")
"""


@pytest.mark.parametrize(("name", "event"), [("SIGTERM", "stop_on_signals()"), ("SIGHUP", "event_on(signal.SIGHUP)")])
def test_signal_does_not_wait_for_the_lock_that_its_thread_holds(name: str, event: str) -> None:
    program = PROGRAM.format(name=name, event=event)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("ended\n", "")


def test_second_signal_ends_at_once() -> None:
    program = (
        "import signal, edge_detector.signals as signals\n"
        "signals.stop_on_signals()\n"
        "for _ in range(2): signal.raise_signal(signal.SIGTERM)\n"
        "print('still there')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "")
