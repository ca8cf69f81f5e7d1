"""The page by https, with certificates of this test's own."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.passwords import hash_password
from edge_detector.publishers.web import WebPublisher
from edge_detector.publishers.web.certificate import Certificate
from edge_detector.publishers.web.guard import MAX_CONNECTIONS
from edge_detector.web_config import WebConfig

OpenWeb = Callable[..., WebPublisher]
MakeResult = Callable[..., FrameResult]


def certify(folder: Path, name: str = "localhost", password: str | None = None) -> WebConfig:
    """Write a certificate and its key, and return the settings with them."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    command += ["-nodes"] if password is None else ["-passout", f"pass:{password}"]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return WebConfig(tls_cert=str(cert), tls_key=str(key), users={"ada": hash_password("geheim")})


def trusting(settings: WebConfig) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=settings.tls_cert)


def test_https_is_served_and_its_cookie_is_for_https_alone(
    open_web: OpenWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_result: MakeResult
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    settings = certify(tmp_path)
    web = open_web(access=settings)
    web.publish(make_result())
    assert web.url.startswith("https://")
    port = int(web.url.rpartition(":")[2].strip("/"))
    with closing(http.client.HTTPSConnection("localhost", port, timeout=10, context=trusting(settings))) as connection:
        body = json.dumps({"user": "ada", "password": "geheim"})
        connection.request(
            "POST", "/login", body, {"Content-Type": "application/json", "Origin": f"https://localhost:{port}"}
        )
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        cookie = answer.headers["Set-Cookie"]
        assert "Secure" in cookie
        connection.request("GET", "/stream.mjpg", headers={"Cookie": cookie.partition(";")[0]})
        stream = connection.getresponse()
        assert stream.read(2000).startswith(b"--edge-detector-frame")


def test_plain_http_gets_no_answer_and_a_silent_handshake_is_ended(open_web: OpenWeb, tmp_path: Path) -> None:
    web = open_web(access=certify(tmp_path))
    address = ("127.0.0.1", int(web.url.rpartition(":")[2].strip("/")))
    with (
        socket.create_connection(address, timeout=10) as plain,
        socket.create_connection(address, timeout=10) as silent,
    ):
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in plain.recv(100)
        started_s = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - started_s < 9


def test_renewed_certificate_is_taken_and_half_a_one_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = certify(tmp_path)
    certificate = Certificate(settings)
    first = _served(certificate.context)
    (tmp_path / "other").mkdir()
    other = Path(certify(tmp_path / "other").tls_cert or "").read_text()

    async def scene() -> None:
        looking = asyncio.create_task(certificate.renew(0.02))
        whole = Path(settings.tls_cert or "").read_text()
        await asyncio.sleep(0.05)
        for half in (whole[:100], other):  # cut off, or with the old key still
            Path(settings.tls_cert or "").write_text(half)
            await asyncio.sleep(0.1)
            assert "cannot be used yet" in caplog.text
            assert _served(certificate.context) == first
        certify(tmp_path)
        deadline_s = time.monotonic() + 10
        while _served(certificate.context) == first:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.02)
        looking.cancel()

    asyncio.run(scene())


def test_silent_handshakes_count_as_connections(open_web: OpenWeb, tmp_path: Path) -> None:
    web = open_web(access=certify(tmp_path))
    address = ("127.0.0.1", int(web.url.rpartition(":")[2].strip("/")))
    before = len(list(Path("/proc/self/fd").iterdir()))
    silent = []
    for _ in range(2 * MAX_CONNECTIONS):
        silent.append(socket.create_connection(address, timeout=5))
    time.sleep(0.3)
    ours = len(list(Path("/proc/self/fd").iterdir())) - before - len(silent)
    for one in silent:
        one.close()
    assert ours <= MAX_CONNECTIONS


@pytest.mark.parametrize("kind", ["missing", "no certificate", "with a passphrase", "of another key"])
def test_certificate_that_cannot_be_used_is_one_line(open_web: OpenWeb, tmp_path: Path, kind: str) -> None:
    settings = certify(tmp_path, password="secret" if kind == "with a passphrase" else None)
    other = tmp_path / "other"
    other.mkdir()
    if kind == "missing":
        Path(settings.tls_key or "").unlink()
    elif kind == "no certificate":
        Path(settings.tls_cert or "").write_text("nonsense")
    elif kind == "of another key":
        settings = settings.model_copy(update={"tls_key": certify(other).tls_key})
    with pytest.raises(PublishError, match=r"web\.tls_cert and web\.tls_key cannot be used"):
        open_web(access=settings)


def _served(context: ssl.SSLContext) -> Any:
    """Return the certificate that a server with this context shows, over memory alone."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server)
    there = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return here.getpeercert(binary_form=True)
