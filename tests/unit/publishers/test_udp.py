from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.publishers import Publisher, open_publisher, udp
from edge_detector.publishers.jsonl import Lines
from edge_detector.publishers.schema import to_json
from edge_detector.sink_config import UdpConfig

MakeResult = Callable[..., FrameResult]
WaitUntil = Callable[..., None]
LABELS = ("person",)


def opened(address: str) -> Publisher:
    return open_publisher("udp", settings=UdpConfig(address=address), labels=LABELS, model_name="tiny")


@pytest.fixture(params=["127.0.0.1", "::1"])
def receiver(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as listener:
        try:
            listener.bind((request.param, 0))
        except OSError:
            pytest.skip(f"this machine has no {request.param}")
        listener.settimeout(10)
        yield listener


def address_of(receiver: socket.socket) -> str:
    host, port = receiver.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def test_each_inference_is_one_datagram_of_schema_1(receiver: socket.socket, make_result: MakeResult) -> None:
    publisher = opened(address_of(receiver))
    results = [make_result(frame_id=number) for number in range(3)]
    for result in results:
        publisher.publish(result)
    publisher.close()
    assert [receiver.recv(65536).decode() for _ in results] == [to_json(one, LABELS, "tiny") for one in results]


def test_multicast_group_gets_it(make_result: MakeResult) -> None:
    group = "239.255.77.78"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        try:
            listener.bind((group, 0))
            listener.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4sL", socket.inet_aton(group), 0)
            )
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.sendto(b"probe", (group, listener.getsockname()[1]))
            assert listener.recv(10) == b"probe"
        except OSError as error:
            pytest.skip(f"this machine has no multicast: {error}")
        publisher = opened(f"{group}:{listener.getsockname()[1]}")
        publisher.publish(make_result())
        publisher.close()
        assert json.loads(listener.recv(65536))["schema"] == 1


def test_result_too_large_for_a_datagram_is_dropped_and_said_once(
    receiver: socket.socket, make_result: MakeResult, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = opened(address_of(receiver))
    for frame_id in range(2):
        publisher.publish(make_result([(1, 2, 30, 40)] * 1000, frame_id=frame_id))
    publisher.publish(make_result(frame_id=2))
    publisher.close()
    assert json.loads(receiver.recv(65536))["frame_id"] == 2
    assert caplog.text.count("do not fit into a datagram and are dropped") == 1
    assert "2 results were too large in all" in caplog.text


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64])
def test_name_that_is_not_known_is_said_once_and_stops_nothing(
    make_result: MakeResult, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    publisher = opened(f"{host}:5005")
    for frame_id in range(6):
        publisher.publish(make_result(frame_id=frame_id))
    wait_until(lambda: "the name is not known" in caplog.text, 30)
    with pytest.raises(Exception, match="the name is not known"):  # said again as it ends
        publisher.close()
    assert caplog.text.count("the name is not known") == 1
    assert "6 results could not be written in all" in caplog.text


def test_host_that_cannot_be_reached_is_said_once_and_stops_nothing(
    make_result: MakeResult, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = opened("[fe80::1%9999]:5005")  # by an interface that is not there
    for frame_id in range(3):
        publisher.publish(make_result(frame_id=frame_id))
    wait_until(lambda: "is tried again with what comes next" in caplog.text)
    with pytest.raises(PublishError, match=r"udp://\[fe80::1%9999\]:5005: \w"):
        publisher.close()
    assert caplog.text.count("is tried again with what comes next") == 1
    assert "3 results could not be written in all" in caplog.text


def test_broadcast_arrives(make_result: MakeResult) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.255.255.255", 0))
        listener.settimeout(10)
        publisher = opened(address_of(listener))
        publisher.publish(make_result())
        publisher.close()
        assert json.loads(listener.recv(65536))["schema"] == 1


def test_known_address_is_used_on_while_names_cannot_be_looked_up(
    receiver: socket.socket, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    sink = udp._UdpSink(UdpConfig(address=f"host.example:{receiver.getsockname()[1]}"), Lines(LABELS, "tiny"))
    monkeypatch.setattr(udp, "LOOK_UP_S", 0.0)
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port, **kind: look_up(receiver.getsockname()[0], port, **kind)
    )
    sink.write(make_result(frame_id=0))

    def away(*name: object, **kind: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    sink.write(make_result(frame_id=1))
    sink.finish(True)
    assert [json.loads(receiver.recv(65536))["frame_id"] for _ in range(2)] == [0, 1]


def test_socket_that_cannot_be_made_is_said_each_time(make_result: MakeResult, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = udp._UdpSink(UdpConfig(address="127.0.0.1:9"), Lines(LABELS, "tiny"))

    def none(*kind: object) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", none)
    for frame_id in range(2):
        with pytest.raises(PublishError, match=r"udp://127\.0\.0\.1:9: .*Address family not supported"):
            sink.write(make_result(frame_id=frame_id))
