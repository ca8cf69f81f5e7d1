from __future__ import annotations

import base64
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from edge_detector.errors import PublishError
from edge_detector.publishers.h264 import VideoPacket
from edge_detector.publishers.rtp import PAYLOAD_BYTES, RtpStream, describe
from edge_detector.publishers.rtsp_client import RtspClient

SPS, PPS = bytes.fromhex("6742c016da0280bfe584"), bytes.fromhex("68ce3c80")
CODE = b"\0\0\0\1"


def keyframe(size: int = 5000, pts: int = 0) -> VideoPacket:
    picture = b"\x65" + bytes(1 + number % 255 for number in range(size - 1))
    return VideoPacket(CODE + SPS + CODE + PPS + b"\0\0\1" + picture, True, pts)


def units_of(packets: list[bytes]) -> list[bytes]:
    """Put NAL units together again, as RFC 6184 says."""
    units: list[bytes] = []
    for payload in (packet[12:] for packet in packets):
        if payload[0] & 0x1F != 28:
            units.append(payload)
        elif payload[1] & 0x80:
            units.append(bytes([payload[0] & 0xE0 | payload[1] & 0x1F]) + payload[2:])
        else:
            units[-1] += payload[2:]
    return units


@pytest.mark.parametrize("size", [1, PAYLOAD_BYTES, PAYLOAD_BYTES + 1, 2 * PAYLOAD_BYTES - 3, 70_000])
def test_picture_is_whole_after_the_packets_are_put_together(size: int) -> None:
    picture = keyframe(size)
    packets = list(RtpStream().packets(picture))
    assert CODE.join([b"", *units_of(packets)]) == picture.data.replace(b"\0\0\1\x65", b"\0\0\0\1\x65")
    assert max(len(packet) for packet in packets) <= 12 + PAYLOAD_BYTES
    assert [packet[1] >> 7 for packet in packets] == [0] * (len(packets) - 1) + [1]
    ends = [packet[13] >> 6 for packet in packets if packet[12] & 0x1F == 28]
    assert not ends or ends == [2, *[0] * (len(ends) - 2), 1]


def test_packets_are_numbered_and_timed() -> None:
    stream = RtpStream()
    packets = [*stream.packets(keyframe(pts=0)), *stream.packets(keyframe(pts=2**32 + 4500))]
    numbers = [struct.unpack(">H", packet[2:4])[0] for packet in packets]
    assert numbers == [(numbers[0] + step) & 0xFFFF for step in range(len(packets))]
    first, last = (struct.unpack(">I", packet[4:8])[0] for packet in (packets[0], packets[-1]))
    assert (last - first) & 0xFFFFFFFF == 4500
    report = struct.unpack(">BBHIQIII", stream.report(0, 1_700_000_000.5))
    assert report[:3] == (0x80, 200, 6)
    assert report[4] == int((1_700_000_000.5 + 2_208_988_800) * 2**32)
    assert report[5:] == (first, len(packets), sum(len(packet) - 12 for packet in packets))


def test_description_holds_the_parameter_sets() -> None:
    text = describe(keyframe())
    sets = f"{base64.b64encode(SPS).decode()},{base64.b64encode(PPS).decode()}"
    assert f"profile-level-id=42c016; sprop-parameter-sets={sets}" in text
    assert text.endswith("a=control:video\r\n")


class Server:
    """Answers requests one after the other with `answers`, texts without the CSeq; keeps what it got."""

    def __init__(self, *answers: str) -> None:
        self.requests: list[str] = []
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as stream:
            for answer in self._answers:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += stream.read(1)
                text = head.decode()
                length = text.partition("Content-Length: ")[2].partition("\r\n")[0]
                self.requests.append(text + stream.read(int(length or 0)).decode())
                connection.sendall(answer.encode("latin-1"))

    def close(self) -> None:
        self._listener.close()
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: str) -> Server:
        servers.append(Server(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


OK = "RTSP/1.0 200 OK\r\nSession: 77;timeout=60\r\n\r\n"


def test_basic_is_answered_and_binary_packets_are_passed_over(serve: Callable[..., Server]) -> None:
    refusal = 'RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x, y"\r\nContent-Length: 3\r\n\r\nno\n'
    server = serve(refusal, "$\1\0\4" + "RTSP" + OK, OK, OK)
    with closing(RtspClient(f"rtsp://m%40e:s%3A3@127.0.0.1:{server.port}/a/b?c=d", 2.0)) as client:
        client.record(describe(keyframe()))
    methods = [request.split(" ")[0] for request in server.requests]
    assert methods == ["ANNOUNCE", "ANNOUNCE", "SETUP", "RECORD"]
    assert "Authorization" not in server.requests[0]
    assert f"Authorization: Basic {base64.b64encode(b'm@e:s:3').decode()}\r\n" in server.requests[1]
    assert server.requests[3].startswith(f"RECORD rtsp://127.0.0.1:{server.port}/a/b?c=d RTSP/1.0\r\n")
    assert "Session: 77\r\n" in server.requests[3]


def test_best_digest_is_chosen(serve: Callable[..., Server]) -> None:
    # Only the choice is looked at: GStreamer's server judges an answer in test_rtsp_push.py.
    refusal = (
        'RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm="cams"\r\n'
        'WWW-Authenticate: Digest realm="cams", nonce="5", algorithm="MD5"\r\n'
        'WWW-Authenticate: Digest realm="cams", nonce="6", algorithm="SHA-256", opaque="7"\r\n'
        'WWW-Authenticate: Digest realm="cams", nonce="8", algorithm="SHA-512"\r\n\r\n'
    )
    server = serve(refusal, OK, OK, OK)
    with closing(RtspClient(f"rtsp://me:s3cret@127.0.0.1:{server.port}/x", 2.0)) as client:
        client.record(describe(keyframe()))
    (line,) = [line for line in server.requests[1].splitlines() if line.startswith("Authorization: ")]
    assert 'nonce="6"' in line
    assert 'opaque="7"' in line
    assert len(line.partition('response="')[2].partition('"')[0]) == 64


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        (["RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=x\r\n\r\n"] * 2, PublishError, "401"),
        (["RTSP/1.0 401 Unauthorized\r\n\r\n"] * 2, PublishError, "ANNOUNCE is answered with 401 Unauthorized"),
        ([OK, "RTSP/1.0 461 Unsupported transport\r\n\r\n"], PublishError, "SETUP is answered with 461 Unsupported"),
        (["HTTP/1.1 400 Bad Request\r\n\r\n"], PublishError, "no RTSP server"),
        (["\r\n"], PublishError, "no RTSP server"),
        (["RTSP/1.0 200 OK\r\n" + 5000 * "X-Long: 1234567890\r\n"], PublishError, "too long"),
        ([""], ConnectionError, "has ended the connection"),
    ],
)
def test_refusal_says_why(
    serve: Callable[..., Server], answers: list[str], error: type[Exception], message: str
) -> None:
    server = serve(*answers)
    with (
        closing(RtspClient(f"rtsp://me:s3cret@127.0.0.1:{server.port}/x", 2.0)) as client,
        pytest.raises(error, match=message),
    ):
        client.record(describe(keyframe()))
