"""Where the log goes: to systemd's journal with fields, or to a terminal; what repeats is counted, not shown."""

from __future__ import annotations

import copy
import logging
import numbers
import os
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

JOURNAL = "/run/systemd/journal/socket"
IDENTIFIER = "edge-detector"
LONGEST = 32_768  # characters of a message, so that an entry fits into one datagram whatever they are
WINDOW_S = 60.0
MOST_KNOWN = 500  # messages that are remembered at the same time
INFOS = 5  # of the same notice in one window are shown; of a warning or error one

logger = logging.getLogger(__name__)

# What a thread that is named so works for.
_THREADS = {"feed of ": "CAMERA", "publish ": "SINK", "events to ": "SINK"}


def set_up(level: int, terminal: logging.Handler) -> None:
    """Log from `level` on to the journal where standard error goes there, else to `terminal`."""
    if not is_journal():
        logging.basicConfig(level=level, handlers=[Repeats(terminal)])
        return
    logging.basicConfig(level=level, handlers=[Repeats(JournalHandler())])
    sys.excepthook = _log_defect  # else each line of a traceback becomes an entry of its own
    threading.excepthook = _log_defect_of_thread


def is_journal() -> bool:
    """Return whether systemd has connected standard error to its journal (`JOURNAL_STREAM` in systemd.exec(5))."""
    try:
        stderr = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # closed, or none
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each record as one entry, by the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    It never raises and never waits: an entry that the journal does not take goes to standard error, without fields,
    and if that is full too, it is lost and counted.
    """

    def __init__(self, path: str = JOURNAL) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._stderr: socket.socket | None = None
        with suppress(OSError):  # no socket
            self._stderr = socket.socket(fileno=os.dup(2))
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            fields = _fields(record, self.format(record))
        except Exception:  # noqa: BLE001 - as all handlers do: a defect in a call must not end what it tells of
            self.handleError(record)
            return
        if self._lost:
            told = f"{self._lost} entries were lost: the journal took none"
            if not self._send({"MESSAGE": told, "PRIORITY": "4", "SYSLOG_IDENTIFIER": IDENTIFIER}):
                self._lost += 1
                return
            self._lost = 0
        if not self._send(fields):
            self._lost += 1

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        if self._stderr is not None:
            self._stderr.close()
        super().close()

    def _send(self, fields: dict[str, str]) -> bool:
        entry = b"".join(_encode(name, text) for name, text in fields.items())
        try:  # by path, as a journal that was started again has a new socket there
            self._socket.sendto(entry, socket.MSG_DONTWAIT, self._path)
        except OSError:
            return self._say(fields)
        return True

    def _say(self, fields: dict[str, str]) -> bool:
        lines = "".join(f"<{fields['PRIORITY']}>{line}\n" for line in fields["MESSAGE"].splitlines())
        if self._stderr is None:
            return False
        try:
            self._stderr.send(lines.encode(errors="backslashreplace"), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True


def _fields(record: logging.LogRecord, message: str) -> dict[str, str]:
    fields = {
        "MESSAGE": message if len(message) <= LONGEST else f"{message[:LONGEST]} ...",
        "PRIORITY": str(_priority(record.levelno)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": str(record.funcName),
    }
    thread = record.threadName or ""
    for begin, field in _THREADS.items():
        if thread.startswith(begin):
            fields[field] = thread.removeprefix(begin)
    # What a call gives as `extra` goes before.
    for key in ("camera", "sink", "repeated"):
        if hasattr(record, key):
            fields[key.upper()] = str(getattr(record, key))
    return fields


def _priority(level: int) -> int:
    """Return syslog's number for a level of `logging`."""
    limits = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((priority for limit, priority in limits if level >= limit), 7)


def _encode(name: str, text: str) -> bytes:
    content = text.encode(errors="backslashreplace")
    if b"\n" not in content:
        return b"%s=%s\n" % (name.encode(), content)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(content)), content)


@dataclass(slots=True)
class _Window:
    since: float
    shown: int = 0
    held: int = 0
    last: logging.LogRecord | None = None  # of those that are held


class Repeats(logging.Handler):
    """Hands records to `target`; of what is the same within `window_s` seconds only the first, and then their number.

    The same are records of one logger, level, text and exception; numbers among the arguments may differ. The number
    is told in one line when the window ends, by itself, and at the end of the program. All is shown of debugging and of
    answers to somebody (`extra={"answer": True}`); of notices `INFOS` are, as what comes once a minute is no flood.
    """

    def __init__(self, target: logging.Handler, window_s: float = WINDOW_S) -> None:
        super().__init__()
        self._target, self._window_s = target, window_s
        self._known: dict[Any, _Window] = {}  # oldest first
        self._timer: threading.Timer | None = None  # while something is held

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record or count it."""
        if record.levelno <= logging.DEBUG or hasattr(record, "answer"):
            self._target.handle(record)
            return
        try:
            key = _key(record)
            self._end_windows()
            window = self._known.get(key)
            if window is None:
                if len(self._known) >= MOST_KNOWN:
                    self._tell(self._known.pop(next(iter(self._known))))
                window = self._known[key] = _Window(time.monotonic())
            if window.shown < (1 if record.levelno >= logging.WARNING else INFOS):
                window.shown += 1
                self._target.handle(record)
            else:
                window.held += 1
                window.last = _without_traceback(record)
                self._start_timer()
        except Exception:  # noqa: BLE001 - see JournalHandler.emit
            self.handleError(record)

    def flush(self) -> None:
        """Tell what is held; `logging.shutdown` calls this at the end of the program."""
        with self.lock:  # type: ignore[union-attr]  # None only of handlers that say so
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for window in self._known.values():
                self._tell(window)
            self._known.clear()
        self._target.flush()

    def close(self) -> None:
        """Tell what is held, and close the target."""
        self.flush()
        self._target.close()
        super().close()

    # With the lock held, as `emit`.

    def _end_windows(self) -> None:
        now = time.monotonic()
        for key, window in list(self._known.items()):
            if now - window.since >= self._window_s:
                if not window.held:
                    del self._known[key]
                    continue
                self._tell(window)
                window.since, window.held, window.last = now, 0, None

    def _tell(self, window: _Window) -> None:
        if window.last is not None:
            times = "once" if window.held == 1 else f"{window.held} times"
            window.last.msg += f" ({times} more in {time.monotonic() - window.since:.0f} s)"
            window.last.repeated = window.held
            window.last.created = time.time()
            self._target.handle(window.last)

    def _start_timer(self) -> None:
        if self._timer is not None:
            return
        end = min(window.since for window in self._known.values() if window.held) + self._window_s
        self._timer = threading.Timer(max(0.0, end - time.monotonic()), self._on_timer)
        self._timer.name, self._timer.daemon = "repeated log", True
        try:
            self._timer.start()
        except RuntimeError:  # no room for a thread now, or the program ends, and `flush` is called
            self._timer = None

    def _on_timer(self) -> None:
        with self.lock:  # type: ignore[union-attr]
            if self._timer is not threading.current_thread():
                return  # too late: all was told
            self._timer = None
            self._end_windows()
            if any(window.held for window in self._known.values()):
                self._start_timer()


def _key(record: logging.LogRecord) -> tuple[object, ...]:
    arguments = record.args if isinstance(record.args, tuple) else (record.args,)
    error = record.exc_info[1] if record.exc_info else None
    texts = (str(argument) for argument in arguments if not isinstance(argument, numbers.Number))
    return record.name, record.levelno, str(record.msg), *texts, type(error), str(error)


def _without_traceback(record: logging.LogRecord) -> logging.LogRecord:
    """Return the record as it reads, without what would keep pictures in memory."""
    kept = copy.copy(record)
    kept.msg, kept.args = record.getMessage(), None
    kept.exc_info = kept.exc_text = kept.stack_info = None
    return kept


def _log_defect(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    logger.critical("ended by %s", kind.__name__, exc_info=(kind, error, trace))


def _log_defect_of_thread(ended: threading.ExceptHookArgs) -> None:
    name = "?" if ended.thread is None else ended.thread.name
    error = ended.exc_value or ended.exc_type()
    logger.error("the thread %s was ended by %s", name, ended.exc_type.__name__, exc_info=error)
