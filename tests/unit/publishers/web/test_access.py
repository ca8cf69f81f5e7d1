"""Who may ask the server for what; a real server, asked over loopback."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edge_detector.frame import FrameResult
from edge_detector.passwords import hash_password
from edge_detector.publishers.web import WebPublisher
from edge_detector.publishers.web.attempts import FREE, FREE_IN_ALL, MAX_ADDRESSES, Attempts
from edge_detector.web_config import WebConfig

Ask = Callable[..., tuple[int, http.client.HTTPMessage, bytes]]
OpenWeb = Callable[..., WebPublisher]
MakeResult = Callable[..., FrameResult]
PASSWORD = "correct horse: 犬"
TOKEN = "0123456789abcdef"
ADA = hash_password(PASSWORD)
GUARDED = WebConfig(users={"ada": ADA}, token=TOKEN)
BEHIND = ("/", "/stream.mjpg", "/snapshot.jpg", "/ws", "/api/detections", "/api/config", "/metrics", "/openapi.json")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the key of the sessions is kept."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def web(open_web: OpenWeb, make_result: MakeResult) -> WebPublisher:
    publisher = open_web(access=GUARDED)
    publisher.publish(make_result())
    return publisher


def log_in(ask: Ask, web: WebPublisher, user: str = "ada", password: str = PASSWORD, **headers: str) -> tuple[int, str]:
    """Return the status, and the cookie of the session."""
    body = json.dumps({"user": user, "password": password})
    status, answer, _ = ask(web, "/login", "POST", body, **{"Content_Type": "application/json", **headers})
    return status, answer.get("Set-Cookie", "").partition(";")[0]


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize("path", BEHIND)
def test_nothing_is_shown_without_credentials(web: WebPublisher, ask: Ask, path: str) -> None:
    assert ask(web, path)[0] == 401
    assert ask(web, path, Authorization="Bearer " + TOKEN[:-1])[0] == 401
    assert ask(web, path, Authorization=basic("ada", PASSWORD[:-1]))[0] == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_no_method_gets_around_it(web: WebPublisher, ask: Ask, method: str) -> None:
    assert ask(web, "/api/control", method)[0] == 401


@pytest.mark.parametrize(
    "path", ["/login/../api/config", "//login/../api/config", "/static/../api/config", "/static/%2e%2e/api/config"]
)
def test_open_paths_lead_nowhere_else(web: WebPublisher, ask: Ask, path: str) -> None:
    status, _, body = ask(web, path)
    assert status in (401, 403, 404)
    assert b"cameras" not in body


@pytest.mark.parametrize("path", ["/login", "/healthz", "/readyz", "/static/app.css"])
def test_login_page_and_health_are_open(web: WebPublisher, ask: Ask, path: str) -> None:
    assert ask(web, path)[0] == 200


def test_browser_is_sent_to_the_login_and_back(web: WebPublisher, ask: Ask) -> None:
    status, headers, _ = ask(web, "/?camera=gate", Accept="text/html,*/*", User_Agent="Mozilla/5.0")
    assert (status, headers["Location"]) == (302, "/login?next=/?camera%3Dgate")
    # A challenge would have it ask in a window of its own.
    assert "Basic" not in ask(web, "/api/status", User_Agent="Mozilla/5.0")[1]["WWW-Authenticate"]
    assert "Basic" in ask(web, "/api/status", User_Agent="Lavf/60")[1]["WWW-Authenticate"]


def test_session_opens_everything_until_logout(web: WebPublisher, ask: Ask) -> None:
    body = json.dumps({"user": "ada", "password": PASSWORD})
    status, headers, _ = ask(web, "/login", "POST", body, Content_Type="application/json")
    assert status == 200
    attributes = {part.strip() for part in headers["Set-Cookie"].split(";")[1:]}
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=2592000"} <= attributes
    cookie = headers["Set-Cookie"].partition(";")[0]
    for path in ("/", "/snapshot.jpg", "/api/detections", "/api/config"):
        assert ask(web, path, Cookie=cookie)[0] == 200
    gone = ask(web, "/logout", "POST", Cookie=cookie)[1]["Set-Cookie"]
    assert "Max-Age=0" in gone


def test_programs_come_in_by_token_or_basic(web: WebPublisher, ask: Ask) -> None:
    assert ask(web, "/snapshot.jpg", Authorization=f"Bearer {TOKEN}")[0] == 200
    for _ in range(2):
        started_s = time.monotonic()
        assert ask(web, "/snapshot.jpg", Authorization=basic("ada", PASSWORD))[0] == 200
    assert time.monotonic() - started_s < 5
    assert ask(web, "/snapshot.jpg", Authorization="Basic !!!")[0] == 401
    assert ask(web, "/snapshot.jpg", Authorization="Basic " + base64.b64encode(b"\xff\xfe:\xff").decode())[0] == 401


def test_forged_sessions_are_refused(web: WebPublisher, ask: Ask) -> None:
    name, _, value = log_in(ask, web)[1].partition("=")
    user, expiry, signature = value.split(".")
    assert ask(web, "/api/labels", Cookie=f"{name}={user}.{expiry}.{signature}")[0] == 200
    for forged in (
        f"{user}.{int(expiry) + 1}.{signature}",
        f"bob.{expiry}.{signature}",
        f"{user}.{expiry}.",
        f"{user}.{expiry}",
        f"{user}.{expiry}.{signature[:-1]}x",
        f"{user}.{'9' * 400}.{signature}",
        f"{user}.²{expiry[1:]}.{signature}",
        "",
    ):
        assert ask(web, "/api/labels", Cookie=f"{name}={forged}".encode().decode("latin-1"))[0] == 401


def test_session_ends_in_time(open_web: OpenWeb, ask: Ask) -> None:
    web = open_web(access=GUARDED.model_copy(update={"session_days": 1.5 / 86400}))
    _, cookie = log_in(ask, web)
    assert ask(web, "/api/labels", Cookie=cookie)[0] == 200
    time.sleep(2.1)
    assert ask(web, "/api/labels", Cookie=cookie)[0] == 401


def test_session_outlives_a_restart_but_not_a_new_password(open_web: OpenWeb, ask: Ask, state: Path) -> None:
    first = open_web(access=GUARDED)
    name, _, value = log_in(ask, first)[1].partition("=")
    assert (state / "session.key").stat().st_mode & 0o777 == 0o600

    def cookie(web: WebPublisher) -> str:
        return f"{name.rpartition('_')[0]}_{web.url.rpartition(':')[2].strip('/')}={value}"

    again = open_web(access=GUARDED)
    assert ask(again, "/api/labels", Cookie=cookie(again))[0] == 200
    changed = open_web(access=WebConfig(users={"ada": hash_password("new")}))
    assert ask(changed, "/api/labels", Cookie=cookie(changed))[0] == 401


def test_without_a_place_for_the_key_one_can_log_in_all_the_same(
    open_web: OpenWeb, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "file" / "below"))
    web = open_web(access=GUARDED)
    assert ask(web, "/api/labels", Cookie=log_in(ask, web)[1])[0] == 200


def test_guessing_is_slowed_down_and_sessions_go_on(web: WebPublisher, ask: Ask) -> None:
    _, cookie = log_in(ask, web)
    for attempt in range(FREE):
        assert log_in(ask, web, user=("ada", "nobody")[attempt % 2], password="guess")[0] == 403
    status, headers, _ = ask(web, "/api/labels", Authorization=basic("ada", "guess"))
    assert status == 429
    assert int(headers["Retry-After"]) >= 1
    assert log_in(ask, web)[0] == 429  # not even the right one, or it could be guessed on
    assert ask(web, "/api/labels", Cookie=cookie)[0] == 200
    time.sleep(1.1)
    assert log_in(ask, web)[0] == 200


def test_waits_grow_and_addresses_are_told_apart() -> None:
    attempts = Attempts()
    waits = []
    for _ in range(12):
        attempts.failed("10.0.0.1")
        waits.append(round(attempts.wait_s("10.0.0.1")))
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert attempts.wait_s("10.0.0.2") == 0
    attempts.passed("10.0.0.1")
    assert attempts.wait_s("10.0.0.1") == 0


def test_an_ipv6_network_is_one_address_and_many_addresses_are_slowed_down_together() -> None:
    attempts = Attempts()
    for number in range(FREE):
        attempts.failed(f"2001:db8::{number}")
    assert attempts.wait_s("2001:db8::ffff") > 0
    assert attempts.wait_s("2001:db8:1::1") == 0
    for number in range(FREE_IN_ALL):
        attempts.failed(f"10.0.1.{number}")
    assert attempts.wait_s("10.9.9.9") > 0


def test_one_who_goes_on_guessing_does_not_lock_the_others_out() -> None:
    attempts = Attempts()
    for _ in range(10 * FREE_IN_ALL):
        attempts.failed("10.0.0.1")
    assert attempts.wait_s("10.0.0.1") > 0
    assert attempts.wait_s("10.0.0.2") == 0


def test_password_sent_many_times_at_once_is_checked_once(web: WebPublisher, ask: Ask) -> None:
    with ThreadPoolExecutor(12) as executor:
        answers = [executor.submit(ask, web, "/api/labels", Authorization=basic("ada", PASSWORD)) for _ in range(12)]
        assert {answer.result()[0] for answer in answers} == {200}


@pytest.mark.parametrize("kept", [b"", b"short", b"x" * 33])
def test_spoilt_key_of_sessions_is_made_anew(open_web: OpenWeb, ask: Ask, state: Path, kept: bytes) -> None:
    state.mkdir()
    (state / "session.key").write_bytes(kept)
    web = open_web(access=GUARDED)
    assert ask(web, "/api/labels", Cookie=log_in(ask, web)[1])[0] == 200
    assert len((state / "session.key").read_bytes()) == 32
    assert [path.name for path in state.iterdir()] == ["session.key"]


def test_addresses_that_failed_do_not_fill_the_memory() -> None:
    attempts = Attempts()
    for number in range(2 * MAX_ADDRESSES):
        attempts.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts._failures) <= MAX_ADDRESSES


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"])
def test_pages_of_other_servers_can_neither_switch_nor_listen(open_web: OpenWeb, ask: Ask, origin: str) -> None:
    switched: list[Any] = []
    web = open_web(set_detecting=lambda camera, on: switched.append(on))
    body = json.dumps({"detect": False})
    assert ask(web, "/api/control", "POST", body, Content_Type="application/json", Origin=origin)[0] == 403
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": base64.b64encode(os.urandom(16)).decode(),
    }
    assert ask(web, "/ws", Origin=origin, **upgrade)[0] == 403
    assert switched == []
    own = web.url.rstrip("/")
    assert ask(web, "/api/control", "POST", body, Content_Type="application/json", Origin=own)[0] == 200
    assert ask(web, "/api/control", "POST", body, Content_Type="application/json")[0] == 200
    assert switched == [False, False]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"user": 1, "password": "x"}', b'{"user": "ada"}', b"\xff", b"[" * 15000]
)
def test_bad_login_is_one_line_that_says_what_to_send(web: WebPublisher, ask: Ask, body: bytes) -> None:
    status, _, text = ask(web, "/login", "POST", body, Content_Type="application/json")
    assert status == 400
    assert text.count(b"\n") == 1


def test_large_body_is_refused(web: WebPublisher, ask: Ask) -> None:
    body = json.dumps({"user": "ada", "password": "x" * 20000})
    assert ask(web, "/login", "POST", body, Content_Type="application/json")[0] == 413
    assert ask(web, "/login", "POST", "user=ada", Content_Type="application/x-www-form-urlencoded")[0] == 415
    half_a_character = '{"user": "ada", "password": "\\ud800"}'
    assert ask(web, "/login", "POST", half_a_character, Content_Type="application/json")[0] == 403


def test_secrets_are_in_no_answer_and_in_no_log(web: WebPublisher, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    log_in(ask, web, password="secret guess")
    ask(web, "/api/labels", Authorization="Bearer secret guess")
    shown = ask(web, "/api/config", Authorization=f"Bearer {TOKEN}")[2].decode() + caplog.text
    assert "secret guess" not in shown
    assert TOKEN not in shown
    assert ADA not in shown
