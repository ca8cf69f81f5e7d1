"""Events and alerts to an HTTP server, each in a POST of its own, signed as https://www.standardwebhooks.com says."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from edge_detector import __version__
from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event
from edge_detector.jpeg import encode_jpeg
from edge_detector.publishers.event_worker import PartlyWritten, QueuedEvents
from edge_detector.publishers.schema import compact, event_to_json
from edge_detector.sink_config import WebhookConfig

logger = logging.getLogger(__name__)

AGAIN_S = 0.2  # between two tries to cut a connection
AGAIN = {408, 425, 429}  # of the codes below 500 those after which the same may be accepted later


def open_webhook(settings: WebhookConfig) -> QueuedEvents[Webhook]:
    """Return a publisher that posts events and alerts; it keeps what the server does not take yet, and tries again."""
    return QueuedEvents(Webhook(settings))


class Webhook:
    """An `EventSink` that posts the JSON of schema 1; what is refused for good (3xx, 4xx) is dropped, and said.

    Attributes:
        refused: how many were.
    """

    def __init__(self, settings: WebhookConfig) -> None:
        parts = urlsplit(settings.url)
        self.name = f"webhook {parts.scheme}://{parts.hostname}{'' if parts.port is None else f':{parts.port}'}"
        self._settings = settings
        self._key = _key(settings.secret)
        self.refused = 0
        self._deadline = _Deadline()

    def write(self, events: Sequence[Event | Alert]) -> None:
        """Post the events; see `EventSink`."""
        for written, event in enumerate(events):
            try:
                self._post(event)
            except PublishError as error:
                raise PartlyWritten(str(error), written) from error

    def finish(self) -> None:
        """Say how many were refused."""
        self._deadline.close()
        if self.refused:
            logger.warning("%s: %d messages were refused in all", self.name, self.refused)

    def _post(self, event: Event | Alert) -> None:
        document = json.loads(event_to_json(event))
        message_id = f"{event.object.id}:{document.get('rule', document['type'])}:{document['ts']}"
        if self._settings.snapshot and isinstance(event, Event) and event.snapshot is not None:
            document["snapshot"] = base64.b64encode(encode_jpeg(event.snapshot)).decode()
        body, timestamp = compact(document).encode(), str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"edge_detector/{__version__}",
            "webhook-id": message_id,  # the same when it comes again
            "webhook-timestamp": timestamp,
        }
        if self._key is not None:
            signed = hmac.new(self._key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
            headers["webhook-signature"] = f"v1,{base64.b64encode(signed).decode()}"
        try:
            code = self._answer(body, headers)
        except ValueError as error:  # an address that the library does not take
            self._refuse(str(type(error).__name__))
        except (OSError, http.client.HTTPException) as error:
            raise PublishError(str(error) or type(error).__name__) from error
        else:
            if code >= 500 or code in AGAIN:
                raise PublishError(f"it answers {code}")
            if code >= 300:
                self._refuse(str(code))

    def _answer(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Post; return the status. All of it, however slow the server sends, takes `timeout_s` at most."""
        parts, timeout_s = urlsplit(self._settings.url), self._settings.timeout_s
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
        self._deadline.begin(connection, timeout_s)
        try:
            connection.request("POST", f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", body, headers)
            return connection.getresponse().status
        finally:
            self._deadline.over()
            connection.close()

    def _refuse(self, why: str) -> None:
        self.refused += 1
        if self.refused == 1:
            logger.warning("%s refuses what we send: %s; check url and secret (more go unsaid)", self.name, why)


class _Deadline:
    """Cuts a connection that takes too long, on one thread for all of them.

    A `threading.Timer` for each would one day, when memory is short, wait for ever for its thread to start.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._connection: http.client.HTTPConnection | None = None
        self._at_s = 0.0
        self._closed = False
        threading.Thread(target=self._run, name="webhook deadline", daemon=True).start()

    def begin(self, connection: http.client.HTTPConnection, timeout_s: float) -> None:
        """Cut it in so many seconds, unless it is over before."""
        with self._changed:
            self._connection, self._at_s = connection, time.monotonic() + timeout_s
            self._changed.notify_all()

    def over(self) -> None:
        """Let it be."""
        with self._changed:
            self._connection = None

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                left_s = self._at_s - time.monotonic()
                if self._connection is None or left_s > 0:
                    self._changed.wait(None if self._connection is None else left_s)
                    continue
                _cut(self._connection)
                self._at_s = time.monotonic() + AGAIN_S  # there may be nothing to cut yet, as a name is looked up


def _cut(connection: http.client.HTTPConnection) -> None:
    sock = connection.sock  # which may become None at any time
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _key(secret: str | None) -> bytes | None:
    """Return the key of a secret, which may be base64 behind "whsec_"."""
    if secret is None or not secret.startswith("whsec_"):
        return None if secret is None else secret.encode()
    return base64.b64decode(secret.removeprefix("whsec_"))
