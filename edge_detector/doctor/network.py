"""Checks of ports, broker, servers and streams."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from edge_detector.config import Config
from edge_detector.doctor.context import Context
from edge_detector.doctor.finding import Finding, error, ok, skipped
from edge_detector.sink_config import MqttConfig, parse_address

TIMEOUT_S = 4.0
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
_WRONG_LOGIN = (4, 5, 134, 135)  # CONNACK: bad user or password, not authorized; MQTT 3.1.1 and 5


class NoTlsError(OSError):
    """The two ends do not agree on encryption."""


def check_port(context: Context) -> Iterator[Finding]:
    """Whether the page's address is free, or ours already."""
    config = context.config
    if config is None or config.http is None:
        yield skipped("http", "the settings cannot be used" if config is None else "turned off in the settings")
        return
    host, port = parse_address(config.http)
    try:
        _listen(host, port)
    except OSError as problem:
        yield _explain_port(context, config.http, port, problem)
    else:
        yield ok("http", f"{config.http} is free")


def _listen(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()


def _explain_port(context: Context, address: str, port: int, problem: OSError) -> Finding:
    if problem.errno == errno.EADDRINUSE:
        holders, complete = context.host.listeners(port)
        if any(holder.ours for holder in holders):
            return ok("http", f"{address} is served by edge-detector ({holders[0].pid})")
        if holders:
            who = ", ".join(map(str, holders))
            fix = "Stop that program, or take another port (http in the settings):"
            return error("http", f"{address} is in use by {who}", fix, f"sudo kill {holders[0].pid}")
        hidden = "" if complete else "; by whom, it tells with sudo"
        return error("http", f"{address} is in use{hidden}", "Take another port (http in the settings).")
    if problem.errno in (errno.EADDRNOTAVAIL, errno.EACCES):
        why = (
            "this machine has no such address"
            if problem.errno == errno.EADDRNOTAVAIL
            else "ports below 1024 are root's"
        )
        fix = "Use 127.0.0.1:8080, or 0.0.0.0:8080 for all networks."
        return error("http", f"{address}: {why}", fix)
    return error("http", f"{address}: {problem.strerror or problem}", "Correct http in the settings.")


def check_broker(context: Context) -> Iterator[Finding]:
    """Whether the MQTT broker takes our login."""
    config = context.config
    if config is None or config.mqtt.host is None:
        yield skipped("mqtt", "the settings cannot be used" if config is None else "no broker in the settings")
        return
    name = f"{config.mqtt.host}:{config.mqtt.port}"
    try:
        refused = _log_in(config.mqtt)
    except (OSError, ValueError) as problem:
        encrypted = isinstance(problem, NoTlsError)
        what = "does not encrypt as the settings want" if encrypted else "cannot be reached"
        fix = "Check mqtt.tls and mqtt.tls_ca_certs, and the broker's certificate." if encrypted else (
            "Start the broker, and check mqtt.host and mqtt.port; if it is on another machine, its firewall, and that "
            "it does not listen on localhost only."
        )  # fmt: skip
        yield error("mqtt", f"{name} {what}: {_reason(problem)}", fix)
        return
    if refused is None:
        who = f" as {config.mqtt.user}" if config.mqtt.user else ", without a user"
        yield ok("mqtt", f"{name} lets us in{who}")
        return
    code, text = refused
    if code in _WRONG_LOGIN:
        fix = "Check mqtt.user and mqtt.password. A password is set on the broker with:"
        command = f"sudo mosquitto_passwd /etc/mosquitto/passwd {config.mqtt.user or 'edge'}"
        yield error("mqtt", f"{name} refuses the login: {text}", fix, command)
    else:
        yield error("mqtt", f"{name} refuses us: {text}", "Look at the broker's log.")


def _log_in(settings: MqttConfig) -> tuple[int, str] | None:
    """Connect as the service does, under another client id; return code and text of a refusal.

    Raises:
        OSError: no broker answers.
        ValueError: a certificate cannot be used.
    """
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    answered = threading.Event()
    answers: list[Any] = []

    def on_connect(client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        answers.append(reason)
        answered.set()

    client = paho.Client(CallbackAPIVersion.VERSION2)  # the broker makes up an id: ours is in use
    client.connect_timeout = TIMEOUT_S
    client.on_connect = on_connect
    client.on_disconnect = lambda *_: answered.set()
    if settings.user is not None:
        client.username_pw_set(settings.user, settings.password)
    if settings.tls or settings.tls_ca_certs or settings.tls_client_cert:
        client.tls_set_context(_encrypt(settings))
    client.connect(str(settings.host), settings.port)
    client.loop_start()
    try:
        answered.wait(TIMEOUT_S)
    finally:
        client.disconnect()
        client.loop_stop()
    if not answers:
        raise TimeoutError(f"no answer to our login within {TIMEOUT_S:g} s; is it a broker?")
    return (answers[0].value, str(answers[0])) if answers[0].is_failure else None


def _encrypt(settings: MqttConfig) -> ssl.SSLContext:
    """Return how to encrypt, tried on the broker: paho would leave its socket open where that fails.

    Raises:
        OSError: no broker answers, `NoTlsError` if it does not agree.
    """
    address = str(settings.host), settings.port
    with socket.create_connection(address, TIMEOUT_S) as plain:
        try:
            context = ssl.create_default_context(cafile=settings.tls_ca_certs)
            context.check_hostname = not settings.tls_insecure
            if settings.tls_client_cert is not None:
                context.load_cert_chain(settings.tls_client_cert, settings.tls_client_key)
            context.wrap_socket(plain, server_hostname=address[0]).close()
        except OSError as problem:
            raise NoTlsError(_reason(problem)) from problem
    return context


def check_servers(context: Context) -> Iterator[Finding]:
    """Whether servers that results go to are there."""
    config = context.config
    if config is None:
        yield skipped("servers", "the settings cannot be used")
        return
    found = dict(_servers(config))
    for key, (host, port) in found.items():
        yield _reach(key, host, port, "Check the address in the settings, and that the server runs:")
    if config.udp.address is not None:
        yield _resolve("udp", *parse_address(config.udp.address))
    if not found and config.udp.address is None:
        yield skipped("servers", "no webhooks, udp or rtsp_push in the settings")


def _servers(config: Config) -> Iterator[tuple[str, tuple[str, int]]]:
    for name, hook in config.webhooks.items():
        yield f"webhook {name}", _host_and_port(hook.url)
    if config.stream.rtsp_push is not None:
        yield "rtsp_push", _host_and_port(config.stream.rtsp_push.replace("{camera}", "camera"))


def check_streams(context: Context) -> Iterator[Finding]:
    """Whether network cameras are there."""
    if context.config is None:
        yield skipped("streams", "the settings cannot be used")
        return
    streams = {
        name: feed.source
        for name, feed in context.config.feeds.items()
        if urlsplit(feed.source.split("@")[-1] if "@" in feed.source else feed.source).scheme or "://" in feed.source
    }
    found = {name: uri for name, uri in streams.items() if uri.partition("://")[0].lower() in _PORTS}
    for name, uri in found.items():
        yield _reach(f"camera {name}", *_host_and_port(uri), "Is it switched on, and on this network? See:")
    if not found:
        yield skipped("streams", "no network cameras in the settings")


def _host_and_port(uri: str) -> tuple[str, int]:
    parts = urlsplit(uri)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme.lower()]


def _reach(name: str, host: str, port: int, fix: str) -> Finding:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with closing(socket.create_connection((host, port), TIMEOUT_S)):
            return ok(name, f"{shown} answers")
    except (OSError, UnicodeError) as problem:
        if isinstance(problem, socket.gaierror):
            return error(
                name,
                f"{shown}: there is no such name",
                "Check the name, and this machine's DNS:",
                f"getent hosts {host}",
            )
        return error(name, f"{shown}: {_reason(problem)}", fix, f"ping -c 3 {host}")


def _resolve(name: str, host: str, port: int) -> Finding:
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return error(
            name, f"{host}: there is no such name", "Check udp.address in the settings:", f"getent hosts {host}"
        )
    return ok(name, f"{host}:{port} is known (whether somebody listens, UDP does not tell)")


def _reason(problem: Exception) -> str:
    if isinstance(problem, socket.gaierror):
        return "there is no such name"
    if isinstance(problem, TimeoutError):
        return str(problem) if "login" in str(problem) else f"no answer within {TIMEOUT_S:g} s"
    if isinstance(problem, ssl.SSLError):
        return getattr(problem, "verify_message", "") or problem.reason or "no TLS"
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem) or type(problem).__name__
