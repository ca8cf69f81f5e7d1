"""Clips: the recordings in a folder, each a video with what it shows beside it as JSON."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_detector.publishers.kept_files import KeptFiles
from edge_detector.publishers.schema import compact

logger = logging.getLogger(__name__)

LIMIT_MAX = 1000
Shape = dict[str, Any]


class Clips:
    """The clips below `folder`, see `KeptFiles`; a `Recordings`, whose methods are safe on any thread.

    One thread begins clips, changes and ends them. `<name>.mp4` has its `<name>.json` from the beginning, without an
    end while it is written. What a kill left so gets one now: `mend` makes a video playable and returns its seconds,
    or None if nothing of it plays; then it is deleted.

    Raises:
        PublishError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, max_age_days: float, max_mb: float, mend: Callable[[Path], float | None]) -> None:
        self.folder = folder
        self._files = KeptFiles(folder, (".mp4", ".json"), max_age_days, max_mb)
        self._lock = threading.Lock()
        self._shapes: dict[str, tuple[Path, Shape]] = {}  # path without suffix and JSON, by id
        for stem in self._files.stems:
            self._recover(stem, mend)
        self.prune()

    def list_clips(
        self,
        *,
        camera: str | None = None,
        after: float | None = None,
        before: float | None = None,
        object_id: str | None = None,
        limit: int = 100,
    ) -> list[Shape]:
        """Return clips, newest first; see `Recordings`."""
        with self._lock:
            shapes = [shape for _, shape in self._shapes.values()]
        found = [
            shape
            for shape in shapes
            if camera in (None, shape["camera"])
            and (after is None or shape["start_ts"] >= after)
            and (before is None or shape["start_ts"] < before)
            and (object_id is None or object_id in shape["objects"])
        ]
        found.sort(key=lambda shape: float(shape["start_ts"]), reverse=True)
        return [dict(shape) for shape in found[: max(0, min(limit, LIMIT_MAX))]]

    def clip_path(self, clip_id: str) -> Path | None:
        """Return the file of a clip; see `Recordings`."""
        with self._lock:
            stem, _ = self._shapes.get(clip_id, (None, {}))
        path = None if stem is None else _video(stem)
        return path if path is not None and path.is_file() else None

    # On the thread that records.

    def begin(
        self, camera: str, start_ts: float, objects: dict[str, str], size_wh: tuple[int, int]
    ) -> tuple[str, Path]:
        """Make room in the folder for a clip of `objects`, labels by id; return its id and the path of its video.

        Raises:
            OSError: it cannot be written.
        """
        number = round(start_ts * 1000)
        while f"{camera}-{number}" in self._shapes:  # the clock was set back
            number += 1
        stem = self._files.stem(camera, start_ts, next(iter(objects.values()), "object"), str(number))
        shape = _shape(camera, number) | {"width": size_wh[0], "height": size_wh[1]}
        stem.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._put(stem, shape | _seen(objects))
        except OSError:
            self.drop(shape["id"])
            raise
        return shape["id"], _video(stem)

    def note(self, clip_id: str, objects: dict[str, str]) -> None:
        """Write down what it shows.

        Raises:
            OSError: it cannot be written.
        """
        stem, shape = self._shapes[clip_id]
        self._put(stem, shape | _seen(objects))

    def end(self, clip_id: str, end_ts: float) -> None:
        """Write down that it has ended, and delete what is too old or too much.

        Raises:
            OSError: that cannot be written, and is found at the next start.
        """
        stem, shape = self._shapes[clip_id]
        try:
            self._put(stem, shape | {"end_ts": round(end_ts, 3), "bytes": _video(stem).stat().st_size})
        finally:
            self._files.add(stem)
            self.prune()

    def drop(self, clip_id: str) -> None:
        """Delete a clip."""
        with self._lock:
            stem, _ = self._shapes.pop(clip_id)
        self._files.remove(stem)

    def prune(self) -> None:
        """Delete what is too old or too much."""
        gone = set(self._files.prune())
        if gone:
            with self._lock:
                self._shapes = {key: kept for key, kept in self._shapes.items() if kept[0] not in gone}

    def _put(self, stem: Path, shape: Shape) -> None:
        with self._lock:
            self._shapes[shape["id"]] = stem, shape
        self._files.write(_json(stem), compact(shape).encode())

    def _recover(self, stem: Path, mend: Callable[[Path], float | None]) -> None:
        shape = _read(_json(stem)) or _from_name(stem)
        if shape is None:
            return
        try:
            if not _video(stem).exists():
                self._files.remove(stem)
            elif shape["end_ts"] is not None:
                self._shapes[shape["id"]] = stem, shape
            elif (seconds := mend(_video(stem))) is None:
                self._files.remove(stem)
            else:
                size, end_ts = _video(stem).stat().st_size, round(shape["start_ts"] + seconds, 3)
                self._put(stem, shape | {"end_ts": end_ts, "bytes": size})
                logger.info("%s was interrupted; its %.0f s are kept", _video(stem), seconds)
        except OSError as error:
            logger.warning("%s was interrupted and cannot be mended: %s", _video(stem), error.strerror)


def _video(stem: Path) -> Path:
    return stem.with_name(stem.name + ".mp4")


def _json(stem: Path) -> Path:
    return stem.with_name(stem.name + ".json")


def _shape(camera: str, number: int) -> Shape:
    shape: Shape = {"id": f"{camera}-{number}", "camera": camera, "start_ts": number / 1000, "end_ts": None}
    return shape | {"objects": [], "labels": []}


def _seen(objects: dict[str, str]) -> Shape:
    return {"objects": list(objects), "labels": sorted(set(objects.values()))}


def _read(path: Path) -> Shape | None:
    """Return what the JSON beside a video says, None if a power cut has spoilt it."""
    try:
        shape = json.loads(path.read_bytes())
        known = all(key in shape for key in ("id", "camera", "start_ts", "end_ts", "objects", "labels"))
    except (OSError, ValueError, TypeError):
        return None
    return shape if known else None


def _from_name(stem: Path) -> Shape | None:
    """Return what the name of a video says, None if it is not ours."""
    match = re.fullmatch(r"\d{6}_(.+)_(\d+)", stem.name)
    return None if match is None else _shape(stem.parts[-3], int(match[2])) | {"labels": [match[1]]}
