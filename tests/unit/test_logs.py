from __future__ import annotations

import logging
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edge_detector import logs
from edge_detector.detector import Detector
from edge_detector.errors import EndOfStream, PublishError
from edge_detector.frame import Frame, FrameResult
from edge_detector.logs import INFOS, JournalHandler, Repeats
from edge_detector.publishers.worker import QueuedPublisher
from edge_detector.runtime.feed import Feed
from edge_detector.runtime.pipeline import LivePipeline
from edge_detector.sources.synthetic import SyntheticSource

Entry = dict[str, str]
WARNING = logging.WARNING


class Journal:
    """The receiving side of the journal's native protocol, as systemd.io/JOURNAL_NATIVE_PROTOCOL describes it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(10)

    def read(self) -> Entry:
        content, entry = self._socket.recv(1 << 20), {}
        while content:
            line, _, content = content.partition(b"\n")
            name, equals, text = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack("<Q", content[:8])
                text, content = content[8 : 8 + length], content[8 + length :]
                assert content[:1] == b"\n"
                content = content[1:]
            entry[name.decode()] = text.decode()
        return entry

    def close(self) -> None:
        self._socket.close()
        Path(self.path).unlink()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "socket")
    yield journal
    journal.close()


@pytest.fixture
def make_handler(tmp_path: Path) -> Iterator[Callable[[], JournalHandler]]:
    made = []

    def make() -> JournalHandler:
        made.append(JournalHandler(str(tmp_path / "socket")))
        return made[-1]

    yield make
    for handler in made:
        handler.close()


def a_record(
    message: str, *args: object, level: int = WARNING, exc_info: object = None, **more: object
) -> logging.LogRecord:
    name = "edge_detector.x"
    return logging.getLogger(name).makeRecord(name, level, "x.py", 7, message, args, exc_info, **more)


def an_error(text: str) -> Exception:
    try:
        raise OSError(text)
    except OSError as error:
        return error


def with_traceback(text: str, message: str = "%s failed") -> logging.LogRecord:
    error = an_error(text)
    return a_record(message, "it", exc_info=(type(error), error, error.__traceback__))


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, "7"), (logging.INFO, "6"), (WARNING, "4"), (35, "4"), (logging.ERROR, "3"), (60, "2")],
)
def test_entry_has_the_message_and_its_fields(
    journal: Journal, make_handler: Callable[[], JournalHandler], level: int, priority: str
) -> None:
    make_handler().handle(a_record("%s: %d left, größer = besser", "door", 3, level=level, func="look"))
    assert journal.read() == {
        "MESSAGE": "door: 3 left, größer = besser",
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": "edge-detector",
        "LOGGER": "edge_detector.x",
        "CODE_FILE": "x.py",
        "CODE_LINE": "7",
        "CODE_FUNC": "look",
    }


def test_traceback_is_one_entry(journal: Journal, make_handler: Callable[[], JournalHandler]) -> None:
    make_handler().handle(with_traceback("disk on fire"))
    first, *trace = journal.read()["MESSAGE"].splitlines()
    assert first == "it failed"
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "OSError: disk on fire"


@pytest.mark.parametrize(
    ("thread", "extra", "fields"),
    [
        ("feed of front", None, {"CAMERA": "front"}),
        ("publish mqtt://host:1883", None, {"SINK": "mqtt://host:1883"}),
        ("events to https://host", None, {"SINK": "https://host"}),
        ("feed of front", {"sink": "udp://x"}, {"CAMERA": "front", "SINK": "udp://x"}),
        ("MainThread", {"camera": "back"}, {"CAMERA": "back"}),
    ],
)
def test_camera_and_sink_are_fields(
    journal: Journal,
    make_handler: Callable[[], JournalHandler],
    thread: str,
    extra: dict[str, object] | None,
    fields: Entry,
) -> None:
    record = a_record("x", extra=extra)
    record.threadName = thread
    make_handler().handle(record)
    entry = journal.read()
    assert {key: entry[key] for key in ("CAMERA", "SINK") if key in entry} == fields


class Broken:
    name = "udp://x"
    uses_image = False

    def write(self, result: FrameResult) -> bool:
        raise OSError("network is away")

    def finish(self, complete: bool) -> None:
        pass


@pytest.fixture
def to_journal(make_handler: Callable[[], JournalHandler]) -> Iterator[None]:
    package, handler = logging.getLogger("edge_detector"), make_handler()
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    yield
    package.removeHandler(handler)
    package.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("to_journal")
def test_sink_is_known_by_the_thread_that_serves_it(journal: Journal, make_result: Callable[..., FrameResult]) -> None:
    publisher = QueuedPublisher(Broken(), goes_on=True)
    publisher.publish(make_result())
    told = journal.read()
    assert told["MESSAGE"] == "udp://x: network is away; it is tried again with what comes next"
    assert told["SINK"] == "udp://x"
    with pytest.raises(PublishError):
        publisher.close()


class Talker(SyntheticSource):
    def read(self, timeout_s: float) -> Frame | None:
        logging.getLogger("edge_detector.sources.x").warning("hangs")
        raise EndOfStream


@pytest.mark.usefixtures("to_journal")
def test_camera_is_known_by_the_thread_that_reads_it(journal: Journal, color_detector: Callable[..., Detector]) -> None:
    LivePipeline([Feed("front", Talker())], color_detector(), threading.Event()).run()
    told = journal.read()
    assert (told["MESSAGE"], told["CAMERA"]) == ("hangs", "front")


def test_text_that_is_long_or_no_unicode_arrives(journal: Journal, make_handler: Callable[[], JournalHandler]) -> None:
    handler = make_handler()
    handler.handle(a_record("🙂" * 200_000))
    assert journal.read()["MESSAGE"] == "🙂" * logs.LONGEST + " ..."
    handler.handle(a_record("%s", os.fsdecode(b"caf\xe9.mp4")))
    assert journal.read()["MESSAGE"] == r"caf\udce9.mp4"


def test_missing_journal_is_endured_and_what_it_missed_counted(
    tmp_path: Path, make_handler: Callable[[], JournalHandler], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = make_handler()
    monkeypatch.setattr(handler, "_stderr", None)
    for _ in range(3):
        handler.handle(a_record("nobody listens"))
    journal = Journal(tmp_path / "socket")
    handler.handle(a_record("now somebody does"))
    told = journal.read()
    assert (told["MESSAGE"], told["PRIORITY"]) == ("3 entries were lost: the journal took none", "4")
    assert journal.read()["MESSAGE"] == "now somebody does"
    journal.close()
    journal = Journal(tmp_path / "socket")  # as after `systemctl restart systemd-journald`
    handler.handle(a_record("and again"))
    assert journal.read()["MESSAGE"] == "and again"
    journal.close()


def test_journal_that_reads_nothing_holds_up_nobody(
    journal: Journal, make_handler: Callable[[], JournalHandler], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = make_handler()
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(handler, "_stderr", ours)
    sent = 5000
    for number in range(sent):
        handler.handle(a_record("%d %s", number, "x" * 200))
    taken = 0
    journal._socket.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            assert journal.read()["MESSAGE"].startswith(f"{taken} ")
            taken += 1
    assert 0 < taken < sent
    ours.close()
    beside = theirs.makefile().read().splitlines()
    theirs.close()
    assert beside[0].startswith(f"<4>{taken} x")
    assert taken + len(beside) < sent  # and that was full, too
    journal._socket.settimeout(10)
    monkeypatch.setattr(handler, "_stderr", None)
    handler.handle(a_record("there is room again"))
    assert journal.read()["MESSAGE"].endswith("entries were lost: the journal took none")


class Shown(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.tracebacks = 0
        self.changed = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.tracebacks += record.exc_info is not None
        self.changed.set()


@pytest.fixture
def shown() -> Shown:
    return Shown()


def tell(repeats: Repeats, *tellings: logging.LogRecord) -> None:
    for telling in tellings:
        repeats.handle(telling)


def test_fault_that_repeats_a_thousand_times_is_told_with_a_count(shown: Shown) -> None:
    repeats = Repeats(shown)
    for number in range(1000):
        tell(repeats, a_record("%s: error %d", "door", number))
    assert shown.lines == ["door: error 0"]
    repeats.close()
    assert shown.lines == ["door: error 0", "door: error 999 (999 times more in 0 s)"]
    repeats.close()
    assert len(shown.lines) == 2


def test_count_comes_by_itself_when_nothing_else_is_logged(shown: Shown) -> None:
    repeats = Repeats(shown, window_s=0.2)
    for times in (3, 6):
        tell(repeats, *(with_traceback("disk on fire") for _ in range(3)))
        while count(shown.lines) < times:
            assert shown.changed.wait(10)
            shown.changed.clear()
    assert shown.lines[0] == "it failed"
    assert len(shown.lines) > shown.tracebacks > 0
    repeats.close()
    assert repeats._timer is None


def test_timer_that_finds_no_room_for_its_thread_is_made_anew(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    repeats = Repeats(shown, window_s=0.5)

    def no_room(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Timer, "start", no_room)
        tell(repeats, a_record("disk on fire"), a_record("disk on fire"))
    tell(repeats, a_record("disk on fire"))
    while not any("more in" in line for line in shown.lines):
        assert shown.changed.wait(10)
        shown.changed.clear()
    repeats.close()


def count(lines: list[str]) -> int:
    """Return how often something was logged, by what is shown of it."""
    told = [re.search(r"\((once|\d+ times) more in \d+ s\)$", line) for line in lines]
    return sum(1 if one is None or one[1] == "once" else int(one[1].split()[0]) for one in told)


def test_what_differs_in_text_level_or_error_is_shown(shown: Shown) -> None:
    repeats = Repeats(shown)
    records = [a_record("%s is gone", name, level=level) for name in ("a", "b") for level in (WARNING, logging.ERROR)]
    records += [a_record("another text"), with_traceback("one"), with_traceback("two")]
    tell(repeats, *records, *records)
    assert len(shown.lines) == len(records)
    repeats.close()
    assert shown.lines[len(records) :] == [f"{one.getMessage()} (once more in 0 s)" for one in records]


def test_notices_that_come_now_and_then_are_all_shown_a_flood_is_not(shown: Shown) -> None:
    repeats = Repeats(shown)
    tell(repeats, *(a_record("%s: camera %.1f fps", "door", rate, level=logging.INFO) for rate in range(100)))
    assert shown.lines == [f"door: camera {rate:.1f} fps" for rate in range(INFOS)]
    tell(repeats, *(a_record("x", level=logging.DEBUG) for _ in range(9)))
    tell(repeats, *(a_record("x", level=logging.ERROR, extra={"answer": True}) for _ in range(9)))
    assert shown.lines[INFOS:] == 18 * ["x"]
    repeats.close()
    assert shown.lines[-1] == f"door: camera 99.0 fps ({100 - INFOS} times more in 0 s)"


def test_notice_once_per_window_is_never_counted(shown: Shown) -> None:
    repeats = Repeats(shown, window_s=0.0)
    tell(repeats, *(a_record("door: live", level=logging.INFO) for _ in range(99)))
    assert shown.lines == 99 * ["door: live"]
    repeats.close()


def test_memory_is_bounded_whatever_is_logged(shown: Shown) -> None:
    repeats = Repeats(shown)
    for number in range(3 * logs.MOST_KNOWN):
        tell(repeats, *2 * [a_record(f"fault {number}")])
    assert len(repeats._known) == logs.MOST_KNOWN
    repeats.close()
    assert sum("once more" in line for line in shown.lines) == 3 * logs.MOST_KNOWN


def test_call_with_wrong_arguments_ends_nothing(
    journal: Journal, make_handler: Callable[[], JournalHandler], capsys: pytest.CaptureFixture[str]
) -> None:
    repeats = Repeats(make_handler())
    tell(repeats, *3 * [a_record("%d apples", "no number")])
    assert "%d apples" in capsys.readouterr().err
    tell(repeats, a_record("goes on"))
    assert journal.read()["MESSAGE"] == "goes on"
    repeats.close()


PROGRAM = """
import logging, sys
from edge_detector.logs import JournalHandler, Repeats
logging.basicConfig(level=logging.INFO, handlers=[Repeats(JournalHandler(sys.argv[1]))])
for number in range(1000):
    logging.getLogger("edge_detector.x").warning("%s: error %d", "door", number, extra={"camera": "door"})
"""


def test_count_is_not_lost_at_the_end_of_the_program(journal: Journal) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, journal.path], check=True, timeout=60)
    assert journal.read()["MESSAGE"] == "door: error 0"
    last = journal.read()
    assert last["MESSAGE"].startswith("door: error 999 (999 times more in ")
    assert (last["REPEATED"], last["CAMERA"], last["PRIORITY"]) == ("999", "door", "4")


DEFECT = """
import logging, os, sys, threading
from edge_detector import logs
logs.JournalHandler.__init__.__defaults__ = (sys.argv[1],)
stderr = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{stderr.st_dev}:{stderr.st_ino}"
logs.set_up(logging.INFO, logging.StreamHandler())
thread = threading.Thread(target=lambda: 1 / 0, name="publish x")
thread.start()
thread.join()
{}["main"]
"""


def test_defect_is_one_entry_in_the_journal(journal: Journal) -> None:
    done = subprocess.run([sys.executable, "-c", DEFECT, journal.path], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"")
    first, second = journal.read(), journal.read()
    assert first["MESSAGE"].startswith("the thread publish x was ended by ZeroDivisionError\nTraceback")
    assert (first["PRIORITY"], first["SINK"]) == ("3", "x")
    assert second["MESSAGE"].startswith("ended by KeyError\nTraceback")
    assert second["PRIORITY"] == "2"


@pytest.mark.parametrize("stream", [None, "", "1:2", "nonsense"])
def test_terminal_is_no_journal(monkeypatch: pytest.MonkeyPatch, stream: str | None) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if stream is not None:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    assert not logs.is_journal()


def test_without_the_journals_socket_standard_error_gets_lines_with_their_priority() -> None:
    if Path(logs.JOURNAL).exists():
        pytest.skip("this machine's own journal would get the entries")
    ours, theirs = socket.socketpair()
    stat = os.fstat(theirs.fileno())
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-m", "edge_detector", "run", "--model", "nonesuch"],
            env={**os.environ, "JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"},
            stderr=theirs,
            timeout=60,
        )
        theirs.close()
        told = ours.makefile().read()
    assert done.returncode == 65
    assert told.startswith("<3>model 'nonesuch' is unknown; ")
    assert told.count("\n") == 1
