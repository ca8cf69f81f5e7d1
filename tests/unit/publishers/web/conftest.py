"""Real servers over loopback, and clients of them."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.web import WebPublisher

LABELS = ("person", "犬")
Answer = tuple[int, http.client.HTTPMessage, bytes]


@pytest.fixture
def open_web() -> Iterator[Callable[..., WebPublisher]]:
    """Return a function that starts a server on a free port."""
    opened: list[WebPublisher] = []

    def start(**settings: Any) -> WebPublisher:
        opened.append(WebPublisher(OverlayRenderer(LABELS), LABELS, "tiny", port=0, **settings))
        return opened[-1]

    yield start
    for publisher in opened:
        publisher.close()


@pytest.fixture(scope="session")
def ask() -> Callable[..., Answer]:
    """Return a function that sends a request and returns status, headers and body of the answer."""

    def send(
        publisher: WebPublisher,
        path: str,
        method: str = "GET",
        body: str | bytes | None = None,
        **headers: str,
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        port = urlsplit(publisher.url).port
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    return send
