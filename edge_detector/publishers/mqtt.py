"""Results, events and states to an MQTT broker, and detection switched by it; Home Assistant finds all by itself."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.reasoncodes import ReasonCode

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event
from edge_detector.frame import FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.publishers.home_assistant import discovery, slug, slugs
from edge_detector.publishers.jsonl import Lines
from edge_detector.publishers.mqtt_client import RECONNECT_MAX_S, WINDOW, hardware, make_client
from edge_detector.publishers.mqtt_outbox import Message, Outbox
from edge_detector.publishers.schema import compact, event_to_json
from edge_detector.runtime.metrics import ServiceStatus, SinkStatus, sink_status
from edge_detector.sink_config import MqttConfig

logger = logging.getLogger(__name__)

TICK_S = 1.0
SILENT_S = 10.0  # of a camera without pictures for so long nobody is known to be there
CLOSE_S = 0.5
SHORT_S = 30.0  # who is sent away sooner comes back later each time
LEARN_S = 2.0  # after connecting, for what the broker still tells of an earlier run
REPORT_PERIOD_S = 10.0
ON, OFF = b"ON", b"OFF"


class MqttPublisher:
    """A `Publisher` and `EventPublisher`. A thread of its own sends what waits, another one is the client's.

    Below `topic_prefix`: `available` (online, offline), `<camera>/detections` (an inference each), `events`, `alerts`,
    `<camera>/<label>` (how many are seen), `<camera>/<label>/snapshot` (JPEG), `<camera>/detect/state` and `stats`;
    `<camera>/detect/set` takes ON and OFF.

    While the broker is away, the client tries again with growing pauses; `Outbox` says what waits for it.
    """

    def __init__(
        self,
        settings: MqttConfig,
        *,
        labels: Sequence[str],
        model_name: str,
        cameras: Mapping[str, Sequence[str]],
        status: Callable[[], ServiceStatus],
        set_detecting: Callable[[str, bool], None],
    ) -> None:
        """Begin to connect.

        Args:
            settings: which broker, and how.
            labels: of the model, by class id.
            model_name: for the JSON.
            cameras: labels that are counted from the start, by camera; others are from when they are seen.
            status: says how the service is.
            set_detecting: pauses (False) or resumes the detection of a camera; raises KeyError if there is none.

        Raises:
            PublishError: a certificate or key cannot be used.
        """
        self.name = f"mqtt://{settings.host}:{settings.port}"
        self._field = {"sink": self.name}  # of what is logged on the client's thread
        self._settings = settings
        self._prefix = settings.topic_prefix
        self._node = slug(settings.client_id or f"edge_detector-{socket.gethostname()}{hardware()}")
        self._labels = labels
        self._slugs = slugs(labels)
        self._lines = Lines(labels, model_name)
        self._cameras = {camera: list(counted) for camera, counted in cameras.items()}
        self._status = status
        self._set_detecting = set_detecting
        self._changed = threading.Condition()  # guards all that follows
        self._outbox = Outbox(settings.queue_max, settings.queue_max_age_s)
        self._told: dict[str, bytes] = {}  # states, by topic
        self._given = self._confirmed = self._barrier = self._losses = 0
        self._connected = self._closing = False
        self._closing_at_s = 0.0
        self._trouble: tuple[float, str] | None = (time.monotonic(), "not connected yet")
        self._unanswered_s: float | None = None  # since when the broker has confirmed nothing of what it was given
        self._failing = False  # on the client's thread only, as the next three
        self._short_stays = self._odd = 0
        self._connected_s = 0.0
        self._learning = False
        self._reported = 0
        self._defect_s = -math.inf
        self._tick_s = self._stats_s = self._reported_s = time.monotonic()
        for camera, counted in self._cameras.items():
            for label in counted:
                self._tell(self._topic(camera, label), b"0")
        self._client = self._make_client()
        self._client.connect_async(str(settings.host), settings.port, keepalive=30)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, name=f"publish {self.name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Events and detections that were not sent."""
        return self._outbox.dropped

    def status(self) -> SinkStatus:
        """Return how the broker is; from any thread."""
        with self._changed:
            return sink_status(
                failing=self._trouble,
                busy_since=self._unanswered_s,
                queued=len(self._outbox) + self._given - self._confirmed,
                dropped=self._outbox.dropped,
                failed=self._losses,
                written=self._confirmed,
            )

    def publish(self, result: FrameResult) -> None:
        """Queue what an inference found, and how many are seen if that has changed."""
        line = self._lines.line(result)
        counts = Counter(self._labels[class_id] for class_id in result.detections.class_id.tolist())
        with self._changed:
            if self._closing:
                raise PublishError(f"{self.name} is closed")
            known = self._cameras.setdefault(result.camera, [])
            fresh = [label for label in counts if label not in known]
            known += fresh
            for label in known:
                self._tell(self._topic(result.camera, label), str(counts[label]).encode())
            if fresh:
                self._introduce()
            if line and self._connected:
                topic = f"{self._prefix}/{result.camera}/detections"
                self._outbox.put_detections(Message(topic, line.rstrip(b"\n"), time.monotonic()))
            elif line:
                self._outbox.dropped += 1
            self._changed.notify_all()

    def publish_event(self, event: Event | Alert) -> None:
        """Queue an event or alert, and the object's picture."""
        topic = f"{self._prefix}/{'alerts' if isinstance(event, Alert) else 'events'}"
        payload, now_s = event_to_json(event).encode(), time.monotonic()
        with self._changed:
            if self._closing:
                raise PublishError(f"{self.name} is closed")
            self._outbox.put_event(Message(topic, payload, now_s))
            if isinstance(event, Event) and event.snapshot is not None:
                picture = f"{self._topic(event.object.camera, event.object.label)}/snapshot"
                self._outbox.put_state(Message(picture, event.snapshot, now_s, retain=True))
            self._changed.notify_all()

    def close(self) -> None:
        """Send what waits, for half a second at most, say that we are offline, and disconnect."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._closing_at_s = time.monotonic()
            self._changed.notify_all()
        self._thread.join(CLOSE_S + 0.2)
        with self._changed:
            left = self._outbox.dropped + len(self._outbox) + self._given - self._confirmed
            connected = self._connected
        if connected:
            gone = self._client.publish(f"{self._prefix}/available", b"offline", 1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):  # the connection has gone just now
                gone.wait_for_publish(0.3)
        self._client.disconnect()
        stopper = threading.Thread(target=self._client.loop_stop, daemon=True)
        with contextlib.suppress(RuntimeError):  # no room for a thread: the client's own ends with the program
            stopper.start()
            stopper.join(1.1)  # the client may be in a pause between tries, or waiting for an answer
        if left:
            logger.warning("%s: %d messages were not sent in all", self.name, left)

    # The client, on its thread.

    def _make_client(self) -> paho.Client:
        client = make_client(self._settings, self._node, self.name)
        client.on_connect = self._on_connect
        # It is called while the error is handled, which it does not pass on.
        client.on_connect_fail = lambda client, userdata: self._lose(f"it cannot be reached: {sys.exc_info()[1]}")
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    def _on_connect(self, client: paho.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._lose(f"it refuses us: {reason}")
            return
        topics = [
            f"{self._prefix}/+/detect/set",
            f"{self._settings.home_assistant.prefix}/status",
            f"{self._prefix}/+/+",
        ]
        client.subscribe([(topic, 1) for topic in topics])
        self._connected_s, self._learning = time.monotonic(), True
        with self._changed:
            self._connected, self._trouble = True, None
            # What the client has on its way goes again first: older states must not come after newer ones.
            self._barrier = self._given
            self._told = {f"{self._prefix}/available": b"online", **self._told}
            self._introduce()
            for topic, payload in self._told.items():  # it may have forgotten
                self._outbox.put_state(Message(topic, payload, time.monotonic(), retain=True))
            self._stats_s = 0.0
            self._changed.notify_all()
        self._failing = False
        if self._short_stays < 3:
            logger.info("%s: connected", self.name, extra=self._field)

    def _on_disconnect(
        self, client: paho.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        with self._changed:
            self._connected, self._unanswered_s = False, None
            self._outbox.drop_detections()
            if self._settings.qos == 0:  # what was on its way is lost, and is never confirmed
                self._confirmed = self._given
        if self._closing:
            return
        stayed_s = time.monotonic() - self._connected_s
        self._short_stays = self._short_stays + 1 if stayed_s < SHORT_S else 0
        self._client.reconnect_delay_set(min(RECONNECT_MAX_S, 2**self._short_stays), RECONNECT_MAX_S)
        if self._short_stays < 3:
            self._lose(str(reason))
            return
        self._note_trouble("it sends us away again and again")
        if self._short_stays == 3:
            told = "%s sends us away again and again; is mqtt.client_id of this device alone?"
            logger.warning(told, self.name, extra=self._field)

    def _lose(self, why: str) -> None:
        self._note_trouble(why)
        if not self._failing:
            logger.warning("%s: %s; trying again until it answers", self.name, why, extra=self._field)
        self._failing = True

    def _note_trouble(self, why: str) -> None:
        with self._changed:
            self._losses += 1
            self._trouble = (time.monotonic() if self._trouble is None else self._trouble[0]), why

    def _on_publish(self, client: paho.Client, userdata: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        with self._changed:
            self._confirmed += 1
            self._unanswered_s = time.monotonic() if self._given > self._confirmed else None
            self._changed.notify_all()

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if message.topic == f"{self._settings.home_assistant.prefix}/status":
            if message.payload == b"online":
                with self._changed:
                    self._tell_anew(self._config_topic, self._told[self._config_topic])
                    self._changed.notify_all()
            return
        camera, _, rest = message.topic.removeprefix(f"{self._prefix}/").partition("/")
        if rest != "detect/set":
            self._learn(camera, rest, message)
            return
        try:
            self._set_detecting(camera, {ON: True, OFF: False}[bytes(message.payload[:20])])
        except KeyError:
            self._odd += 1
            if self._odd == 1:
                told = message.topic[:100], bytes(message.payload[:20])
                logger.warning(
                    "%s: %r: no such camera, or %r is neither ON nor OFF; more are ignored", self.name, *told
                )
            return
        with self._changed:
            self._tick_s = 0.0  # so that the state is told at once
            self._changed.notify_all()

    def _learn(self, camera: str, topic: str, message: paho.MQTTMessage) -> None:
        """Take back what an earlier run has told of labels that are known again only when they are seen."""
        label = next((label for label, known in self._slugs.items() if known == topic), None)
        with self._changed:
            known_labels = self._cameras.get(camera)
            if message.retain and label is not None and known_labels is not None and label not in known_labels:
                known_labels.append(label)
                self._tell_anew(self._topic(camera, label), b"0")
                self._introduce()
                self._changed.notify_all()
        if self._learning and time.monotonic() - self._connected_s > LEARN_S:
            self._learning = False
            self._client.unsubscribe(f"{self._prefix}/+/+")

    # What waits; with the lock held.

    def _topic(self, camera: str, label: str) -> str:
        return f"{self._prefix}/{camera}/{self._slugs.get(label) or slug(label)}"

    @property
    def _config_topic(self) -> str:
        return f"{self._settings.home_assistant.prefix}/device/{self._node}/config"

    def _tell(self, topic: str, payload: bytes) -> None:
        if self._told.get(topic) != payload:
            self._tell_anew(topic, payload)

    def _tell_anew(self, topic: str, payload: bytes) -> None:
        self._told[topic] = payload
        self._outbox.put_state(Message(topic, payload, time.monotonic(), retain=True))

    def _introduce(self) -> None:
        """Tell Home Assistant what there is, or that there is nothing any more."""
        payload = b""
        if self._settings.home_assistant.enabled:
            cameras = {name: {label: self._slugs[label] for label in known} for name, known in self._cameras.items()}
            payload = compact(discovery(self._prefix, self._node, cameras, qos=self._settings.qos)).encode()
        self._tell(self._config_topic, payload)

    # Sending, on its thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._can_send() or self._is_over() or not self._tick_s, TICK_S)
                message = self._outbox.take(time.monotonic()) if self._can_send() else None
                if self._is_over():
                    return
            try:
                if message is not None:
                    self._send(message)
                self._tick()
            except Exception as error:
                if time.monotonic() - self._defect_s > REPORT_PERIOD_S:
                    self._defect_s = time.monotonic()
                    logger.exception("%s: %s", self.name, error)

    def _can_send(self) -> bool:
        ready = self._connected and self._confirmed >= self._barrier and self._given - self._confirmed < WINDOW
        return ready and len(self._outbox) > 0

    def _is_over(self) -> bool:
        if not self._closing:
            return False
        sent = self._given == self._confirmed and len(self._outbox) == 0
        return sent or not self._connected or time.monotonic() - self._closing_at_s > CLOSE_S

    def _send(self, message: Message) -> None:
        payload = message.payload if isinstance(message.payload, bytes) else encode_jpeg(message.payload)
        qos = self._settings.qos
        with self._changed:
            self._given += 1
            if self._unanswered_s is None and self._connected:
                self._unanswered_s = time.monotonic()
            if message.retain:
                self._told[message.topic] = payload  # a picture is not known there yet
        try:
            lost = self._client.publish(message.topic, payload, qos, message.retain).rc != paho.MQTT_ERR_SUCCESS
        except Exception:
            self._take_back()
            raise
        # With qos 1 and 2 the client keeps it until the broker has confirmed it, also over an outage.
        if qos == 0 and lost:
            self._take_back()

    def _take_back(self) -> None:
        with self._changed:
            self._given -= 1
            if self._given <= self._confirmed:
                self._unanswered_s = None
            self._outbox.dropped += 1

    def _tick(self) -> None:
        """Once a second, tell what changes without results: paused cameras, silent ones, the service itself."""
        now_s = time.monotonic()
        if now_s - self._tick_s < TICK_S:
            return
        self._tick_s = now_s
        if not self._closing:
            self._client.loop_start()  # does nothing, unless an exception has ended the client's thread
        status = self._status()
        with self._changed:
            for name, camera in status.cameras.items():
                self._tell(f"{self._prefix}/{name}/detect/state", ON if camera.detecting else OFF)
                if not camera.detecting or camera.silent_s is None or camera.silent_s > SILENT_S:
                    for label in self._cameras.get(name, ()):
                        self._tell(self._topic(name, label), b"0")
            if self._connected and now_s - self._stats_s >= self._settings.stats_interval:
                self._stats_s = now_s
                self._tell_anew(f"{self._prefix}/stats", json.dumps(status.to_json()).encode())
            dropped = self._outbox.dropped
        if dropped > self._reported and now_s - self._reported_s >= REPORT_PERIOD_S and self._connected:
            logger.warning("%s: %d messages were not sent so far", self.name, dropped)
            self._reported, self._reported_s = dropped, now_s
