"""Recorded clips, asked of the real server over loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_detector.publishers.recorder import open_clips
from edge_detector.publishers.web import WebPublisher
from edge_detector.sink_config import RecordingsConfig

OpenWeb = Callable[..., WebPublisher]
Ask = Callable[..., Any]


@pytest.fixture
def web(open_web: OpenWeb, tmp_path: Path) -> WebPublisher:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    clips = open_clips(RecordingsConfig(path=str(tmp_path / "clips"), max_age_days=36500))
    for number in range(3):
        start_ts = 1700000000.0 + 60 * number
        clip_id, video = clips.begin("yard", start_ts, {f"yard-{number}": "person"}, (64, 48))
        video.write_bytes(bytes(range(100)))
        clips.end(clip_id, start_ts + 10)
    return open_web(recordings=clips)


def test_clips_are_listed_newest_first_and_found_by_their_object(web: WebPublisher, ask: Ask) -> None:
    listed = json.loads(ask(web, "/api/clips")[2])
    assert [clip["objects"] for clip in listed] == [["yard-2"], ["yard-1"], ["yard-0"]]
    (found,) = json.loads(ask(web, "/api/clips?object_id=yard-1&camera=yard&limit=5")[2])
    assert found == listed[1]
    assert json.loads(ask(web, "/api/clips?camera=gate")[2]) == []


def test_clip_and_parts_of_it_are_sent(web: WebPublisher, ask: Ask) -> None:
    clip = json.loads(ask(web, "/api/clips")[2])[0]["id"]
    status, headers, body = ask(web, f"/api/clips/{clip}/clip.mp4")
    assert (status, headers["Content-Type"], body) == (200, "video/mp4", bytes(range(100)))
    status, _, body = ask(web, f"/api/clips/{clip}/clip.mp4", Range="bytes=10-19")
    assert (status, body) == (206, bytes(range(10, 20)))


@pytest.mark.parametrize("clip", ["nothing", "..%2f..%2fsecret", "..%2f..%2fsecret.mp4", "%00", "x" * 300, "yard"])
def test_nothing_else_is_sent(web: WebPublisher, ask: Ask, clip: str) -> None:
    status, _, body = ask(web, f"/api/clips/{clip}/clip.mp4")
    assert (status, body) == (404, b"no such clip\n")


@pytest.mark.parametrize("query", ["limit=0", "after=x", "colour=red"])
def test_bad_parameter_is_one_line_that_says_what_to_give(web: WebPublisher, ask: Ask, query: str) -> None:
    status, _, body = ask(web, f"/api/clips?{query}")
    assert status == 400
    assert body.count(b"\n") == 1


def test_without_recordings_it_says_how_to_have_them(open_web: OpenWeb, ask: Ask) -> None:
    for path in ("/api/clips", "/api/clips/x/clip.mp4"):
        status, _, body = ask(open_web(), path)
        assert (status, body) == (404, b"nothing is recorded; set recordings: {path: FOLDER}\n")
