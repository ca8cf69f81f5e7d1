"""Results as JSON Lines, schema 1, to a file or to standard output."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.publishers.append_file import UNLIMITED, AppendFile, Growth
from edge_detector.publishers.schema import to_json
from edge_detector.publishers.worker import QueuedPublisher


def open_jsonl(
    target: str | Path,
    labels: Sequence[str],
    model_name: str,
    *,
    append: bool = False,
    growth: Growth = UNLIMITED,
    lossless: bool = False,
    stop: threading.Event | None = None,
) -> QueuedPublisher:
    """Return a publisher that writes one line per result to the file `target`, or to standard output for "-".

    Of a camera every inference is one line, however many pictures show it. Every line goes out at once, whole, see
    `AppendFile`. What was in the file is kept until the first line. Of a disk that is full, lines of a camera are
    dropped until there is room; with `lossless` it is a failure.

    Raises:
        PublishError: the file cannot be written.
    """
    lines = Lines(labels, model_name)
    if str(target) == "-":
        return QueuedPublisher(_StdoutSink(lines), lossless=lossless, stop=stop)
    sink = _FileSink(target, lines, append, growth)
    return QueuedPublisher(sink, lossless=lossless, stop=stop, goes_on=not lossless)


class Lines:
    """Makes a line of every inference; b"" for a result without one, or with that of its camera's line before."""

    def __init__(self, labels: Sequence[str], model_name: str) -> None:
        self._labels = labels
        self._model_name = model_name
        self._detected_at: dict[str, float] = {}  # by camera

    def line(self, result: FrameResult) -> bytes:
        """Return the line with its line feed."""
        told = result.age_s > 0 and result.detected_at == self._detected_at.get(result.camera)
        if result.detected_at is None or told:
            return b""
        self._detected_at[result.camera] = result.detected_at
        return to_json(result, self._labels, self._model_name).encode() + b"\n"


class _FileSink:
    uses_image = False

    def __init__(self, path: str | Path, lines: Lines, append: bool, growth: Growth) -> None:
        self.name = str(path)
        self._lines = lines
        try:
            self._file = AppendFile(path, growth)
        except OSError as error:
            raise PublishError(f"cannot write {path}: {error.strerror}; choose another file") from error
        self._replaces = not append and Path(path).is_file()  # with the first line: until then a run can still fail

    def write(self, result: FrameResult) -> bool:
        line = self._lines.line(result)
        if not line:
            return False
        try:
            if self._replaces:
                self._file.clear()
                self._replaces = False
            self._file.append(line)
        except OSError as error:
            raise PublishError(f"cannot write {self.name}: {error.strerror}; free some space") from error
        return True

    def finish(self, complete: bool) -> None:
        self._file.close()


class _StdoutSink:
    name = "standard output"
    uses_image = False

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        # Without Python's buffer: a write that hangs would hold its lock, and with it the end of the program.
        self._file = FileIO(sys.stdout.fileno(), "w", closefd=False)

    def write(self, result: FrameResult) -> None:
        try:
            rest = self._lines.line(result)
            while rest:
                rest = rest[self._file.write(rest) :]
        except BrokenPipeError as error:
            raise PublishError("standard output was closed by the program that read it") from error

    def finish(self, complete: bool) -> None:
        """Leave the stream open: it belongs to the program."""
