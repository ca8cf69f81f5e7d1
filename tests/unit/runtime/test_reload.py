"""A reload that does not come to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, cast

import pytest

from edge_detector.config import Config
from edge_detector.errors import ConfigError
from edge_detector.runtime import reload as reload_module
from edge_detector.runtime.outputs import Outputs
from edge_detector.runtime.reload import Reload, Reloader, Running


class Counted:
    """What a reload that cannot read its settings asks of the outputs."""

    def __init__(self) -> None:
        self.reloads = {"ok": 0, "failed": 0}


def wait_until(met: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_reload_that_hangs_is_said_once_and_the_next_waits_for_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reload_module, "HANGS_S", -1.0)
    answers, wanted, outputs = threading.Event(), threading.Event(), Counted()

    def read() -> Config:  # from a disk that does not answer
        assert answers.wait(20)
        raise ConfigError("no settings")

    running = Running(Config(), cast(Any, None), cast(Any, None), cast(Outputs, outputs), {})
    with closing(Reloader(running, Reload(wanted, read), cast(Any, None))) as reloader:
        wanted.set()
        assert reloader.begin()
        wanted.set()
        assert not reloader.begin()
        assert not reloader.begin()
        assert len(caplog.messages) == 1
        assert "still not taken" in caplog.messages[0]
        answers.set()
        wait_until(reloader.begin)
        wait_until(lambda: not reloader.busy)
    assert outputs.reloads == {"ok": 0, "failed": 2}
