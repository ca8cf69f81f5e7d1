"""The description of the API says what there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from edge_detector import __version__
from edge_detector.publishers.web import WebPublisher
from edge_detector.publishers.web.access import Access
from edge_detector.publishers.web.routes import Pages, describe
from edge_detector.publishers.web.site import Site
from edge_detector.runtime.metrics import (
    CameraStatus,
    DetectorStatus,
    LatencyMeter,
    PipelineStats,
    ProcessStatus,
    ServiceStatus,
    SinkStatus,
)
from edge_detector.web_config import WebConfig


async def nothing(_: web.Request, __: web.StreamResponse) -> None:
    """Stand where the server takes note of answers."""


def routes() -> set[tuple[str, str]]:
    site = Site({}, (), "tiny", 1, 1.0, None, None, None)
    app = Pages(site, Access(WebConfig(), "127.0.0.1", 1)).application(nothing)
    found = {(route.method, resource.canonical) for resource in app.router.resources() for route in resource}
    return {(method, path) for method, path in found if method != "HEAD" and not path.startswith("/static/")}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


def test_every_route_is_described_and_nothing_else() -> None:
    methods = ("get", "post", "put", "delete", "patch")
    described = {
        (method.upper(), path) for path, item in describe()["paths"].items() for method in item if method in methods
    }
    assert described == routes()


def test_references_lead_somewhere() -> None:
    for reference in references(dict(describe())):
        place: Any = describe()
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_it_is_served(open_web: Callable[..., WebPublisher], ask: Callable[..., Any]) -> None:
    status, headers, body = ask(open_web(), "/openapi.json")
    document = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == __version__


def test_status_has_what_is_described(open_web: Callable[..., WebPublisher], ask: Callable[..., Any]) -> None:
    latency = LatencyMeter().histogram
    camera = CameraStatus("csi://0", "live", 1.0, None, True, 0.1, {}, PipelineStats(), {}, latency, None, None)
    told = ServiceStatus(
        DetectorStatus("tiny", "LiteRT"),
        ProcessStatus(1.0, 1, 1, 1, 0),
        {"camera": camera},
        {"mqtt": SinkStatus("hanging", 12.0, "it does not answer", 1, 2, 3, 4)},
    )
    service = json.loads(ask(open_web(status=lambda: told), "/api/status")[2])["service"]
    schema = describe()["components"]["schemas"]["Service"]
    assert set(service) == set(schema["required"])
    for name, part in schema["properties"].items():
        if "additionalProperties" in part:
            (one,) = service[name].values()
            assert set(one) >= set(part["additionalProperties"]["required"])
        else:
            assert set(service[name]) >= set(part.get("required", ()))
    sink = schema["properties"]["sinks"]["additionalProperties"]
    assert set(service["sinks"]["mqtt"]) == set(sink["required"])
    assert service["sinks"]["mqtt"]["state"] in sink["properties"]["state"]["enum"]
