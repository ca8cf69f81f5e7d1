from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from edge_detector.frame import FrameResult
from edge_detector.publishers import Publisher, open_publisher
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
    publisher = opened("255.255.255.255:5005")  # a broadcast, which the kernel refuses to a socket that did not ask
    for frame_id in range(3):
        publisher.publish(make_result(frame_id=frame_id))
    wait_until(lambda: "ermission denied" in caplog.text)
    with pytest.raises(Exception, match="ermission denied"):
        publisher.close()
    assert caplog.text.count("is tried again with what comes next") == 1
