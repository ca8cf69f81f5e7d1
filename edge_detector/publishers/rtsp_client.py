"""RtspClient: announces a stream to an RTSP server and sends it over the same connection (RFC 2326)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import select
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

from edge_detector import __version__
from edge_detector.errors import PublishError

PORT = 554
SEND_BUFFER_BYTES = 256 * 1024  # in the kernel: more would be seconds of old pictures on a slow line
MAX_ANSWER_BYTES = 64 * 1024
HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


@dataclass(frozen=True, slots=True)
class _Answer:
    code: int
    text: str
    headers: Mapping[str, str]
    challenges: tuple[str, ...]


class RtspClient:
    """A connection; RTP goes over channel 0, RTCP over channel 1. No call takes longer than `timeout_s` or so.

    FFmpeg can do this too, but PyAV holds Python's lock while it connects, and so stops the whole program.

    Raises:
        OSError: the server cannot be reached.
    """

    def __init__(self, uri: str, timeout_s: float) -> None:
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        self._uri = f"rtsp://{host}{parts.path}{f'?{parts.query}' if parts.query else ''}"
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._number = 0
        self._session = ""
        self._socket = socket.create_connection((parts.hostname or "", parts.port or PORT), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._stream = self._socket.makefile("rb")

    def record(self, description: str) -> None:
        """Announce the stream that `description`, SDP, describes; after that packets can be sent.

        Raises:
            PublishError: the server refuses it.
            OSError: the connection failed.
        """
        self._ask("ANNOUNCE", self._uri, {"Content-Type": "application/sdp"}, description)
        track = f"{self._uri.rstrip('/')}/video"
        answer = self._ask("SETUP", track, {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"})
        self._session = answer.headers.get("session", "").partition(";")[0]
        self._ask("RECORD", self._uri, {"Range": "npt=0.000-"})

    def send(self, packets: Iterable[tuple[int, bytes]]) -> None:
        """Send packets, each with its channel; what the server says is read and forgotten.

        Raises:
            OSError: the connection failed, or the server took nothing for too long.
        """
        self._socket.sendall(b"".join(struct.pack(">cBH", b"$", channel, len(one)) + one for channel, one in packets))
        self.check()

    def check(self) -> None:
        """Read what the server sent.

        Raises:
            OSError: it has ended the connection.
        """
        while select.select([self._socket], [], [], 0)[0]:
            if not self._socket.recv(65536):
                raise ConnectionResetError("the server has ended the connection")

    def close(self) -> None:
        """Say goodbye and close."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(0.1)
            self._socket.sendall(self._request("TEARDOWN", self._uri, {}, ""))
        self._stream.close()
        self._socket.close()

    def abort(self) -> None:
        """Make a call that is under way on another thread fail."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _ask(self, method: str, uri: str, headers: Mapping[str, str], body: str = "") -> _Answer:
        for _ in range(2):
            self._socket.sendall(self._request(method, uri, headers, body))
            answer = self._answer()
            if answer.code != 401 or self._challenge is not None or not self._user:
                break
            self._challenge = _strongest(answer.challenges)
        if answer.code != 200:
            raise PublishError(f"{method} is answered with {answer.code} {answer.text}")
        return answer

    def _request(self, method: str, uri: str, headers: Mapping[str, str], body: str) -> bytes:
        self._number += 1
        lines = {"CSeq": str(self._number), "User-Agent": f"edge_detector/{__version__}", **headers}
        if self._session:
            lines["Session"] = self._session
        if self._challenge is not None:
            lines["Authorization"] = self._authorization(method, uri, *self._challenge)
        if body:
            lines["Content-Length"] = str(len(body))
        head = "".join(f"{key}: {value}\r\n" for key, value in lines.items())
        return f"{method} {uri} RTSP/1.0\r\n{head}\r\n{body}".encode()

    def _answer(self) -> _Answer:
        """Read the answer to the last request, past binary packets."""
        while (line := self._line()).startswith("$"):
            self._stream.read(struct.unpack(">H", line.encode("latin-1")[2:4])[0])
        version, _, rest = line.partition(" ")
        code, _, text = rest.partition(" ")
        if not version.startswith("RTSP/") or not code.isdecimal():
            raise PublishError("what answers is no RTSP server")
        headers, challenges, size = {}, [], 0
        while line := self._line():
            size += len(line)
            key, _, value = line.partition(":")
            headers[key.strip().lower()] = value.strip()
            if key.strip().lower() == "www-authenticate":
                challenges.append(value.strip())
            if size > MAX_ANSWER_BYTES:
                raise PublishError("the server's answer is too long")
        length = headers.get("content-length", "0")
        self._stream.read(min(int(length) if length.isdecimal() else 0, MAX_ANSWER_BYTES))
        return _Answer(int(code), text, headers, tuple(challenges))

    def _line(self) -> str:
        """Return a line without its end, or the head of a binary packet."""
        start = self._stream.read(1)
        line = start + (self._stream.read(3) if start == b"$" else self._stream.readline(MAX_ANSWER_BYTES))
        if not start:
            raise ConnectionResetError("the server has ended the connection")
        return line.decode("latin-1") if start == b"$" else line.decode("latin-1").rstrip("\r\n")

    def _authorization(self, method: str, uri: str, scheme: str, asked: Mapping[str, str]) -> str:
        """Return the answer to a challenge: RFC 7617 (Basic), RFC 7616 (Digest, without qop, as RTSP has it)."""
        if scheme == "basic":
            return f"Basic {base64.b64encode(f'{self._user}:{self._password}'.encode()).decode()}"
        realm, nonce, algorithm = asked.get("realm", ""), asked.get("nonce", ""), asked.get("algorithm", "MD5")

        def digest(*parts: str) -> str:
            return HASHES[algorithm.upper()](":".join(parts).encode()).hexdigest()

        response = digest(digest(self._user, realm, self._password), nonce, digest(method, uri))
        values = {"username": self._user, "realm": realm, "nonce": nonce, "uri": uri, "response": response}
        if "algorithm" in asked:
            values["algorithm"] = algorithm
        if "opaque" in asked:
            values["opaque"] = asked["opaque"]
        return "Digest " + ", ".join(f'{key}="{value}"' for key, value in values.items())


def _strongest(challenges: Iterable[str]) -> tuple[str, dict[str, str]] | None:
    """Return scheme and parameters of the best challenge that can be answered."""
    known = []
    for challenge in challenges:
        scheme, _, rest = challenge.partition(" ")
        asked = parse_keqv_list([part for part in parse_http_list(rest) if "=" in part])
        if scheme.lower() == "digest" and asked.get("algorithm", "MD5").upper() in HASHES:
            known.append((1 + ("SHA" in asked.get("algorithm", "").upper()), "digest", asked))
        elif scheme.lower() == "basic":
            known.append((0, "basic", asked))
    best = max(known, key=lambda one: one[0], default=None)
    return None if best is None else best[1:]
