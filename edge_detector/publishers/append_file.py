"""AppendFile: lines at the end of a file that does not grow for ever."""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import time
from io import FileIO
from itertools import pairwise
from pathlib import Path

logger = logging.getLogger(__name__)

RETRY_S = 60.0  # until a file that could not be renamed is tried again


class AppendFile:
    """A file that lines are appended to, each in one write without a buffer.

    So a kill leaves only complete lines; of a disk that is full the half line is taken away again, and one that a power
    cut left unfinished is ended. It is not synced to the medium, which would wear an SD card.

    Before the file grows beyond `max_bytes` it becomes `<path>.1`, that `<path>.2` and so on up to `keep`; older ones
    are deleted. If another program has moved it away, it is begun anew.

    Raises:
        OSError: it cannot be opened; so do the methods, when it cannot be written.
    """

    def __init__(self, path: str | Path, max_bytes: float = math.inf, keep: int = 1) -> None:
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._keep = keep
        self._tried_s = -math.inf  # when renaming failed last
        # A pipe is opened for writing alone, so that it is noticed when nobody reads any more.
        self._file = FileIO(str(path), "a+" if self._path.is_file() or not self._path.exists() else "a")
        self._regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)

    def append(self, line: bytes) -> None:
        """Write a line, which ends with a line feed."""
        if self._regular:
            self._begin_anew_if_moved()
            size = os.fstat(self._file.fileno()).st_size
            if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line
            if size and size + len(line) > self._max_bytes and time.monotonic() - self._tried_s > RETRY_S:
                self._rotate()
                line = line.lstrip(b"\n")
        written = self._file.write(line)
        if written != len(line):
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def clear(self) -> None:
        """Drop what is in it."""
        self._file.truncate(0)

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def _begin_anew_if_moved(self) -> None:
        try:
            there = os.stat(self._path)  # noqa: PTH116 - beside fstat
        except FileNotFoundError:
            there = None
        ours = os.fstat(self._file.fileno())
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self._reopen()

    def _rotate(self) -> None:
        names = [self._path] + [self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._keep + 1)]
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
