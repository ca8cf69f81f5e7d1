"""KeptFiles: a folder of files by camera and day, in which the oldest make room for new ones."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from edge_detector.errors import PublishError

logger = logging.getLogger(__name__)

DAY_S = 86400.0
_WORD_MAX = 40  # characters of a label; a name has room for 255 bytes
_FOLDER = re.compile(r"[A-Za-z0-9_-]{1,64}/\d{4}-\d\d-\d\d")
_STEM = re.compile(r"\d{6}_[\w.-]+")
_PART = re.compile(r"\.[0-9a-f]{32}\.part")


class KeptFiles:
    """Files `<folder>/<camera>/<YYYY-MM-DD>/<HHMMSS>_<label>_<id>` with `suffixes`, those of one name together.

    Only such names are ever deleted, when they are older than `max_age_days`, and the oldest when all have more than
    `max_mb`. Ages are those that the file system tells, by this machine's clock: on one without a clock of its own,
    what was written before it learnt the time counts as old. Used by one thread only.

    Raises:
        PublishError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, suffixes: tuple[str, ...], max_age_days: float, max_mb: float) -> None:
        self._folder = folder
        self._suffixes = suffixes
        self._max_age_s = max_age_days * DAY_S
        self._max_bytes = max_mb * 1e6
        self._sizes: dict[Path, tuple[float, int]] = {}  # when written, and bytes; by path without suffix, oldest first
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{uuid4().hex}.part"
            probe.touch()
            probe.unlink()
            stems = {path.with_suffix("") for path in self._own_files()}
        except OSError as error:
            raise PublishError(f"cannot write to {folder}: {error.strerror}; choose another folder") from error
        found = {stem: self._measure(stem) for stem in stems}
        self._sizes = dict(sorted(found.items(), key=lambda item: item[1]))
        self._bytes = sum(size for _, size in self._sizes.values())

    @property
    def stems(self) -> list[Path]:
        """The files that there are, without their suffixes, oldest first."""
        return list(self._sizes)

    def stem(self, camera: str, ts: float, label: str, name: str) -> Path:
        """Return the path, without a suffix, of a new file for what happened at `ts`, seconds since the epoch."""
        day, clock = time.strftime("%Y-%m-%d %H%M%S", time.localtime(ts)).split()
        words = (re.sub(r"[^\w.-]+", "_", word)[:length] for word, length in ((label, _WORD_MAX), (name, 120)))
        return self._folder / camera / day / "_".join((clock, *words))

    def write(self, path: Path, content: bytes, *, sync: bool = False) -> None:
        """Write a file whole or not at all; in place of an older one.

        After a power cut a new file has its name but not its content, unless `sync` waits for the medium.

        Raises:
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{uuid4().hex}.part")
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def add(self, stem: Path) -> None:
        """Take note of what was written."""
        self._bytes -= self._sizes.pop(stem, (0.0, 0))[1]
        self._sizes[stem] = self._measure(stem)
        self._bytes += self._sizes[stem][1]

    def remove(self, stem: Path) -> None:
        """Delete it."""
        self._bytes -= self._sizes.pop(stem, (0.0, 0))[1]
        for suffix in self._suffixes:
            with contextlib.suppress(OSError):  # another program was quicker, or the disk is read-only
                stem.with_name(stem.name + suffix).unlink()
        with contextlib.suppress(OSError):  # not empty
            stem.parent.rmdir()

    def prune(self) -> list[Path]:
        """Delete what is too old or too much, but for the newest, and return it; quick if there is nothing to do."""
        gone = []
        while len(self._sizes) > 1:
            stem, (ts, _) = next(iter(self._sizes.items()))
            if self._bytes <= self._max_bytes and time.time() - ts <= self._max_age_s:
                break
            self.remove(stem)
            gone.append(stem)
        return gone

    def _measure(self, stem: Path) -> tuple[float, int]:
        stats = []
        for suffix in self._suffixes:
            with contextlib.suppress(OSError):
                stats.append(stem.with_name(stem.name + suffix).stat())
        return max((one.st_mtime for one in stats), default=0.0), sum(one.st_size for one in stats)

    def _own_files(self) -> Iterator[Path]:
        """Yield the files that are ours by their names, and delete what a kill left half written."""
        for folder, _, names in os.walk(self._folder):
            if not _FOLDER.fullmatch(Path(folder).relative_to(self._folder).as_posix()):
                continue
            for name in names:
                path = Path(folder, name)
                if _PART.fullmatch(name):
                    path.unlink(missing_ok=True)
                elif path.suffix in self._suffixes and _STEM.fullmatch(path.stem):
                    yield path
