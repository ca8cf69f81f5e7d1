"""Recovery, on a computed camera whose faults are declared."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from edge_detector.errors import EndOfStream, SourceError
from edge_detector.frame import Frame
from edge_detector.sources import live
from edge_detector.sources.camera import CaptureOptions, Recovery
from edge_detector.sources.live import LiveSource
from edge_detector.sources.scenes import BoxScene
from edge_detector.sources.synthetic import FaultyPlug, SyntheticCamera

SOON = Recovery(open_s=0.4, grab_s=0.4, frozen_s=0.3, retry_s=0.02, retry_max_s=0.1, give_up_s=0.5)
Start = Callable[..., tuple[LiveSource, FaultyPlug]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that opens a source on a plug with faults; everything is closed at the end."""
    opened: list[tuple[LiveSource, FaultyPlug]] = []

    def make(
        faults: Mapping[int, str], recovery: Recovery = SOON, unplugged_s: float = 0.2, fps: float = 200
    ) -> tuple[LiveSource, FaultyPlug]:
        plug = FaultyPlug(BoxScene(64, 48), fps, faults, unplugged_s)  # type: ignore[arg-type]
        source = LiveSource("synthetic://", lambda: SyntheticCamera(plug, CaptureOptions(timeout_s=0.1)), recovery)
        opened.append((source, plug))
        return opened[-1]

    yield make
    for source, plug in opened:
        plug.hang_ends.set()
        source.close()


def read_until(source: LiveSource, condition: Callable[[], bool], limit_s: float = 10) -> list[Frame]:
    frames = []
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < limit_s, source.health
        frame = source.read(0.02)
        if frame is not None:
            frames.append(frame)
    return frames


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_unplugged_camera_comes_back_with_rising_ids_one_warning_and_one_notice(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source, _ = start({10: "unplug"})
    frames = read_until(source, lambda: source.health.state == "reconnecting")
    assert source.health.error == "synthetic://: unplugged, as declared"
    frames += read_until(source, lambda: source.health.state == "live")
    end_s = time.monotonic() + 0.3
    frames += read_until(source, lambda: time.monotonic() > end_s)
    assert len(frames) > 20
    ids = [frame.frame_id for frame in frames]
    assert ids == sorted(set(ids))
    assert source.health.recreated >= 2  # the first tries are in vain
    assert source.health.error is None
    assert sum("unplugged" in record.message for record in caplog.records) == 1
    assert sum("back after" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "waits_s", [0.02, 1.0]
)  # who reads notices the trouble meanwhile, or only with the next picture
def test_stalled_camera_is_restarted_in_place_when_it_was_stable_and_says_so(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, waits_s: float
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(live, "_STABLE_S", 0)
    source, _ = start({10: "stall"})
    end_s = time.monotonic() + 1
    while time.monotonic() < end_s:
        source.read(waits_s)
    assert (source.health.reopened, source.health.recreated, source.health.errors) == (1, 0, 1)
    assert source.health.state == "live"
    assert [record.message.partition("; ")[0].partition(" after")[0] for record in caplog.records] == [
        "synthetic://: no picture for 0.1 s",
        "synthetic://: back",
    ]


def test_camera_that_fails_again_at_once_is_opened_anew(start: Start) -> None:
    source, _ = start({10: "stall"})
    read_until(source, lambda: source.health.recreated == 1)
    assert (source.health.reopened, source.health.errors, source.health.hangs) == (0, 1, 0)


def test_hanging_call_is_left_behind_and_counted_and_the_camera_opened_anew(start: Start) -> None:
    source, plug = start({10: "hang"})
    before = set(threading.enumerate())
    read_until(source, lambda: source.health.abandoned == 1)
    plug._fault = None  # what hangs in one call need not hang in the next
    read_until(source, lambda: source.health.state == "live")
    assert len(set(threading.enumerate()) - before) == 1
    assert source.health.hangs >= 1
    plug.hang_ends.set()


def test_close_does_not_wait_for_a_hanging_call(start: Start) -> None:
    source, _ = start({3: "hang"}, Recovery(grab_s=60))
    read_until(source, lambda: source.health.state == "live")
    while source.read(0.2) is not None:
        pass
    start_s = time.monotonic()
    source.close()
    assert time.monotonic() - start_s < 1
    with pytest.raises(EndOfStream):
        source.read(0.1)


def test_so_many_hanging_calls_end_all_tries(caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    def hang() -> NoReturn:
        over.wait(20)
        raise SourceError("over")

    recovery = Recovery(open_s=0.1, retry_s=0.01, retry_max_s=0.02, max_abandoned=2)
    source = LiveSource("camera", hang, recovery)
    read_until(source, lambda: source.health.state == "failed")
    assert source.health.lost
    assert source.health.abandoned == 2
    assert "only a new start" in caplog.text
    source.close()
    over.set()


def test_frozen_picture_is_noticed_once_and_the_camera_restarted(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source, _ = start({10: "freeze"})
    read_until(source, lambda: source.health.state == "frozen")
    read_until(source, lambda: source.health.state == "live")
    assert (source.health.freezes, source.health.reopened, source.health.recreated) == (1, 1, 0)
    assert (source.health.errors, source.health.hangs) == (0, 0)
    assert caplog.text.count("has not changed") == 1
    assert "moves again" in caplog.text


def test_scene_that_stands_still_is_not_restarted_for_ever() -> None:
    class StillScene(BoxScene):
        def boxes(self, frame_id: int):  # type: ignore[no-untyped-def]
            return super().boxes(0)

    plug = FaultyPlug(StillScene(64, 48), 100)
    source = LiveSource("still", lambda: SyntheticCamera(plug, CaptureOptions()), SOON)
    read_until(source, lambda: source.health.state == "frozen")
    end_s = time.monotonic() + 1
    frames = read_until(source, lambda: time.monotonic() > end_s)
    source.close()
    assert len(frames) > 20  # it is shown all the same
    assert source.health.freezes == 1


def test_pauses_grow_up_to_the_longest(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = []

    def fail() -> NoReturn:
        times_s.append(time.monotonic())
        raise SourceError("away")

    monkeypatch.setattr(live, "_JITTER", 0)
    source = LiveSource("away", fail, Recovery(retry_s=0.05, retry_max_s=0.2, give_up_s=60))
    read_until(source, lambda: len(times_s) == 6)
    source.close()
    pauses_s = [after - before for before, after in itertools.pairwise(times_s)]
    for pause_s, wanted_s in zip(pauses_s, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True):
        assert wanted_s - 0.001 <= pause_s < wanted_s + 0.15
    assert not source.health.lost


def test_camera_is_lost_when_the_time_to_come_back_is_over_and_still_tried(start: Start) -> None:
    source, _ = start({10: "unplug"}, unplugged_s=1.0)
    read_until(source, lambda: source.health.lost)
    read_until(source, lambda: source.health.state == "live")
    assert not source.health.lost


def test_required_camera_fails_at_once_and_another_waits() -> None:
    def fail() -> NoReturn:
        raise SourceError("no such camera")

    required = LiveSource("camera", fail, SOON, required=True)
    with pytest.raises(SourceError, match="no such camera"):
        read_until(required, lambda: False)
    required.close()
    patient = LiveSource("camera", fail, SOON)
    read_until(patient, lambda: patient.health.recreated == 3)
    patient.close()


def test_driver_that_raises_anything_is_a_failing_camera(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> NoReturn:
        raise ZeroDivisionError("a bug in a driver")

    source = LiveSource("camera", fail, SOON)
    read_until(source, lambda: source.health.state == "reconnecting")
    source.close()
    assert "a bug in a driver" in caplog.text


def test_two_hundred_times_unplugged_leaves_no_thread_file_or_memory(start: Start, tmp_path: Path) -> None:
    cycles = 200

    class Holding(SyntheticCamera):
        """Holds a file and 1 MB while it is open."""

        def __init__(self, plug: FaultyPlug, options: CaptureOptions) -> None:
            super().__init__(plug, options)
            self.file = (tmp_path / "held").open("w")
            self.memory = bytearray(os.urandom(1)) * 1_000_000

        def close(self) -> None:
            self.file.close()

    plug = FaultyPlug(BoxScene(64, 48), 2000, {5 * n: "unplug" for n in range(1, cycles + 1)}, unplugged_s=0.005)
    recovery = Recovery(retry_s=0.002, retry_max_s=0.004)
    source = LiveSource("synthetic://", lambda: Holding(plug, CaptureOptions()), recovery)
    logging.disable(logging.WARNING)
    try:
        read_until(source, lambda: plug._number > 5 * 10 and source.health.state == "live")
        threads, files, memory = threading.active_count(), open_files(), resident_bytes()
        read_until(source, lambda: plug._number > 5 * cycles + 10 and source.health.state == "live", limit_s=60)
    finally:
        logging.disable(logging.NOTSET)
    assert source.health.recreated >= cycles
    assert source.health.abandoned == 0
    assert threading.active_count() <= threads + 1  # a reader may just be coming or going
    assert open_files() <= files + 1
    assert resident_bytes() - memory < 30e6  # of 200 MB; glibc keeps some per thread
    source.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
