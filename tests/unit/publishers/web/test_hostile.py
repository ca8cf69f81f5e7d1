"""What is no proper request does no harm: not to the server, not to its log, not to the files beside it."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from edge_detector.frame import FrameResult
from edge_detector.publishers.web import WebPublisher

MakeResult = Callable[..., FrameResult]
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
    "/api/events?label=" + "%ff" * 50,
    "/whep/..%2f..",
    "/ws",
)


def _junk(dice: random.Random, count: int) -> bytes:
    return bytes(dice.randrange(256) for _ in range(count))


def _request(dice: random.Random) -> bytes:
    if dice.random() < 0.2:
        return _junk(dice, 200)
    headers = (
        b"Authorization: Basic " + _junk(dice, 9).hex().encode(),
        b"Authorization: Bearer " + _junk(dice, 5),
        b"Cookie: edge_detector=" + _junk(dice, 30),
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


def test_thousand_bad_requests_leave_server_log_and_files_alone(
    open_web: Callable[..., WebPublisher],
    ask: Callable[..., Any],
    make_result: MakeResult,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    web = open_web(set_detecting=lambda camera, on: None)
    web.publish(make_result())
    address = ("127.0.0.1", int(web.url.rpartition(":")[2].strip("/")))
    dice, statuses = random.Random(20261125), set()
    for _ in range(1000):
        with closing(socket.create_connection(address, timeout=5)) as connection, suppress(OSError):
            connection.sendall(_request(dice))
            if dice.random() < 0.3:
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.3)
            answer = connection.recv(4096)
            statuses.add(answer[9:12])
            assert b"root:" not in answer
    assert b"500" not in statuses
    assert {b"400", b"404", b"405"} <= statuses
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert ask(web, "/snapshot.jpg")[0] == 200
