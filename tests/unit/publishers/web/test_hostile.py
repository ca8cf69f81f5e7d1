"""What is no proper request does no harm: not to the server, not to its log, not to the files beside it."""

from __future__ import annotations

import gzip
import logging
import os
import random
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from edge_detector.frame import FrameResult
from edge_detector.passwords import hash_password
from edge_detector.publishers.web import WebPublisher
from edge_detector.web_config import WebConfig

MakeResult = Callable[..., FrameResult]
TOKEN = "0123456789abcdef"
PATHS = (
    "/",
    "*",
    "http://evil.example/",
    "/static/../../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/static//etc/passwd",
    "/static/app.js%00.jpg",
    "/api/events/..%2f..%2f..%2fetc%2fpasswd/snapshot.jpg",
    "/api/events/%00",
    "/\\..\\..\\etc\\passwd",
    "/static/" + "a" * 9000,
    "/static/" + "a" * 3000,
    "/static/.",
    "/static/app.css/",
    "/api/events?label=" + "%ff" * 50,
    "/whep/..%2f..",
    "/ws",
)


def _junk(dice: random.Random, count: int) -> bytes:
    return bytes(dice.randrange(256) for _ in range(count))


def _request(dice: random.Random, port: int) -> bytes:
    if dice.random() < 0.2:
        return _junk(dice, 200)
    headers = (
        b"Authorization: Basic " + _junk(dice, 9).hex().encode(),
        b"Authorization: Bearer " + _junk(dice, 5),
        b"Cookie: edge_detector_%d=ada.99999999999." % port + _junk(dice, 30).replace(b"\n", b"").replace(b"\r", b""),
        b"Cookie: edge_detector_%d=ada.%d.\xff" % (port, 10 ** dice.randrange(20)),
        b"Authorization: Bearer \xff\xfe",
        b'Authorization: Digest username="\xc3\xa4"',
        b"Content-Length: %d" % dice.choice((-1, 0, 5, 10**12, 10**30)),
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Content-Encoding: gzip",
        b"Content-Type: application/json; charset=" + _junk(dice, 6).hex().encode(),
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x",
        b"Origin: " + _junk(dice, 10),
        b"Host: " + _junk(dice, 8),
        b"Range: bytes=%d-%d" % (dice.randrange(-5, 10**9), dice.randrange(10**9)),
        b"Expect: 100-continue",
        b"X: " + b"y" * 9000,
    )
    method = dice.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PATCH"))
    version = dice.choice(("1.1", "1.1", "1.1", "1.0", "2.0", "9"))
    body = dice.choice(
        (b"", b"{}", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b'{"detect": 1}', b"\x1f\x8b\x08")
    )
    lines = [f"{method} {dice.choice(PATHS)} HTTP/{version}".encode(), b"Host: localhost"]
    return b"\r\n".join([*lines, *dice.sample(headers, dice.choice((0, 1, 1, 4))), b"", body])


@pytest.mark.parametrize("guarded", [False, True])
def test_thousand_bad_requests_leave_server_log_and_files_alone(
    open_web: Callable[..., WebPublisher],
    ask: Callable[..., Any],
    make_result: MakeResult,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    guarded: bool,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    access = WebConfig(users={"ada": hash_password("geheim")}, token=TOKEN) if guarded else WebConfig()
    web = open_web(set_detecting=lambda camera, on: None, access=access)
    web.publish(make_result())
    address = ("127.0.0.1", int(web.url.rpartition(":")[2].strip("/")))
    dice, statuses = random.Random(20261125), set()
    for _ in range(1000):
        with closing(socket.create_connection(address, timeout=5)) as connection, suppress(OSError):
            connection.sendall(_request(dice, address[1]))
            if dice.random() < 0.3:
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.3)
            answer = connection.recv(4096)
            statuses.add(answer[9:12])
            assert b"root:" not in answer
    assert b"500" not in statuses
    assert ({b"400", b"401"} if guarded else {b"400", b"404", b"405"}) <= statuses
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line for line in told if "wrong user or password" not in line] == []
    assert ask(web, "/snapshot.jpg", Authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /api/labels HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\r\n\r\n", b"400"),
        (b"GET /static/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * 3000), b"404"),
        (b"HEAD /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405"),
        (b"HEAD /ws HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"421"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost:80;x\r\n\r\n", b"421"),
        (
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
            b"Content-Length: 20\r\n\r\n" + b"x" * 20,
            b"400",
        ),
        (
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \xff\r\n\r\n",
            b"400",
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_its_senders_fault(
    open_web: Callable[..., WebPublisher], caplog: pytest.LogCaptureFixture, head: bytes, status: bytes
) -> None:
    web = open_web()
    address = ("127.0.0.1", int(web.url.rpartition(":")[2].strip("/")))
    with closing(socket.create_connection(address, timeout=5)) as connection:
        connection.sendall(head)
        assert connection.recv(4096)[9:12] == status
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_small_body_does_not_become_a_large_one_and_pipelined_requests_do_not_pile_up(
    open_web: Callable[..., WebPublisher], ask: Callable[..., Any]
) -> None:
    web = open_web()
    address = ("127.0.0.1", int(web.url.rpartition(":")[2].strip("/")))
    before = _resident_bytes()
    bomb = gzip.compress(b"0" * 300_000_000, 1)
    headers = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    with closing(socket.create_connection(address, timeout=5)) as connection, suppress(OSError):
        connection.sendall(b"POST /login HTTP/1.1\r\n" + headers + b"Content-Length: %d\r\n\r\n" % len(bomb) + bomb)
        connection.recv(4096)
    with closing(socket.create_connection(address, timeout=1)) as connection, suppress(OSError):
        for _ in range(300):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
    assert ask(web, "/healthz")[0] == 200
    assert _resident_bytes() - before < 60_000_000


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
