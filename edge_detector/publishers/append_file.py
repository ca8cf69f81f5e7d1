"""AppendFile: lines at the end of a file that does not grow for ever."""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import stat
import time
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path

logger = logging.getLogger(__name__)

DAY_S = 86400.0
RETRY_S = 60.0  # until a file that could not be renamed is tried again


@dataclass(frozen=True, slots=True)
class Growth:
    """How far a file grows, in 10^6 bytes and days, how many older ones are kept, and how often it is synced."""

    max_mb: float = math.inf
    max_days: float = math.inf
    keep: int = 1
    sync_s: float | None = None


UNLIMITED = Growth()


class AppendFile:
    """A file that lines are appended to, each in one write without a buffer.

    So a kill leaves only complete lines; of a disk that is full the half line is taken away again, and one that a power
    cut left unfinished is ended. It is synced to the medium at most once in `sync_s` seconds, which wears an SD card;
    None leaves it to Linux.

    Before the file grows beyond `max_mb`, or when it was begun `max_days` ago, it becomes `<path>.1`, that `<path>.2`
    and so on up to `keep`; older ones are deleted. If another program has moved it away, it is begun anew.

    Raises:
        OSError: it cannot be opened; so do the methods, when it cannot be written.
    """

    def __init__(self, path: str | Path, growth: Growth = UNLIMITED) -> None:
        self._path = Path(path)
        self._growth = growth
        self._synced_s = -math.inf
        self._tried_s = -math.inf  # when renaming failed last
        # A pipe is opened for writing alone, so that it is noticed when nobody reads any more.
        self._file = FileIO(str(path), "a+" if self._path.is_file() or not self._path.exists() else "a")
        self._regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        self._begun_ts = self._read_begun_ts() if self._regular else math.inf

    def append(self, line: bytes) -> None:
        """Write a line, which ends with a line feed."""
        if self._regular:
            self._begin_anew_if_moved()
            size = os.fstat(self._file.fileno()).st_size
            if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line
            full = size + len(line) > 1e6 * self._growth.max_mb or self._is_old()
            if size and full and time.monotonic() - self._tried_s > RETRY_S:
                self._rotate()
                line = line.lstrip(b"\n")
        written = self._file.write(line)
        if written != len(line):
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync_s = self._growth.sync_s
        if self._regular and sync_s is not None and time.monotonic() - self._synced_s >= sync_s:
            self._synced_s = time.monotonic()
            os.fsync(self._file.fileno())

    def clear(self) -> None:
        """Drop what is in it."""
        self._file.truncate(0)

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def _is_old(self) -> bool:
        return time.time() - self._begun_ts > DAY_S * self._growth.max_days

    def _begin_anew_if_moved(self) -> None:
        try:
            there = os.stat(self._path)  # noqa: PTH116 - beside fstat
        except FileNotFoundError:
            there = None
        ours = os.fstat(self._file.fileno())
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self._reopen()

    def _rotate(self) -> None:
        names = [self._path] + [self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._growth.keep + 1)]
        try:
            for newer, older in reversed(list(pairwise(names))):
                if newer.exists():
                    newer.replace(older)
        except OSError as error:
            if self._tried_s == -math.inf:
                logger.warning("%s cannot be renamed and grows on: %s", self._path, error.strerror)
            self._tried_s = time.monotonic()
            return
        self._reopen()

    def _reopen(self) -> None:
        file = FileIO(str(self._path), "a+")
        self._file.close()
        self._file = file
        self._begun_ts = self._read_begun_ts()

    def _read_begun_ts(self) -> float:
        """Return when the file was begun: its first line says so, if it is of schema 1."""
        found = re.search(rb'"ts":(\d+)', os.pread(self._file.fileno(), 4096, 0))
        return time.time() if found is None else float(found[1])
