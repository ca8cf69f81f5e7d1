"""Reads all that a service has written, as others would, and tells what of it cannot be read."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import cv2
import numpy as np

KEY_BYTES = 32


def unreadable(folder: Path, state: Path, running: bool = True) -> list[str]:
    """Return what is wrong with the outputs of a service, and with what it keeps for itself.

    While it is `running`, or was killed and not started again, the last line of a file may be half a line, and a clip
    without an end one that its last start did not come to.
    """
    wrong: list[str] = []
    for path in sorted(folder.glob("*.jsonl*")):
        wrong += _lines(path, running)
    if (folder / "events.db").exists():
        wrong += _database(folder / "events.db")
    wrong += [f"{path.name}: moved aside as damaged" for path in folder.glob("*.damaged-*")]
    for path in sorted((folder / "snapshots").glob("*/*/*.jpg")):
        if not path.name.startswith(".") and not _is_picture(path):
            wrong.append(f"{path.name}: no picture")
    for path in sorted((folder / "clips").glob("*/*/*.mp4")):
        wrong += _clip(path)
    if not running:
        wrong += [f"{path.name}: left behind" for path in (*folder.rglob("*.part"), *state.rglob("*.part"))]
        known = {path.with_suffix("") for path in (folder / "clips").glob("*/*/*.mp4")}
        stray = [path for path in (folder / "clips").glob("*/*/*.json") if path.with_suffix("") not in known]
        wrong += [f"{path.name}: without its clip" for path in stray]
    for path in state.rglob("session.key"):
        if path.stat().st_size != KEY_BYTES:
            wrong.append(f"{path.name}: has {path.stat().st_size} bytes")
    return wrong


def _lines(path: Path, running: bool) -> Iterator[str]:
    """A torn line is none; one in the middle, with which lines after it would be lost, is told."""
    *whole, last = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, 1):
        if not _is_json(line):
            yield f"{path.name}: line {number} of {len(whole)} is no JSON: {line[:30]!r}...{line[-30:]!r}"
    if last and not running:
        yield f"{path.name}: ends with half a line: {last[-60:]!r}"


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _database(path: Path) -> Iterator[str]:
    with TemporaryDirectory() as folder:
        # A copy: reading mends, which is for the service to do.
        for part in path.parent.glob(f"{path.name}*"):
            shutil.copy(part, folder)
        yield from _database_copy(Path(folder, path.name))


def _database_copy(path: Path) -> Iterator[str]:
    try:
        with closing(sqlite3.connect(path, timeout=10)) as database:
            said = [row[0] for row in database.execute("PRAGMA integrity_check")]
            if said != ["ok"]:
                yield f"{path.name}: {said[:3]}"
            for object_id, state in database.execute("SELECT id, state FROM objects").fetchall():
                if not _is_json(state.encode()):
                    yield f"{path.name}: the state of {object_id} is no JSON"
            for object_id, jpeg in database.execute("SELECT id, jpeg FROM snapshots").fetchall():
                if cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) is None:
                    yield f"{path.name}: the snapshot of {object_id} is no picture"
    except sqlite3.DatabaseError as error:
        yield f"{path.name}: {error}"


def _is_picture(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return True  # it had to make room
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    return decoded is not None and content.endswith(b"\xff\xd9")


def _clip(path: Path) -> Iterator[str]:
    """Decode it all: it plays as far as its JSON says, which nothing else may contradict."""
    try:
        shape = json.loads(path.with_suffix(".json").read_bytes())
    except FileNotFoundError:
        if path.exists():
            yield f"{path.name}: without its JSON"
        return
    except ValueError:
        yield f"{path.name}: its JSON cannot be read"
        return
    if shape["end_ts"] is None:
        return  # it is being written
    try:
        with av.open(str(path)) as video:
            ends = [float(frame.pts * frame.time_base) for frame in video.decode(video=0)]
    except FileNotFoundError:
        return
    except (av.FFmpegError, IndexError) as error:
        yield f"{path.name}: does not play: {error}"
        return
    lasts_s = shape["end_ts"] - shape["start_ts"]
    if not ends or ends[-1] < lasts_s - 1.0:
        yield f"{path.name}: plays {ends[-1] if ends else 0:.1f} of {lasts_s:.1f} s"
