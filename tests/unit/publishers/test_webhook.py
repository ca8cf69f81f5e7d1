from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, ObjectState
from edge_detector.publishers.event_worker import QueuedEvents
from edge_detector.publishers.webhook import Webhook, open_webhook
from edge_detector.sink_config import WebhookConfig

MakeObject = Callable[..., ObjectState]
WaitUntil = Callable[..., None]
RED = np.full((20, 30, 3), (240, 20, 20), np.uint8)


class Receiver:
    """A real HTTP server that keeps what is posted to it; it answers with `codes`, one after the other, then 204."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.codes: list[int] = []
        self.hangs = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                if receiver.hangs.is_set():
                    time.sleep(3)
                code = receiver.codes.pop(0) if receiver.codes else 204
                self.send_response(code)
                if code in (301, 302, 307):
                    self.send_header("Location", "http://[")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                receiver.got.append(({}, b"GET"))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?token=abc"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in list(self.got)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


def quick(receiver: Receiver, **settings: Any) -> QueuedEvents[Webhook]:
    config = WebhookConfig(url=receiver.url, **{"timeout_s": 2.0, **settings})
    return QueuedEvents(Webhook(config), first_pause_s=0.02, max_pause_s=0.1)


def test_events_and_alerts_are_posted_as_json_in_their_order(receiver: Receiver, make_object: MakeObject) -> None:
    with closing(quick(receiver)) as hook:
        hook.publish_event(Event("new", make_object(), RED))
        hook.publish_event(Alert("visit", 7.0, make_object(), 2))
        hook.publish_event(Event("end", make_object(ended=True)))
    assert [document["type"] for document in receiver.documents()] == ["new", "alert", "end"]
    assert receiver.documents()[0]["object"] == json.loads(json.dumps(make_object().to_json()))
    headers, _ = receiver.got[0]
    assert headers["content-type"] == "application/json"
    assert "snapshot" not in receiver.documents()[0]
    assert "webhook-signature" not in headers


@pytest.mark.parametrize(
    ("secret", "key"),
    [("plain words", b"plain words"), ("whsec_" + base64.b64encode(b"\x00\xffkey").decode(), b"\x00\xffkey")],
)
def test_messages_are_signed_as_standard_webhooks_says(
    receiver: Receiver, make_object: MakeObject, secret: str, key: bytes
) -> None:
    with closing(quick(receiver, secret=secret)) as hook:
        hook.publish_event(Event("new", make_object()))
    headers, body = receiver.got[0]
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 10


def test_picture_goes_along_where_it_is_wanted(receiver: Receiver, make_object: MakeObject) -> None:
    with closing(quick(receiver, snapshot=True)) as hook:
        hook.publish_event(Event("new", make_object(), RED))
        hook.publish_event(Event("end", make_object(ended=True)))
    first, second = receiver.documents()
    assert base64.b64decode(first["snapshot"]).startswith(b"\xff\xd8")
    assert "snapshot" not in second


@pytest.mark.parametrize("code", [500, 503, 408, 429])
def test_what_is_not_taken_yet_comes_again_with_the_same_id(
    receiver: Receiver, make_object: MakeObject, code: int
) -> None:
    receiver.codes = [code, code]
    with closing(quick(receiver)) as hook:
        hook.publish_event(Event("new", make_object("o0")))
        hook.publish_event(Event("new", make_object("o1")))
    assert [document["object"]["id"] for document in receiver.documents()] == ["o0", "o0", "o0", "o1"]
    assert len({headers["webhook-id"] for headers, _ in receiver.got[:3]}) == 1
    assert receiver.got[2][0]["webhook-id"] != receiver.got[3][0]["webhook-id"]


@pytest.mark.parametrize("code", [400, 401, 404, 410, 302])
def test_what_is_refused_is_dropped_and_said_once(
    receiver: Receiver, make_object: MakeObject, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    receiver.codes = [code, code]
    with closing(quick(receiver)) as hook:
        for number in range(3):
            hook.publish_event(Event("new", make_object(f"o{number}")))
    assert hook.status().failed == 2
    assert [document["object"]["id"] for document in receiver.documents()] == ["o0", "o1", "o2"]
    assert caplog.text.count(f"refuses what we send: {code}") == 1
    assert "2 messages were refused in all" in caplog.text
    assert "token" not in caplog.text


def test_server_that_is_away_gets_all_when_it_is_back(
    make_object: MakeObject, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hook = QueuedEvents(Webhook(WebhookConfig(url=f"http://127.0.0.1:{port}/")), first_pause_s=0.02, max_pause_s=0.1)
    for number in range(20):
        hook.publish_event(Event("new", make_object(f"o{number}")))
    wait_until(lambda: "Connection refused" in caplog.text)
    with socket.create_server(("127.0.0.1", port)) as server:
        got = b""
        while b"o19" not in got:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(5)
                part = b""
                while not part.endswith(b"}"):
                    part += connection.recv(65536)
                got += part
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    hook.close()
    assert got.count(b'"type":"new"') == 20


@pytest.mark.parametrize("drip", [b"HTTP/1.1 100 Continue\r\n\r\n", b"H"], ids=["continue", "status"])
def test_answer_that_never_ends_is_given_up_in_time(
    make_object: MakeObject, caplog: pytest.LogCaptureFixture, drip: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = WebhookConfig(url=f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=0.5)
        hook = QueuedEvents(Webhook(config), first_pause_s=60.0, close_timeout_s=0.1)
        hook.publish_event(Event("new", make_object()))
        connection, _ = server.accept()
        start_s = time.monotonic()
        with connection:
            while time.monotonic() - start_s < 5 and "are kept and tried again" not in caplog.text:
                with suppress(OSError):
                    connection.sendall(drip)
                time.sleep(0.02)
        assert time.monotonic() - start_s < 2
        with pytest.raises(PublishError, match="1 events are lost"):
            hook.close()


def test_answer_that_never_ends_is_given_up_though_the_name_was_looked_up_slowly(
    monkeypatch: pytest.MonkeyPatch, make_object: MakeObject
) -> None:
    look_up = socket.getaddrinfo

    def slowly(*arguments: Any, **options: Any) -> Any:  # a name server that is away has 5 s per try
        time.sleep(0.5)
        return look_up(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = WebhookConfig(url=f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=0.3)
        hook = QueuedEvents(Webhook(config), first_pause_s=60.0, close_timeout_s=0.1)
        hook.publish_event(Event("new", make_object()))
        connection, _ = server.accept()
        start_s = time.monotonic()
        with connection, suppress(OSError):
            while time.monotonic() - start_s < 20:
                connection.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - start_s < 10
        with pytest.raises(PublishError, match="1 events are lost"):
            hook.close()


def test_answer_that_does_not_come_is_given_up_and_the_event_comes_again(
    receiver: Receiver, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    receiver.hangs.set()
    with closing(quick(receiver, timeout_s=0.2)) as hook:
        hook.publish_event(Event("new", make_object()))
        wait_until(lambda: len(receiver.got) >= 2)
        receiver.hangs.clear()


def test_posting_starts_no_threads(
    receiver: Receiver, make_object: MakeObject, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `Thread.start` waits for ever for a thread that finds no memory in its first steps, and the webhook with it.
    starters: list[str] = []
    start = threading.Thread.start

    def note_and_start(thread: threading.Thread) -> None:
        starters.append(threading.current_thread().name)
        start(thread)

    with closing(quick(receiver)) as hook:
        monkeypatch.setattr(threading.Thread, "start", note_and_start)
        for number in range(3):
            hook.publish_event(Event("new", make_object(object_id=f"front-{number}")))
        wait_until(lambda: len(receiver.got) == 3)
    assert not [name for name in starters if name.startswith("events to webhook")]


def test_close_is_quick_while_the_server_hangs(receiver: Receiver, make_object: MakeObject) -> None:
    receiver.hangs.set()
    hook = open_webhook(WebhookConfig(url=receiver.url, timeout_s=30.0))
    hook.publish_event(Event("new", make_object()))
    time.sleep(0.2)
    start_s = time.monotonic()
    with pytest.raises(PublishError, match=r"webhook http://127\.0\.0\.1:\d+ hung"):
        hook.close()
    assert time.monotonic() - start_s < 2.0
    hook._thread.join(5)


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_server_that_speaks_no_http_is_tried_again(
    make_object: MakeObject, answer: bytes, wait_until: WaitUntil
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        hook = QueuedEvents(
            Webhook(WebhookConfig(url=f"http://127.0.0.1:{server.getsockname()[1]}/")), first_pause_s=0.02
        )
        hook.publish_event(Event("new", make_object()))
        for reply in (answer, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
            connection, _ = server.accept()
            with connection:
                while not connection.recv(65536).endswith(b"}"):
                    pass
                connection.sendall(reply)
        hook.close()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "file:///etc/passwd",
        "https://",
        "host/path",
        "http://h:99999/",
        "http://a b/",
        "http://a..b/",
        "http://h/\x01",
    ],
)
def test_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="give an address such as"):
        WebhookConfig(url=url)


def test_password_in_the_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="user and password in the address are not sent"):
        WebhookConfig(url="https://eyes:password@example.org/")
