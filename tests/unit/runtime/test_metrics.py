from __future__ import annotations

import time

import pytest

from edge_detector.runtime.metrics import RateMeter


def test_rate_is_zero_before_the_second_event() -> None:
    meter = RateMeter()
    assert meter.per_second == 0
    meter.tick()
    assert meter.per_second == 0


def test_rate_of_a_steady_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    meter = RateMeter()
    for _ in range(50):
        now_s += 0.04
        meter.tick()
    assert meter.per_second == pytest.approx(25)


def test_rate_sinks_when_no_more_events_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    meter = RateMeter()
    for _ in range(30):
        now_s += 0.1
        meter.tick()
    now_s += 97
    assert meter.per_second == pytest.approx(0.3, rel=0.01)
