"""The history of events, asked of the real server over loopback."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import cv2
import numpy as np
import pytest

from edge_detector.events import Alert, Event, ObjectState
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import EventHistory
from edge_detector.publishers.event_store import EventStore
from edge_detector.publishers.web import WebPublisher
from edge_detector.publishers.web.parameters import read_time

MakeObject = Callable[..., ObjectState]
Serve = Callable[[EventHistory | None], WebPublisher]
START_TS = 1700000000.0
ROUTES = ("/api/events", "/api/events/o0", "/api/events/o0/snapshot.jpg", "/api/counts", "/api/alerts")


@pytest.fixture
def store(make_object: MakeObject) -> Iterator[EventStore]:
    """A store with objects o0..o4, a minute apart: three that have ended, and cars, in porch, that are there."""
    kept = EventStore()
    for number in range(5):
        fields: dict[str, Any] = {"label": "car", "entered_zones": ("porch",)} if number > 2 else {"ended": True}
        state = make_object(f"o{number}", start_ts=START_TS + 60 * number, **fields)
        kept.write([Event("new", state, np.full((16, 24, 3), 90, np.uint8) if number == 0 else None)])
        kept.write([Alert("loiter" if number else "first", state.start_ts, state)])
    yield kept
    kept.finish()


@pytest.fixture
def serve() -> Iterator[Serve]:
    opened: list[WebPublisher] = []

    def start(events: EventHistory | None) -> WebPublisher:
        opened.append(WebPublisher(OverlayRenderer(("person",)), ("person",), "tiny", port=0, events=events))
        return opened[-1]

    yield start
    for publisher in opened:
        publisher.close()


@pytest.fixture
def web(serve: Serve, store: EventStore) -> WebPublisher:
    return serve(store)


def get(publisher: WebPublisher, path: str) -> tuple[int, str, bytes]:
    url = urlsplit(publisher.url)
    with closing(http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()


def answer(publisher: WebPublisher, path: str, **parameters: object) -> Any:
    status, kind, body = get(publisher, f"{path}?{urlencode(parameters)}" if parameters else path)
    assert (status, kind) == (200, "application/json; charset=utf-8"), body
    return json.loads(body)


@pytest.mark.parametrize(
    ("parameters", "numbers"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"limit": 2}, [4, 3]),
        ({"limit": 2, "offset": 2}, [2, 1]),
        ({"after": START_TS + 60, "before": START_TS + 180}, [2, 1]),
        ({"after": "2023-11-14T22:15:20Z"}, [4, 3, 2]),
        ({"before": "2023-11-14T23:14:20+01:00"}, [0]),
        ({"label": "car"}, [4, 3]),
        ({"zone": "porch"}, [4, 3]),
        ({"camera": "back"}, []),
        ({"ended": "true"}, [2, 1, 0]),
        ({"ended": "false", "label": "person"}, []),
    ],
)
def test_objects_are_listed_newest_first_and_filtered(
    web: WebPublisher, parameters: dict[str, object], numbers: list[int]
) -> None:
    assert [found["id"] for found in answer(web, "/api/events", **parameters)] == [f"o{number}" for number in numbers]


def test_object_is_told_as_it_is_in_every_sink(web: WebPublisher, make_object: MakeObject) -> None:
    expected = make_object("o0", start_ts=START_TS, ended=True).to_json()
    assert answer(web, "/api/events/o0") == {**expected, "has_snapshot": True}


def test_object_whose_name_needs_escapes_is_found(
    web: WebPublisher, store: EventStore, make_object: MakeObject
) -> None:
    store.write([Event("new", make_object("door/犬 1?"))])
    assert answer(web, f"/api/events/{quote('door/犬 1?', safe='')}")["id"] == "door/犬 1?"


def test_snapshot_is_the_picture(web: WebPublisher) -> None:
    status, kind, body = get(web, "/api/events/o0/snapshot.jpg")
    assert (status, kind) == (200, "image/jpeg")
    decoded = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (16, 24, 3)


def test_counts_are_by_hour_or_day(web: WebPublisher) -> None:
    for by in ("hour", "day"):
        periods = answer(web, "/api/counts", by=by)
        assert sum(period["count"] for period in periods) == 5
        assert {"ts", "count", "labels"} == set(periods[0])
    assert [period["labels"] for period in answer(web, "/api/counts", zone="porch", by="day")] == [{"car": 2}]


def test_alerts_are_listed(web: WebPublisher) -> None:
    assert [alert["object"]["id"] for alert in answer(web, "/api/alerts", limit=2)] == ["o4", "o3"]
    (first,) = answer(web, "/api/alerts", rule="first")
    assert (first["type"], first["ts"]) == ("alert", START_TS)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("/api/events?limit=0", "limit is '0'; give a whole number from 1 to 1000"),
        ("/api/events?limit=1001", "limit is '1001'; give a whole number from 1 to 1000"),
        ("/api/events?limit=-1", "limit is '-1'; give a whole number from 1 to 1000"),
        ("/api/events?limit=", "limit is ''; give a whole number from 1 to 1000"),
        ("/api/events?offset=" + "9" * 30, "offset is '" + "9" * 30 + "'; give a whole number from 0 to 1000000000"),
        ("/api/events?ended=maybe", "ended is 'maybe'; give true or false"),
        ("/api/counts?by=week", "by is 'week'; give hour or day"),
        (
            "/api/alerts?after=yesterday",
            "after is 'yesterday'; give seconds since 1970 or a time like 2024-05-17T08:30:00+02:00",
        ),
        ("/api/events?before=nan", "before is 'nan'; give seconds since 1970 or a time like 2024-05-17T08:30:00+02:00"),
        ("/api/alerts?lable=a%0Ab", "unknown parameter 'lable'; there are: after, before, rule, limit"),
        ("/api/counts?by=a%0Ab", r"by is 'a\nb'; give hour or day"),
    ],
)
def test_bad_parameter_is_answered_with_one_line_that_says_what_to_give(
    web: WebPublisher, query: str, message: str
) -> None:
    status, kind, body = get(web, query)
    assert (status, kind) == (400, "text/plain; charset=utf-8")
    assert body.decode() == message + "\n"


@pytest.mark.parametrize(
    "path", ["/api/events/nobody", "/api/events/nobody/snapshot.jpg", "/api/events/o1/snapshot.jpg"]
)
def test_what_is_not_there_is_404(web: WebPublisher, path: str) -> None:
    assert get(web, path)[0] == 404


@pytest.mark.parametrize("path", ROUTES)
def test_without_a_store_events_are_not_kept(serve: Serve, path: str) -> None:
    assert get(serve(None), path)[::2] == (404, b"events are not kept\n")


@pytest.mark.parametrize("path", ROUTES)
def test_store_that_cannot_be_read_is_503_with_its_reason(serve: Serve, path: str) -> None:
    store = EventStore()
    store.finish()
    assert get(serve(store), path)[::2] == (503, b"the store of events is closed\n")


def test_server_answers_others_while_a_query_takes_long(serve: Serve) -> None:
    entered, gate = threading.Event(), threading.Event()

    class SlowStore(EventStore):
        def event(self, object_id: str) -> dict[str, Any] | None:
            entered.set()
            assert gate.wait(10)
            return super().event(object_id)

    store = SlowStore()
    web = serve(store)
    statuses: list[int] = []
    reader = threading.Thread(target=lambda: statuses.append(get(web, "/api/events/o0")[0]))
    reader.start()
    assert entered.wait(10)
    assert get(web, "/healthz")[0] == 200
    assert not gate.is_set()
    assert statuses == []
    gate.set()
    reader.join(10)
    assert statuses == [404]
    store.finish()


@pytest.mark.parametrize(
    ("text", "ts"),
    [
        ("1700000000.5", 1700000000.5),
        ("0", 0.0),
        ("2023-11-14T22:13:20Z", 1700000000.0),
        ("2023-11-14T23:13:20+01:00", 1700000000.0),
        ("2023-11-14T23:13:20 01:00", 1700000000.0),
        ("2023-11-14 22:13:20", datetime(2023, 11, 14, 22, 13, 20).timestamp()),
        ("2023-11-14", datetime(2023, 11, 14).timestamp()),
    ],
)
def test_times_are_seconds_or_iso_8601(text: str, ts: float) -> None:
    assert read_time(text) == ts


@pytest.mark.parametrize("text", ["", "now", "inf", "2023-13-01", "2023-11-14T25:00Z"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seconds since 1970 or a time like"):
        read_time(text)
