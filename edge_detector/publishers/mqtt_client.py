"""The client of an MQTT broker, as the settings want it; it is not connected yet."""

from __future__ import annotations

import uuid

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge_detector.errors import PublishError
from edge_detector.sink_config import MqttConfig

WINDOW = 50  # messages that the broker has not confirmed yet
CONNECT_TIMEOUT_S = 5.0
RECONNECT_MAX_S = 60  # pause between tries


def make_client(settings: MqttConfig, client_id: str, name: str) -> paho.Client:
    """Return a client that tells the broker that it is offline when it goes; `name` is the broker's, for messages.

    Raises:
        PublishError: a certificate or key cannot be used.
    """
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
    client.suppress_exceptions = True
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.reconnect_delay_set(1, RECONNECT_MAX_S)
    client.max_inflight_messages_set(WINDOW)
    client.will_set(f"{settings.topic_prefix}/available", b"offline", 1, retain=True)
    if settings.user is not None:
        client.username_pw_set(settings.user, settings.password)
    if settings.tls or settings.tls_ca_certs or settings.tls_client_cert:
        try:
            client.tls_set(settings.tls_ca_certs, settings.tls_client_cert, settings.tls_client_key)
        except (OSError, ValueError) as error:
            raise PublishError(f"{name}: no certificate or key: {error}; check mqtt.tls_...") from error
        client.tls_insecure_set(settings.tls_insecure)
    return client


def hardware() -> str:
    """Return what tells apart devices of the same name: the end of a network card's address, where there is one."""
    address = uuid.getnode()
    made_up = address >> 40 & 1
    return "" if made_up else f"-{address & 0xFFFFFF:06x}"
