"""MQTT against a real broker, mosquitto, on loopback."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, ObjectState
from edge_detector.frame import FrameResult
from edge_detector.publishers.mqtt import MqttPublisher
from edge_detector.runtime import metrics
from edge_detector.runtime.metrics import (
    CameraStatus,
    DetectorStatus,
    LatencyMeter,
    PipelineStats,
    ProcessStatus,
    ServiceStatus,
)
from edge_detector.sink_config import MqttConfig

LABELS = ("person", "traffic light")
MakeResult = Callable[..., FrameResult]
MakeObject = Callable[..., ObjectState]
WaitUntil = Callable[..., None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A mosquitto that can be stopped and started."""

    def __init__(self, folder: Path, *lines: str) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("needs mosquitto, as of Debian's package")
        self.port = free_port()
        self._conf = folder / "mosquitto.conf"
        self._command = [program, "-c", str(self._conf)]
        settings = lines or ("allow_anonymous true",)
        # By default the broker drops what a slow subscriber has not taken, from 1000 messages on.
        always = [f"listener {self.port} 127.0.0.1", "user root", "max_queued_messages 0"]
        self._conf.write_text("\n".join([*always, *settings]) + "\n")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


MakeBroker = Callable[..., Broker]


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[MakeBroker]:
    """Return a function that starts a broker with lines of its settings; all are stopped in the end."""
    started: list[Broker] = []

    def make(*lines: str) -> Broker:
        started.append(Broker(tmp_path, *lines))
        return started[-1]

    yield make
    for broker in started:
        broker.stop()


@pytest.fixture
def broker(make_broker: MakeBroker) -> Broker:
    return make_broker()


class Listener:
    """Another client, which remembers all that it gets."""

    def __init__(self, port: int, topic: str = "#", **login: str) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._subscribed = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = lambda client, userdata, m: self.messages.append((m.topic, m.payload, m.retain))
        if login:
            self.client.username_pw_set(**login)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._subscribed.wait(10)

    def of(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in list(self.messages) if name == topic]

    def last(self, topic: str) -> bytes | None:
        return next(iter(self.of(topic)[::-1]), None)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    listening = Listener(broker.port)
    yield listening
    listening.close()


class Service:
    """The part of the service that MQTT talks to."""

    def __init__(self) -> None:
        self.detecting = {"front": True, "back door": True}
        self.silent_s = 0.1

    def status(self) -> ServiceStatus:
        cameras = {name: self._camera(on) for name, on in self.detecting.items()}
        return ServiceStatus(DetectorStatus("tiny", "cpu"), ProcessStatus(1.0, 5, 11, 10**8, 0, 51.5), cameras)

    def set_detecting(self, name: str, on: bool) -> None:
        if name not in self.detecting:
            raise KeyError(name)
        self.detecting[name] = on

    def _camera(self, on: bool) -> CameraStatus:
        fps, meter = {"capture": 25.0, "inference": 2.5}, LatencyMeter()
        return CameraStatus(
            "clip", "live", 1.0, None, on, self.silent_s, fps, PipelineStats(), {}, meter.histogram, 0.4, 0.5
        )


Connect = Callable[..., MqttPublisher]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def connect(service: Service) -> Iterator[Connect]:
    """Return a function that opens a publisher for a port, with settings; all are closed in the end."""
    opened: list[MqttPublisher] = []

    def make(port: int, **settings: Any) -> MqttPublisher:
        config = MqttConfig(host="127.0.0.1", port=port, **{"client_id": "pi-1", **settings})
        publisher = MqttPublisher(
            config,
            labels=LABELS,
            model_name="tiny",
            cameras={"front": ["person"], "back door": []},
            status=service.status,
            set_detecting=service.set_detecting,
        )
        opened.append(publisher)
        return publisher

    yield make
    for publisher in opened:
        publisher.close()


CLIENT = """
import json, logging, sys, time
from edge_detector.publishers.mqtt import MqttPublisher
from edge_detector.runtime.metrics import DetectorStatus, ProcessStatus, ServiceStatus
from edge_detector.sink_config import MqttConfig
logging.basicConfig(level=logging.INFO)
status = ServiceStatus(DetectorStatus("tiny", "cpu"), ProcessStatus(1.0, 5, 11, 10**8, 0))
MqttPublisher(MqttConfig(host="127.0.0.1", **json.loads(sys.argv[1])), labels=["a"], model_name="tiny", cameras={},
              status=lambda: status, set_detecting=print)
time.sleep(60)
"""
StartClient = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_client(repository: Path) -> Iterator[StartClient]:
    """Return a function that starts a publisher in a process of its own, which logs to its standard error."""
    started: list[subprocess.Popen[str]] = []

    def start(port: int, **settings: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CLIENT, json.dumps({"port": port, **settings})]
        started.append(subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.communicate()


def online(listener: Listener, wait_until: WaitUntil) -> None:
    wait_until(lambda: listener.last("edge_detector/available") == b"online")


def named(result: FrameResult, camera: str) -> FrameResult:
    return replace(result, camera=camera)


# What is sent.


def test_detections_counts_events_and_pictures_arrive(
    broker: Broker,
    listener: Listener,
    connect: Connect,
    make_result: MakeResult,
    make_object: MakeObject,
    wait_until: WaitUntil,
) -> None:
    publisher = connect(broker.port)
    online(listener, wait_until)
    publisher.publish(named(make_result([(0, 0, 9, 9), (5, 5, 30, 30)], class_ids=[0, 1], age_s=0.1), "front"))
    red = np.full((40, 30, 3), (250, 10, 10), np.uint8)
    publisher.publish_event(Event("new", make_object(), red))
    publisher.publish_event(Alert("visit", 5.0, make_object()))
    wait_until(lambda: listener.last("edge_detector/alerts"))
    wait_until(lambda: listener.last("edge_detector/front/detections"))
    document = json.loads(listener.last("edge_detector/front/detections") or b"")
    assert [found["label"] for found in document["detections"]] == ["person", "traffic light"]
    assert listener.last("edge_detector/front/person") == b"1"
    assert listener.last("edge_detector/front/traffic_light") == b"1"
    assert json.loads(listener.last("edge_detector/events") or b"")["type"] == "new"
    assert json.loads(listener.last("edge_detector/alerts") or b"")["rule"] == "visit"
    assert (listener.last("edge_detector/front/person/snapshot") or b"").startswith(b"\xff\xd8")
    publisher.publish(named(make_result([]), "front"))
    wait_until(lambda: listener.last("edge_detector/front/person") == b"0")
    assert publisher.dropped == 0


def test_counts_are_told_when_they_change_and_are_retained(
    broker: Broker, connect: Connect, make_result: MakeResult, wait_until: WaitUntil
) -> None:
    publisher, first = connect(broker.port), Listener(broker.port)
    online(first, wait_until)
    for _ in range(20):
        publisher.publish(named(make_result(), "front"))
    wait_until(lambda: first.last("edge_detector/front/person") == b"1")
    assert first.of("edge_detector/front/person") == [b"0", b"1"] or first.of("edge_detector/front/person") == [b"1"]
    late = Listener(broker.port)
    wait_until(lambda: ("edge_detector/front/person", b"1", True) in late.messages)
    first.close()
    late.close()


def test_ten_thousand_events_arrive_in_order(
    broker: Broker, listener: Listener, connect: Connect, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    publisher = connect(broker.port, queue_max=10_000)
    online(listener, wait_until)
    for number in range(10_000):
        publisher.publish_event(Event("update", make_object(f"o{number}")))
    wait_until(lambda: len(listener.of("edge_detector/events")) == 10_000, timeout_s=60)
    ids = [json.loads(payload)["object"]["id"] for payload in listener.of("edge_detector/events")]
    assert ids == [f"o{number}" for number in range(10_000)]
    assert publisher.dropped == 0


def test_stats_are_sent_at_their_interval(
    broker: Broker, listener: Listener, connect: Connect, wait_until: WaitUntil
) -> None:
    connect(broker.port, stats_interval=1.0)
    wait_until(lambda: len(listener.of("edge_detector/stats")) >= 3, timeout_s=15)
    stats = json.loads(listener.last("edge_detector/stats") or b"")
    assert stats["cameras"]["front"]["fps"] == {"capture": 25.0, "inference": 2.5}
    assert stats["process"]["temperature_c"] == 51.5


def test_nobody_is_said_to_be_where_the_camera_is_silent(
    broker: Broker,
    listener: Listener,
    connect: Connect,
    service: Service,
    make_result: MakeResult,
    wait_until: WaitUntil,
) -> None:
    publisher = connect(broker.port)
    publisher.publish(named(make_result(), "front"))
    wait_until(lambda: listener.last("edge_detector/front/person") == b"1")
    service.silent_s = 11.0
    wait_until(lambda: listener.last("edge_detector/front/person") == b"0")


# The switch.


def test_detection_is_switched_and_its_state_is_told(
    broker: Broker, listener: Listener, connect: Connect, service: Service, wait_until: WaitUntil
) -> None:
    connect(broker.port)
    wait_until(lambda: listener.last("edge_detector/back door/detect/state") == b"ON")
    listener.client.publish("edge_detector/back door/detect/set", "OFF", 1)
    wait_until(lambda: listener.last("edge_detector/back door/detect/state") == b"OFF")
    assert service.detecting == {"front": True, "back door": False}
    service.detecting["back door"] = True  # as by the page's button
    wait_until(lambda: listener.last("edge_detector/back door/detect/state") == b"ON")


@pytest.mark.parametrize(
    ("topic", "payload"), [("front", b"maybe"), ("front", b"\xff\x00" * 5000), ("front", b""), ("cellar", b"OFF")]
)
def test_odd_commands_are_logged_and_change_nothing(
    broker: Broker,
    listener: Listener,
    connect: Connect,
    service: Service,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    topic: str,
    payload: bytes,
) -> None:
    connect(broker.port)
    online(listener, wait_until)
    listener.client.publish(f"edge_detector/{topic}/detect/set", payload, 1)
    wait_until(lambda: "detect/set" in caplog.text)
    assert service.detecting == {"front": True, "back door": True}
    listener.client.publish("edge_detector/front/detect/set", "OFF", 1)
    wait_until(lambda: not service.detecting["front"])


# Home Assistant.


def test_home_assistant_is_told_at_the_start_at_its_birth_and_of_new_labels(
    broker: Broker, listener: Listener, connect: Connect, make_result: MakeResult, wait_until: WaitUntil
) -> None:
    topic = "homeassistant/device/pi-1/config"
    publisher = connect(broker.port)
    wait_until(lambda: len(listener.of(topic)) == 1)
    entities = json.loads(listener.last(topic) or b"")["cmps"]
    assert "front_person_occupancy" in entities
    assert "back_door_detect" in entities
    assert not any("traffic" in key for key in entities)
    listener.client.publish("homeassistant/status", "online", 1)
    wait_until(lambda: len(listener.of(topic)) == 2)
    assert listener.of(topic)[0] == listener.of(topic)[1]
    publisher.publish(named(make_result(class_ids=[1]), "back door"))
    wait_until(lambda: b"back_door_traffic_light_occupancy" in (listener.last(topic) or b""))


def test_home_assistant_is_told_that_there_is_nothing_where_it_is_not_wanted(
    broker: Broker, connect: Connect, wait_until: WaitUntil
) -> None:
    topic = "homeassistant/device/pi-1/config"
    publisher, listener = connect(broker.port), Listener(broker.port)
    wait_until(lambda: listener.last(topic))
    publisher.close()
    connect(broker.port, home_assistant={"enabled": False})
    wait_until(lambda: listener.last(topic) == b"")
    late = Listener(broker.port)
    wait_until(lambda: late.last("edge_detector/available") == b"online")
    assert late.of(topic) == []
    listener.close()
    late.close()


# The broker goes and comes.


def test_events_of_an_outage_arrive_after_it_and_states_are_told_again(
    broker: Broker, connect: Connect, make_result: MakeResult, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    publisher, before = connect(broker.port), Listener(broker.port)
    online(before, wait_until)
    broker.stop()
    before.close()
    wait_until(lambda: not publisher._connected)
    for number in range(30):
        publisher.publish_event(Event("new", make_object(f"o{number}")))
        publisher.publish(named(make_result([(0, 0, 9, 9)] * 3, age_s=0.01 * number), "front"))
    away = publisher.status()
    assert (away.state, away.dropped) == ("failing", 30)
    assert away.queued >= 30
    broker.start()
    after = Listener(broker.port)
    wait_until(lambda: len(after.of("edge_detector/events")) == 30, timeout_s=20)
    wait_until(lambda: publisher.status().queued == 0)
    there = publisher.status()
    assert (there.state, there.error, there.failed) == ("ok", None, pytest.approx(2, abs=1))
    assert there.written > 30
    ids = [json.loads(payload)["object"]["id"] for payload in after.of("edge_detector/events")]
    assert ids == [f"o{number}" for number in range(30)]
    wait_until(lambda: after.last("edge_detector/front/person") == b"3")
    wait_until(lambda: after.last("edge_detector/available") == b"online")
    assert after.of("edge_detector/front/detections") == []  # they were of the moment
    assert publisher.dropped == 30
    after.close()


@pytest.fixture
def broker_away(broker: Broker) -> Broker:
    broker.stop()
    return broker


def test_of_too_many_events_of_an_outage_the_oldest_are_dropped_and_counted(
    broker_away: Broker, connect: Connect, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    publisher = connect(broker_away.port, queue_max=10)
    for number in range(16):
        publisher.publish_event(Event("new", make_object(f"o{number}")))
    broker_away.start()
    listener = Listener(broker_away.port)
    wait_until(lambda: len(listener.of("edge_detector/events")) == 10, timeout_s=20)
    ids = [json.loads(payload)["object"]["id"] for payload in listener.of("edge_detector/events")]
    assert ids == [f"o{number}" for number in range(6, 16)]
    assert publisher.dropped == 6
    listener.close()


def test_events_that_have_waited_too_long_are_dropped_and_counted(
    broker_away: Broker, connect: Connect, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    publisher = connect(broker_away.port, queue_max_age_s=0.5)
    publisher.publish_event(Event("new", make_object("old")))
    time.sleep(0.6)
    broker_away.start()
    listener = Listener(broker_away.port)
    wait_until(lambda: publisher.dropped == 1, timeout_s=20)
    publisher.publish_event(Event("new", make_object("fresh")))
    wait_until(lambda: listener.of("edge_detector/events"))
    assert [json.loads(payload)["object"]["id"] for payload in listener.of("edge_detector/events")] == ["fresh"]
    listener.close()


def test_broker_that_takes_all_and_answers_nothing_hangs(
    broker: Broker, connect: Connect, make_object: MakeObject, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "HANGS_S", 0.3)
    publisher = connect(broker.port)
    wait_until(lambda: publisher.status().state == "ok" and publisher.status().queued == 0)
    broker.pause()
    publisher.publish_event(Event("new", make_object()))
    wait_until(lambda: publisher.status().state == "hanging")
    broker.resume()
    wait_until(lambda: publisher.status().state == "ok" and publisher.status().queued == 0)


def test_wrong_password_is_said_once_and_tried_again(
    make_broker: MakeBroker, connect: Connect, tmp_path: Path, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    passwords = tmp_path / "passwords"
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("needs mosquitto_passwd")
    subprocess.run([tool, "-b", "-c", str(passwords), "pi", "right"], check=True)
    passwords.chmod(0o644)
    broker = make_broker("allow_anonymous false", f"password_file {passwords}")
    connect(broker.port, user="pi", password="wrong")
    wait_until(lambda: "it refuses us: Not authorized" in caplog.text)
    time.sleep(3)
    assert caplog.text.count("refuses us") == 1
    assert "wrong" not in caplog.text
    connect(broker.port, user="pi", password="right", client_id="pi-2")
    listener = Listener(broker.port, username="pi", password="right")
    online(listener, wait_until)
    listener.close()


def test_last_will_is_seen_when_the_program_is_killed_and_offline_when_it_ends(
    broker: Broker, listener: Listener, connect: Connect, start_client: StartClient, wait_until: WaitUntil
) -> None:
    publisher = connect(broker.port)
    online(listener, wait_until)
    publisher.close()
    wait_until(lambda: listener.last("edge_detector/available") == b"offline")
    child = start_client(broker.port, topic_prefix="other")
    wait_until(lambda: listener.last("other/available") == b"online", timeout_s=20)
    child.kill()
    child.wait()
    wait_until(lambda: listener.last("other/available") == b"offline")


def test_slow_broker_drops_detections_of_the_moment_and_no_event(
    broker: Broker, connect: Connect, make_result: MakeResult, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    with SlowLine(broker.port, bytes_per_s=60_000) as line:
        publisher, listener = connect(line.port), Listener(broker.port)
        online(listener, wait_until)
        start_s = time.monotonic()
        for number in range(300):
            publisher.publish_event(Event("new", make_object(f"o{number}")))
            publisher.publish(named(make_result([(0, 0, 9, 9)] * 20, age_s=0.001 * (number + 1)), "front"))
        assert time.monotonic() - start_s < 2  # the caller never waits
        wait_until(lambda: len(listener.of("edge_detector/events")) == 300, timeout_s=30)
        assert publisher.dropped > 0
        listener.close()
        publisher.close()


class SlowLine:
    """Passes on what comes on its port to another one, so many bytes a second at most."""

    def __init__(self, port: int, bytes_per_s: float) -> None:
        self._target, self._rate = port, bytes_per_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._ended = threading.Event()

    def __enter__(self) -> SlowLine:
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.close()
        for thread in self._threads:
            thread.join(5)

    def _serve(self) -> None:
        self._server.settimeout(0.2)
        while not self._ended.is_set():
            try:
                near, _ = self._server.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            far = socket.create_connection(("127.0.0.1", self._target))
            back = threading.Thread(target=self._pass, args=(far, near, 1e9), daemon=True)
            back.start()
            self._pass(near, far, self._rate)
            with suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)
            back.join()
            near.close()
            far.close()

    def _pass(self, source: socket.socket, target: socket.socket, rate: float) -> None:
        source.settimeout(0.2)
        while not self._ended.is_set():
            try:
                part = source.recv(2048)
            except TimeoutError:
                continue
            except OSError:
                return
            if not part:
                return
            with suppress(OSError):  # it has gone in the meantime
                target.sendall(part)
            time.sleep(len(part) / rate)


def test_defect_of_the_status_does_not_end_sending(
    broker: Broker,
    listener: Listener,
    connect: Connect,
    service: Service,
    make_object: MakeObject,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    status, service.status = service.status, lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    publisher = connect(broker.port)
    wait_until(lambda: "division by zero" in caplog.text)
    publisher.publish_event(Event("new", make_object()))
    wait_until(lambda: listener.of("edge_detector/events"))
    service.status = status  # type: ignore[method-assign]
    publisher._status = status
    wait_until(lambda: listener.of("edge_detector/stats"))


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # paho leaves its old pair of sockets to the collector
def test_clients_thread_that_has_ended_is_started_again(
    broker: Broker, listener: Listener, connect: Connect, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    publisher = connect(broker.port)
    online(listener, wait_until)
    publisher._client.loop_stop()  # as an exception in it would end it
    listener.client.publish("edge_detector/front/detect/set", "OFF", 1)
    wait_until(lambda: listener.last("edge_detector/front/detect/state") == b"OFF", timeout_s=20)
    publisher.publish_event(Event("new", make_object()))
    wait_until(lambda: listener.of("edge_detector/events"))


def test_labels_that_an_earlier_run_has_told_of_are_set_to_none(
    broker: Broker, connect: Connect, make_result: MakeResult, wait_until: WaitUntil
) -> None:
    earlier, listener = connect(broker.port), Listener(broker.port)
    earlier.publish(named(make_result(class_ids=[1]), "back door"))
    wait_until(lambda: listener.last("edge_detector/back door/traffic_light") == b"1")
    earlier.close()
    connect(broker.port)
    wait_until(lambda: listener.last("edge_detector/back door/traffic_light") == b"0")
    topic = "homeassistant/device/pi-1/config"
    wait_until(lambda: b"back_door_traffic_light_count" in (listener.last(topic) or b""))
    listener.close()


def test_labels_in_other_scripts_have_topics_of_their_own(
    broker: Broker, listener: Listener, service: Service, make_result: MakeResult, wait_until: WaitUntil
) -> None:
    publisher = MqttPublisher(
        MqttConfig(host="127.0.0.1", port=broker.port),
        labels=["人", "狗", "人"],
        model_name="tiny",
        cameras={},
        status=service.status,
        set_detecting=service.set_detecting,
    )
    publisher.publish(named(make_result([(0, 0, 9, 9)] * 3, class_ids=[0, 1, 2]), "front"))
    wait_until(lambda: listener.last("edge_detector/front/__1") == b"1")
    assert listener.last("edge_detector/front/__0") == b"2"
    publisher.close()


# Ends and errors.


def test_close_is_quick_while_the_broker_is_away(connect: Connect) -> None:
    publisher = connect(free_port())
    time.sleep(0.2)
    start_s = time.monotonic()
    publisher.close()
    publisher.close()
    assert time.monotonic() - start_s < 2.0


def test_close_sends_what_waits(
    broker: Broker, listener: Listener, connect: Connect, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    publisher = connect(broker.port)
    online(listener, wait_until)
    for number in range(200):
        publisher.publish_event(Event("end", make_object(f"o{number}")))
    publisher.close()
    wait_until(lambda: len(listener.of("edge_detector/events")) == 200)
    wait_until(lambda: listener.last("edge_detector/available") == b"offline")


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1 and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert), "-keyout", str(key)]
    subprocess.run([openssl, *request, *files], check=True, capture_output=True)
    return cert, key


def test_certificate_of_the_broker_is_checked(
    make_broker: MakeBroker, start_client: StartClient, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path, "broker")
    other, _ = certificate(tmp_path, "other")
    broker = make_broker("allow_anonymous true", f"certfile {cert}", f"keyfile {key}")
    wrong = start_client(broker.port, tls_ca_certs=str(other))
    assert "it cannot be reached: [SSL: CERTIFICATE_VERIFY_FAILED]" in wrong.stderr.readline()
    right = start_client(broker.port, tls_ca_certs=str(cert))
    assert right.stderr.readline().endswith("connected\n")


def test_missing_certificate_is_an_error_that_names_the_key(connect: Connect) -> None:
    with pytest.raises(PublishError, match=r"check mqtt\.tls_"):
        connect(1883, tls_ca_certs="/nowhere/ca.pem")
