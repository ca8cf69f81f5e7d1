from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from edge_detector.events import Event, ObjectState
from edge_detector.publishers import open_event_publisher
from edge_detector.publishers.append_file import AppendFile, Growth

LimitFiles = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines"


def test_lines_are_appended_to_what_is_there(path: Path) -> None:
    path.write_bytes(b"old\n")
    with closing(AppendFile(path)) as file:
        file.append(b"one\n")
        file.append(b"two\n")
    assert path.read_bytes() == b"old\none\ntwo\n"


def test_file_is_rotated_before_it_is_too_large_and_the_oldest_are_deleted(path: Path) -> None:
    with closing(AppendFile(path, Growth(max_mb=30e-6, keep=2))) as file:
        for number in range(20):
            file.append(b"line %04d\n" % number)
    names = sorted(one.name for one in path.parent.iterdir())
    assert names == ["lines", "lines.1", "lines.2"]
    kept = b"".join(path.with_name(name).read_bytes() for name in ("lines.2", "lines.1", "lines"))
    assert kept == b"".join(b"line %04d\n" % number for number in range(12, 20))


def test_line_that_is_larger_than_the_limit_is_written_whole(path: Path) -> None:
    with closing(AppendFile(path, Growth(max_mb=10e-6))) as file:
        for _ in range(3):
            file.append(b"x" * 50 + b"\n")
    assert path.read_bytes() == path.with_name("lines.1").read_bytes() == b"x" * 50 + b"\n"


def test_file_that_another_program_moved_away_is_begun_anew(path: Path) -> None:
    with closing(AppendFile(path)) as file:
        file.append(b"one\n")
        path.rename(path.with_name("moved"))
        file.append(b"two\n")
        path.unlink()
        file.append(b"three\n")
    assert path.read_bytes() == b"three\n"
    assert path.with_name("moved").read_bytes() == b"one\n"


def test_half_line_of_a_full_disk_is_taken_away(path: Path, limit_files: LimitFiles) -> None:
    with closing(AppendFile(path)) as file:
        file.append(b"one\n")
        with limit_files(10), pytest.raises(OSError, match="No space left"):
            file.append(b"a line that does not fit\n")
        assert path.read_bytes() == b"one\n"
        file.append(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_line_that_a_power_cut_left_unfinished_is_ended(path: Path) -> None:
    path.write_bytes(b"one\nhal")
    with closing(AppendFile(path)) as file:
        file.append(b"two\n")
        file.append(b"three\n")
    assert path.read_bytes() == b"one\nhal\ntwo\nthree\n"


def test_file_that_cannot_be_renamed_grows_on_with_one_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.with_name("lines.1").mkdir()
    (path.with_name("lines.1") / "full").touch()
    path.with_name("lines.2").mkdir()
    (path.with_name("lines.2") / "full").touch()
    with closing(AppendFile(path, Growth(max_mb=10e-6))) as file:
        for number in range(9):
            file.append(b"line %d\n" % number)
    assert path.read_bytes().count(b"\n") == 9
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_file_is_rotated_when_it_was_begun_long_ago(path: Path) -> None:
    now, day_s = time.time(), 86400
    path.write_bytes(b'{"schema":1,"ts":%.3f}\n{"schema":1,"ts":%.3f}\n' % (now - 3.1 * day_s, now))
    with closing(AppendFile(path, Growth(max_days=3.0, keep=2))) as file:
        file.append(b'{"schema":1,"ts":%.3f}\n' % now)
        file.append(b"one\n")
    assert path.read_bytes().count(b"\n") == path.with_name("lines.1").read_bytes().count(b"\n") == 2
    with closing(AppendFile(path, Growth(max_days=3.0))) as file:
        file.append(b"two\n")
    assert path.read_bytes().endswith(b"one\ntwo\n")
    assert not path.with_name("lines.2").exists()


def test_file_is_synced_as_often_as_wanted(path: Path, repository: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    code = (
        "import sys; from edge_detector.publishers.append_file import AppendFile, Growth\n"
        "file = AppendFile(sys.argv[1], Growth(sync_s=eval(sys.argv[2])))\n"
        "for _ in range(5): file.append(b'line\\n')"
    )
    for sync_s, expected in (("None", 0), ("60.0", 1), ("1e-9", 5)):
        command = ["strace", "-f", "-e", "trace=fsync", sys.executable, "-c", code, str(path), sync_s]
        traced = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
        assert traced.stderr.count("fsync(") == expected


def test_pipe_is_written_to_and_not_rotated(path: Path) -> None:
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    with closing(AppendFile(path, Growth(max_mb=10e-6))) as file:
        for _ in range(5):
            file.append(b"a line\n")
    reader.join(10)
    assert got == [b"a line\n" * 5]


def test_objects_that_were_left_open_before_a_rotation_are_ended(
    path: Path, make_object: Callable[..., ObjectState]
) -> None:
    with closing(open_event_publisher("lines", path=path, growth=Growth(max_mb=0.0011, keep=3))) as publisher:
        publisher.publish_event(Event("new", make_object("left")))
        publisher.publish_event(Event("new", make_object("gone")))
        publisher.publish_event(Event("end", make_object("gone", ended=True)))
    assert path.with_name("lines.1").exists()
    with closing(open_event_publisher("lines", path=path)):
        pass
    assert b'"interrupted"' in path.read_bytes().splitlines()[-1]
    assert path.read_bytes().count(b'"interrupted"') == 1
