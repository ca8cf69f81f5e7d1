"""Ports, broker, servers and streams: real sockets and a real mosquitto, on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_detector.doctor import network

if TYPE_CHECKING:
    from tests.unit.doctor.conftest import Machine

LISTEN = (
    "import socket, sys; server = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print(flush=True); "
    "sys.stdin.read(); server.close()"
)
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def test_free_port_is_free(machine: Machine, free_port: Callable[[], int]) -> None:
    (found,) = machine.check(network.check_port, f"http: 127.0.0.1:{free_port()}")
    assert found.state == "ok"
    assert machine.check(network.check_port, "http: null")[0].state == "skipped"


def test_process_that_holds_the_port_is_named(machine: Machine, start: Callable, free_port: Callable[[], int]) -> None:
    machine.real_processes()
    port = free_port()
    process = start("-c", LISTEN, str(port))
    (found,) = machine.check(network.check_port, f"http: 127.0.0.1:{port}")
    assert (found.state, f"({process.pid})" in found.found) == ("error", True), found
    assert found.command == f"sudo kill {process.pid}"


def test_our_own_service_may_hold_the_port(
    machine: Machine, start: Callable, free_port: Callable[[], int], tmp_path: Path
) -> None:
    machine.real_processes()
    port = free_port()
    script = tmp_path / "edge-detector"
    script.write_text(LISTEN)
    start(str(script), str(port))
    (found,) = machine.check(network.check_port, f"http: 127.0.0.1:{port}")
    assert (found.state, "served by edge-detector" in found.found) == ("ok", True), found


def test_port_of_somebody_unknown_is_told(machine: Machine, free_port: Callable[[], int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # in a machine whose /proc shows no processes
        (found,) = machine.check(network.check_port, f"http: 127.0.0.1:{server.getsockname()[1]}")
    assert (found.state, found.found.endswith("is in use")) == ("error", True), found


def test_address_that_this_machine_does_not_have_is_told(machine: Machine) -> None:
    (found,) = machine.check(network.check_port, "{http: '203.0.113.7:8080', web: {insecure: true}}")
    assert (found.state, "no such address" in found.found) == ("error", True), found


@pytest.fixture
def broker(
    tmp_path: Path, free_port: Callable[[], int], wait_for_port: Callable[[int], None]
) -> Iterator[Callable[..., int]]:
    """Return a function that starts a broker with lines of its settings, and returns its port."""
    if MOSQUITTO is None:
        pytest.skip("needs mosquitto, as of Debian's package")
    started = []

    def start_broker(*lines: str) -> int:
        port = free_port()
        settings = tmp_path / "mosquitto.conf"
        settings.write_text("\n".join([f"listener {port} 127.0.0.1", "user root", *lines]) + "\n")
        command = [MOSQUITTO, "-c", str(settings)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_for_port(port)
        return port

    yield start_broker
    for process in started:
        process.terminate()
        process.wait(10)


def with_login(tmp_path: Path, broker: Callable[..., int]) -> int:
    assert MOSQUITTO is not None
    passwords = tmp_path / "passwords"
    tool = shutil.which("mosquitto_passwd", path="/usr/bin:/usr/local/bin")
    if tool is None:
        pytest.skip("needs mosquitto_passwd, as of Debian's package mosquitto")
    subprocess.run([tool, "-b", "-c", str(passwords), "eyes", "right-password"], check=True, capture_output=True)
    return broker("allow_anonymous false", f"password_file {passwords}")


def mqtt(port: int, more: str = "") -> str:
    return f"mqtt: {{host: 127.0.0.1, port: {port}{more}}}"


def test_broker_that_lets_us_in_is_ok(machine: Machine, broker: Callable[..., int]) -> None:
    (found,) = machine.check(network.check_broker, mqtt(broker("allow_anonymous true")))
    assert (found.state, "lets us in, without a user" in found.found) == ("ok", True), found


@pytest.mark.parametrize(
    ("login", "state"),
    [
        (", user: eyes, password: right-password", "ok"),
        (", user: eyes, password: wrong-password", "error"),
        ("", "error"),
    ],
)
def test_wrong_login_is_told(
    machine: Machine, tmp_path: Path, broker: Callable[..., int], login: str, state: str
) -> None:
    (found,) = machine.check(network.check_broker, mqtt(with_login(tmp_path, broker), login))
    assert found.state == state, found
    assert state == "ok" or ("refuses the login" in found.found and "mosquitto_passwd" in str(found.command))
    assert "password" not in found.found


def test_broker_that_is_not_there_is_told(machine: Machine, free_port: Callable[[], int]) -> None:
    (found,) = machine.check(network.check_broker, mqtt(free_port()))
    assert (found.state, found.found.endswith("cannot be reached: Connection refused")) == ("error", True), found
    (found,) = machine.check(network.check_broker, "mqtt: {host: nowhere.invalid}")
    assert (found.state, "no such name" in found.found) == ("error", True), found


def test_broker_without_tls_where_we_want_it_is_told(machine: Machine, broker: Callable[..., int]) -> None:
    (found,) = machine.check(network.check_broker, mqtt(broker("allow_anonymous true"), ", tls: true"))
    assert (found.state, "mqtt.tls" in str(found.fix)) == ("error", True), found


@pytest.mark.parametrize(("name", "more", "state", "words"), [
    ("127.0.0.1", "tls_ca_certs: {own}", "ok", "lets us in"),
    ("127.0.0.1", "tls: true", "error", "self-signed certificate"),
    ("localhost", "tls_ca_certs: {own}", "error", "not valid for"),
    ("localhost", "tls_ca_certs: {own}, tls_insecure: true", "ok", "lets us in"),
    ("127.0.0.1", "tls_ca_certs: /nowhere.pem", "error", "No such file"),
])  # fmt: skip
def test_certificate_that_is_not_trusted_is_told(
    machine: Machine, tmp_path: Path, broker: Callable[..., int], name: str, more: str, state: str, words: str
) -> None:
    openssl = shutil.which("openssl", path="/usr/bin:/usr/local/bin")
    if openssl is None:
        pytest.skip("needs openssl")
    own, key = tmp_path / "own.pem", tmp_path / "key.pem"
    request = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=broker"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", own]
    subprocess.run([*request, *files], check=True, capture_output=True)
    port = broker("allow_anonymous true", f"certfile {own}", f"keyfile {key}")
    (found,) = machine.check(network.check_broker, f"mqtt: {{host: {name}, port: {port}, {more.format(own=own)}}}")
    assert (found.state, words in found.found) == (state, True), found
    assert state == "ok" or "mqtt.tls" in str(found.fix)


def test_what_is_no_broker_is_told(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        (found,) = machine.check(network.check_broker, mqtt(server.getsockname()[1]))
        thread.join()
    assert (found.state, "is it a broker?" in found.found) == ("error", True), found


def test_broker_is_skipped_where_none_is_named(machine: Machine) -> None:
    assert machine.check(network.check_broker)[0].state == "skipped"


@pytest.mark.parametrize(("check", "config"), [
    (network.check_streams, "source: rtsp://ada:lovelace@127.0.0.1:{port}/one"),
    (network.check_servers, "webhooks: {{phone: {{url: 'http://127.0.0.1:{port}/hook'}}}}"),
    (network.check_servers, "stream: {{rtsp_push: 'rtsp://ada:lovelace@127.0.0.1:{port}/one'}}"),
])  # fmt: skip
def test_servers_and_streams_are_reached_or_not(
    machine: Machine, check: Callable, config: str, free_port: Callable[[], int]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (found,) = machine.check(check, config.format(port=server.getsockname()[1]))
        assert (found.state, found.found.endswith("answers")) == ("ok", True), found
    (found,) = machine.check(check, config.format(port=free_port()))
    assert (found.state, found.found.endswith("Connection refused"), bool(found.fix)) == ("error", True, True), found
    assert "lovelace" not in found.found
    (found,) = machine.check(check, config.replace("127.0.0.1", "nowhere.invalid").format(port=1234))
    assert (found.state, "there is no such name" in found.found) == ("error", True), found


def test_receiver_of_datagrams_must_have_a_name_that_is_known(machine: Machine) -> None:
    assert machine.check(network.check_servers, "udp: {address: '127.0.0.1:5005'}")[0].state == "ok"
    assert machine.check(network.check_servers, "udp: {address: 'nowhere.invalid:5005'}")[0].state == "error"


def test_servers_and_streams_are_skipped_where_none_are_named(machine: Machine) -> None:
    states = [machine.check(check, "source: demo")[0].state for check in (network.check_servers, network.check_streams)]
    assert states == ["skipped", "skipped"]
