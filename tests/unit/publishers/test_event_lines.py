from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Crossing, Event, ObjectState
from edge_detector.publishers import open_event_publisher
from edge_detector.publishers.event_lines import EventLines
from edge_detector.publishers.event_worker import PartlyWritten, QueuedEvents
from edge_detector.publishers.schema import event_to_json

MakeObject = Callable[..., ObjectState]
LimitFiles = Callable[[int], AbstractContextManager[None]]
WaitUntil = Callable[..., None]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_event_and_alert_have_the_fields_of_schema_1(make_object: MakeObject) -> None:
    there = make_object(seen_ts=1700000004.5678, crossings=(Crossing("gate", "in", 1.5),))
    gone = make_object(ended=True, seen_ts=1700000009.0)
    assert json.loads(event_to_json(Event("update", there))) == {
        "schema": 1,
        "type": "update",
        "ts": 1700000004.568,
        "object": there.to_json(),
    }
    assert json.loads(event_to_json(Event("end", gone)))["ts"] == 1700000009.0
    assert json.loads(event_to_json(Alert("loiter", 1700000007.12345, there, count=2))) == {
        "schema": 1,
        "type": "alert",
        "rule": "loiter",
        "ts": 1700000007.123,
        "count": 2,
        "object": there.to_json(),
    }


def test_one_line_per_event_is_appended_to_what_was_there(tmp_path: Path, make_object: MakeObject) -> None:
    path = tmp_path / "events.jsonl"
    for number in range(2):
        publisher = open_event_publisher("lines", path=path)
        publisher.publish_event(Event("new", make_object(f"o{number}")))
        publisher.publish_event(Event("end", make_object(f"o{number}", ended=True)))
        publisher.close()
    assert [(line["type"], line["object"]["id"]) for line in lines(path)] == [
        ("new", "o0"),
        ("end", "o0"),
        ("new", "o1"),
        ("end", "o1"),
    ]


def test_half_line_of_a_full_disk_is_taken_away_and_written_whole_later(
    tmp_path: Path, make_object: MakeObject, limit_files: LimitFiles
) -> None:
    path = tmp_path / "events.jsonl"
    sink = EventLines(path)
    events = [Event("new", make_object(f"o{number}")) for number in range(9)]
    with limit_files(1500), pytest.raises(PartlyWritten, match="No space left") as caught:
        sink.write(events)
    assert 0 < caught.value.written < 9
    assert len(lines(path)) == caught.value.written
    sink.write(events[caught.value.written :])
    sink.finish()
    assert [line["object"]["id"] for line in lines(path)] == [f"o{number}" for number in range(9)]


def test_each_event_is_one_line_though_the_disk_is_full_for_a_while(
    tmp_path: Path, make_object: MakeObject, limit_files: LimitFiles, wait_until: WaitUntil
) -> None:
    path = tmp_path / "events.jsonl"
    publisher = QueuedEvents(EventLines(path), first_pause_s=0.01, max_pause_s=0.02)
    with limit_files(5000):
        for number in range(50):
            publisher.publish_event(Event("new", make_object(f"o{number}")))
        wait_until(lambda: publisher._failing_since is not None)
        time.sleep(0.1)
    publisher.close()
    assert [line["object"]["id"] for line in lines(path)] == [f"o{number}" for number in range(50)]


def test_line_left_unfinished_by_a_power_cut_spoils_no_other(tmp_path: Path, make_object: MakeObject) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"schema":1,"ty', encoding="utf-8")
    sink = EventLines(path)
    sink.write([Event("new", make_object())])
    sink.finish()
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[1])["type"] == "new"


def test_objects_without_an_end_get_one_when_the_file_is_gone_on_with(tmp_path: Path, make_object: MakeObject) -> None:
    path = tmp_path / "events.jsonl"
    left, gone = make_object("left", entered_zones=("porch",)), make_object("gone")
    told = [Event("new", left), Event("new", gone), Event("update", left), Alert("visit", 5.0, left)]
    told.append(Event("end", make_object("gone", ended=True)))
    path.write_text("\n".join(map(event_to_json, told)) + '\n{"type":"new"}\n{"schema":1,"ty', encoding="utf-8")
    for _ in range(2):
        open_event_publisher("lines", path=path).close()
    *before, last = path.read_text(encoding="utf-8").splitlines()
    assert len(before) == 7
    ended = make_object("left", entered_zones=("porch",), end_ts=left.seen_ts, end_reason="interrupted")
    assert last == event_to_json(Event("end", ended))


@pytest.mark.parametrize("target", ["missing/events.jsonl", "."])
def test_unwritable_file_is_a_publish_error_at_once(tmp_path: Path, target: str) -> None:
    with pytest.raises(PublishError, match=r"cannot write .*; choose another file"):
        open_event_publisher("lines", path=tmp_path / target)


WRITER = """
import sys
from edge_detector.events import Event, ObjectState
from edge_detector.publishers.event_lines import EventLines

sink = EventLines(sys.argv[1])
path = [(0.1, 0.2, 0.3)] * 300
for number in range(10**9):
    o = ObjectState(str(number), "front", 1, "person", 0.5, 0.5, (0, 0, 9, 9), (0, 0, 1, 1), 0.0, 0.0, path=path)
    sink.write([Event("new", o)])
"""


def test_kill_leaves_only_whole_lines(tmp_path: Path, repository: Path, wait_until: WaitUntil) -> None:
    path = tmp_path / "events.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=repository) as writer:
        wait_until(lambda: path.exists() and path.stat().st_size > 1_000_000, 30)
        writer.kill()
    written = lines(path)
    assert [line["object"]["id"] for line in written] == [str(number) for number in range(len(written))]
    assert path.read_bytes().endswith(b"}\n")
