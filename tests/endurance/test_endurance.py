from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.endurance import soak, verdict
from tests.endurance.watched_files import Tail
from tests.endurance.written import unreadable

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY)


def test_all_sinks_come_back_after_faults(tmp_path: Path) -> None:
    if shutil.which("mosquitto") is None:
        pytest.skip("needs mosquitto: apt install mosquitto")
    probe = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if subprocess.run(["/usr/bin/python3", "-c", probe], capture_output=True).returncode:
        pytest.skip("needs GStreamer's RTSP server: apt install python3-gi gir1.2-gst-rtsp-server-1.0 ...")
    faults = ["broker killed", "service stopped (SIGSTOP)", "slow viewers", "SIGHUP"]
    faults += ["disk full", "clock set by a day"] if os.geteuid() == 0 and shutil.which("gcc") else []
    only = [word for fault in faults for word in ("--only", fault)]
    told = call(
        *(FOLDER, "--minutes", 0.3, "--seed", 3, "--scale", 0.2, "--rest", 0.5, "--warm-up", 5),
        *("--together", 0.6, "--out", tmp_path, *only),
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["crashed"] == "", told.stdout + (tmp_path / "service.log").read_text()
    assert record["exit_code"] == 0
    assert record["injected"]
    assert [one for one in record["injected"] if one["missing"] or one["wrong"]] == []
    assert record["defects"] == []
    assert all(record["counts"].values())
    assert "| every sink delivers again within 60 s | yes |" in (tmp_path / "endurance.md").read_text()


def test_kills_and_power_cuts_leave_nothing_unreadable(tmp_path: Path) -> None:
    told = call(FOLDER / "power_cut.py", "--times", 3, "--images", 1, "--seed", 1, "--detect-fps", 5, "--out", tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "killed 3 times" in told.stdout


def test_slope_ignores_what_is_far_off() -> None:
    hours = [number / 60 for number in range(60)]
    memory = [200 + 0.5 * hour + (50 if number % 9 == 0 else 0) for number, hour in enumerate(hours)]
    slope, low, high = verdict.theil_sen(hours, memory)
    assert slope == pytest.approx(0.5, abs=0.01)
    assert low <= slope <= high


def test_slope_of_noise_is_uncertain() -> None:
    hours, memory = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [200.0, 203.0, 199.0, 204.0, 200.0, 202.0]
    _, low, high = verdict.theil_sen(hours, memory)
    assert low < 0 < high


def rows(minutes: int, leak_mb_per_h: float, threads: int) -> list[dict[str, Any]]:
    """Samples of a service that loses memory, and has gained `threads` in the second half."""
    return [
        {
            "s": 10.0 * number,
            "phase": "fault" if number % 4 == 0 else "rest",
            "fault": f"fault {number // 4}" if number % 4 == 0 else "",
            "rss_mb": 200 + leak_mb_per_h * number / 360,
            "anonymous_mb": 150.0,
            "threads": 20 + threads * (number > minutes * 3),
            "fds": 30,
            "abandoned": 0,
        }
        for number in range(minutes * 6)
    ]


@pytest.mark.parametrize(
    ("leak", "threads", "unmet"),
    [(0.2, 0, []), (5.0, 0, ["resident memory"]), (0.2, 1, ["no more threads"])],
)
def test_verdict_finds_leaks(leak: float, threads: int, unmet: list[str]) -> None:
    record = soak.Record(soak.Options(60, 1, Path(), warm_up_s=60), rows(60, leak, threads), exit_code=0)
    assert [what for what, met, _ in verdict.judge(record) if not met and not any(map(what.startswith, unmet))] == []
    assert sum(not met for _, met, _ in verdict.judge(record)) == len(unmet)


def test_what_comes_and_goes_is_no_leak() -> None:
    samples = rows(60, 0.2, 0)
    for number in range(5, 30, 3):  # some moments of the first half have more
        samples[number]["rss_mb"] += 40
    for number in range(300, 330, 3):  # and some of the last have less
        samples[number]["rss_mb"] -= 40
    hours, level_mb = verdict.levels(soak.Record(soak.Options(60, 1, Path(), warm_up_s=60), samples, exit_code=0))
    assert len(hours) == 12
    assert max(level_mb) - min(level_mb) < 1


def test_verdict_names_what_did_not_come_back() -> None:
    record = soak.Record(soak.Options(60, 1, Path(), warm_up_s=60), rows(60, 0, 0), exit_code=0)
    record.injected.append(soak.Injected(1.0, ["broker killed"], [""], 1.0, {}, ["webhook"]))
    told = [seen for what, met, seen in verdict.judge(record) if not met]
    assert told == ["webhook after broker killed"]


def test_lines_are_followed_over_new_files_and_lines_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes(b"one\ntw")
    assert list(tail.lines()) == [b"one"]
    os.truncate(path, 4)
    with path.open("ab") as file:
        file.write(b"TWO\n")
    assert list(tail.lines()) == [b"TWO"]
    with path.open("ab") as file:
        file.write(b"three\n")
    path.rename(tmp_path / "lines.1")
    path.write_bytes(b"four\n")
    assert list(tail.lines()) == [b"three", b"four"]
    tail.close()


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(b'{"a": 1}\n{"torn\n{"b": 2}\n{"half')
    (tmp_path / "events.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    day = tmp_path / "snapshots" / "front" / "2026-11-25"
    day.mkdir(parents=True)
    (day / "101010_person_1.jpg").write_bytes(b"")
    clips = tmp_path / "clips" / "front" / "2026-11-25"
    clips.mkdir(parents=True)
    (clips / "101010_person_1.mp4").write_bytes(b"none")
    (clips / "101010_person_1.json").write_text('{"start_ts": 1.0, "end_ts": 3.0}')
    state = tmp_path / "state"
    state.mkdir()
    (state / "session.key").write_bytes(b"short")
    found = unreadable(tmp_path, state, running=False)
    for word in ("line 2 of 3", "half a line", "events.db", "no picture", "does not play", "has 5 bytes"):
        assert any(word in text for text in found), (word, found)
