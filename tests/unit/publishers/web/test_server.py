"""The real server, asked by real clients over loopback."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.web import WebPublisher
from edge_detector.web_config import WebConfig

MakeResult = Callable[..., FrameResult]
LABELS = ("person", "犬")


@contextmanager
def server(**settings: Any) -> Iterator[WebPublisher]:
    publisher = WebPublisher(OverlayRenderer(LABELS), LABELS, "tiny", port=0, **settings)
    try:
        yield publisher
    finally:
        publisher.close()


@pytest.fixture
def web() -> Iterator[WebPublisher]:
    with server() as publisher:
        yield publisher


def port_of(publisher: WebPublisher) -> int:
    port = urlsplit(publisher.url).port
    assert port
    return port


def get(publisher: WebPublisher, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(publisher.url).hostname or "", port_of(publisher), timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Viewer:
    """Reads the stream as a browser does: parts end at the boundary."""

    def __init__(self, publisher: WebPublisher, receive_buffer: int | None = None) -> None:
        host, port = urlsplit(publisher.url).hostname or "", port_of(publisher)
        self._connection = http.client.HTTPConnection(host, port, timeout=10)
        if receive_buffer:
            self._connection.sock = socket.socket()
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._connection.sock.connect((host, port))
        self._connection.request("GET", "/stream.mjpg")
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self._boundary = b"\r\n--" + (self._response.headers.get_boundary() or "").encode()
        self._buffer = b"\r\n"

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._connection.close()

    def brightness(self) -> int:
        """Wait for the next picture and return the value of its top right pixel."""
        while True:
            head, found, rest = self._buffer.partition(self._boundary)
            if found and not head.strip():
                self._buffer = rest
            elif found:
                self._buffer = rest
                fields, _, body = head.partition(b"\r\n\r\n")
                assert fields.strip() == b"Content-Type: image/jpeg"
                picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE)
                assert picture is not None
                return int(picture[0, -1])
            else:
                received = self._response.read1(65536)
                assert received, "the server ended the stream"
                self._buffer += received


def test_page_and_all_that_it_loads_come_from_this_server(web: WebPublisher) -> None:
    status, headers, page = get(web, "/")
    assert status == 200
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert b"://" not in page.replace(b"http://www.w3.org", b"")
    for path, kind in (("app.js", "javascript"), ("app.css", "text/css"), ("favicon.svg", "image/svg+xml")):
        assert f"/static/{path}".encode() in page
        status, headers, _ = get(web, f"/static/{path}")
        assert status == 200
        assert kind in headers["Content-Type"]


def test_before_the_first_frame_there_is_a_page_but_no_picture(web: WebPublisher) -> None:
    assert get(web, "/healthz")[0] == 200
    assert get(web, "/snapshot.jpg")[0] == 503
    assert get(web, "/api/detections")[0] == 503
    assert json.loads(get(web, "/api/status")[2])["silent_s"] is None


def test_detections_are_the_newest_result_in_schema_1(web: WebPublisher, make_result: MakeResult) -> None:
    for frame_id in range(3):
        web.publish(make_result([(16, 12, 80, 60)], frame_id=frame_id, class_ids=[1], age_s=0.5))
    wait_until(lambda: get(web, "/api/detections")[0] == 200)
    _, headers, body = get(web, "/api/detections")
    document = json.loads(body)
    assert (document["schema"], document["frame_id"], document["age_ms"]) == (1, 2, 500.0)
    assert document["detections"][0]["label"] == "犬"
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"


def test_status_tells_rates_and_silence(web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(make_result())
    time.sleep(0.05)
    status = json.loads(get(web, "/api/status")[2])
    assert status["fps"] == {"capture": 25.0, "inference": 2.5}
    assert 0.04 < status["silent_s"] < 5
    assert (status["viewers"], status["encoded"]) == (0, 0)


def test_snapshot_shows_the_boxes_and_is_encoded_once_per_frame(web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(make_result([(20, 20, 100, 100)]))
    wait_until(lambda: get(web, "/snapshot.jpg")[0] == 200)
    _, headers, body = get(web, "/snapshot.jpg")
    assert headers["Content-Type"] == "image/jpeg"
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (120, 160, 3)
    assert picture[60, 20, 1] > picture[60, 60, 1] + 40
    assert web.encoded == 1


def test_nothing_is_encoded_and_no_image_wanted_without_viewers(web: WebPublisher, make_result: MakeResult) -> None:
    for frame_id in range(20):
        web.publish(make_result(frame_id=frame_id))
    wait_until(lambda: get(web, "/api/detections")[0] == 200)
    assert not web.wants_image
    assert web.encoded == 0


def test_viewers_share_one_encode_per_frame(web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(make_result([], color=10))
    with Viewer(web) as first, Viewer(web) as second, Viewer(web) as third:
        for step in range(1, 21):
            for viewer in (first, second, third):
                assert viewer.brightness() == pytest.approx(10 * step, abs=3)
            assert web.encoded == step
            web.publish(make_result([], color=10 * (step + 1)))
        assert web.wants_image


def test_picture_is_sent_whole_before_the_next_one_comes(web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(make_result([], color=200))
    with Viewer(web) as viewer:
        assert viewer.brightness() == pytest.approx(200, abs=3)
        assert viewer._buffer.endswith(b"Content-Type: image/jpeg\r\n\r\n")


def test_viewer_who_never_reads_delays_nobody_and_is_dropped(make_result: MakeResult) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    with server(stall_s=2.0) as web, socket.socket() as idler:
        idler.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        idler.connect(("127.0.0.1", port_of(web)))
        idler.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: web.wants_image)
        with Viewer(web) as viewer:
            waits = []
            for step in range(1, 13):
                result = make_result([], frame_id=step, size_wh=(1280, 720))
                result.frame.image[:] = noise
                result.frame.image[:100, -100:] = 20 * step
                started = time.monotonic()
                web.publish(result)
                assert viewer.brightness() == pytest.approx(20 * step, abs=6)
                waits.append(time.monotonic() - started)
            assert max(waits) < 1.0  # less than the time after which the idler is dropped
            wait_until(lambda: json.loads(get(web, "/api/status")[2])["viewers"] == 1)


def test_slow_viewer_gets_the_newest_picture_not_a_backlog(make_result: MakeResult) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)  # about 60 kB as JPEG
    with server() as web, Viewer(web, receive_buffer=16384) as viewer:
        for step in range(1, 101):
            result = make_result([], frame_id=step, size_wh=(320, 240))
            result.frame.image[:] = noise
            result.frame.image[:64, -64:] = 2 * step
            web.publish(result)
            time.sleep(0.01)
        seen = [viewer.brightness()]
        while seen[-1] < 197:
            seen.append(viewer.brightness())
        assert web._pages.live.missed > 0
        assert len(seen) <= 20  # what the bounded send buffer holds; unbounded it was 77


def test_viewer_who_leaves_is_no_longer_counted(web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(make_result())
    with Viewer(web) as viewer:
        viewer.brightness()
        assert web.wants_image
    wait_until(lambda: not web.wants_image)  # though no further frame comes
    encoded = web.encoded
    web.publish(make_result())
    wait_until(lambda: json.loads(get(web, "/api/status")[2])["viewers"] == 0)
    assert web.encoded == encoded


def test_viewers_beyond_the_limit_are_refused_until_one_leaves(make_result: MakeResult) -> None:
    with server(access=WebConfig(max_viewers=2)) as web:
        web.publish(make_result())
        with Viewer(web), Viewer(web) as second:
            with Viewer(web) as third:
                assert third.status == 503
            second.__exit__()
            wait_until(lambda: json.loads(get(web, "/api/status")[2])["viewers"] == 1)
            with Viewer(web) as fourth:
                assert fourth.status == 200


def test_a_viewer_who_leaves_at_its_first_picture_frees_its_place_though_no_other_follows(
    make_result: MakeResult,
) -> None:
    with server() as web:
        web.publish(make_result())
        for _ in range(300):
            Viewer(web).__exit__()
            wait_until(lambda: json.loads(get(web, "/api/status")[2])["viewers"] == 0)


def test_port_in_use_is_a_publish_error_that_says_what_to_do(web: WebPublisher) -> None:
    with pytest.raises(
        PublishError, match=r"port \d+ of 127\.0\.0\.1: it is in use; stop the other program or choose another"
    ):
        WebPublisher(OverlayRenderer(LABELS), LABELS, "tiny", port=port_of(web))


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("203.0.113.7", "this machine has no such address; use 127.0.0.1"),
        ("no-such-host.invalid", "cannot serve the page on port 0 of no-such-host.invalid: "),
    ],
)
def test_unusable_address_is_a_publish_error(host: str, message: str) -> None:
    with pytest.raises(PublishError, match=message):
        WebPublisher(OverlayRenderer(LABELS), LABELS, "tiny", host=host, port=0)


def test_close_ends_streams_quickly_and_frees_the_port(make_result: MakeResult) -> None:
    with server() as web:
        web.publish(make_result())
        with Viewer(web) as viewer:
            viewer.brightness()
            started = time.monotonic()
            web.close()
            assert time.monotonic() - started < 3
            with pytest.raises(AssertionError, match="the server ended the stream"):
                viewer.brightness()
        again = WebPublisher(OverlayRenderer(LABELS), LABELS, "tiny", port=port_of(web))
        again.close()
    assert "web server" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080"])
def test_local_host_names_are_answered(web: WebPublisher, host: str) -> None:
    assert get(web, "/healthz", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "192.168.1.7", "127.0.0.1.evil.example", ""])
def test_foreign_host_names_are_refused_on_loopback(web: WebPublisher, host: str) -> None:
    for path in ("/", "/stream.mjpg", "/api/detections", "/static/app.js"):
        assert get(web, path, Host=host)[0] in (400, 421)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (socket.gethostname(), 200),
        (f"{socket.gethostname().partition('.')[0]}.local:8080", 200),
        ("eyes.example.org", 200),
        ("192.168.1.7", 200),
        ("[fe80::1]:8080", 200),
        ("evil.example", 421),
        (f"{socket.gethostname()}.evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
        ("[", 421),
    ],
)
def test_open_to_the_network_only_own_names_and_numbers_are_answered(host: str, status: int) -> None:
    """Else a page whose name is pointed to this address could read everything: DNS rebinding."""
    with server(host="0.0.0.0", access=WebConfig(insecure=True, hosts=["eyes.example.org"])) as web:
        connection = http.client.HTTPConnection("127.0.0.1", port_of(web), timeout=10)
        connection.request("GET", "/healthz", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


def test_open_to_the_network_without_a_password_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with server(host="0.0.0.0", access=WebConfig(insecure=True)):
        assert "can be opened by anybody on the network" in caplog.text


def test_page_is_served_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server(host="::1") as web:
        assert web.url.startswith("http://[::1]:")
        assert get(web, "/healthz")[0] == 200


def test_files_outside_the_static_folder_are_not_served(web: WebPublisher) -> None:
    for path in ("/static/../routes.py", "/static/%2e%2e/routes.py", "/static/..%2froutes.py", "/routes.py"):
        assert get(web, path)[0] in (403, 404)
