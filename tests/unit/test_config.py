from __future__ import annotations

import json
import re
import traceback
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from edge_detector.config import CameraConfig, Config, load_config
from edge_detector.config_checks import check_labels
from edge_detector.errors import ConfigError
from edge_detector.passwords import hash_password
from edge_detector.sink_config import MqttConfig, SinkFilterConfig, UdpConfig, parse_address


def load(folder: Path, text: str) -> Config:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_shipped_sample_states_every_key_with_its_default(repository: Path) -> None:
    sample = load_config(repository / "systemd" / "edge-detector.yaml")
    assert sample == Config()
    assert sample.model_fields_set == set(Config.model_fields)
    blocks = [part for _, part in sample if isinstance(part, BaseModel)]
    assert len(blocks) > 8
    for part in blocks:
        assert part.model_fields_set == set(type(part).model_fields)
    assert sample.mqtt.filter.model_fields_set == set(SinkFilterConfig.model_fields)


@pytest.fixture
def examples_text(repository: Path) -> str:
    """All examples that the sample holds as comments."""
    text = (repository / "systemd" / "edge-detector.yaml").read_text(encoding="utf-8")
    return "\n".join(line[1:] for line in text.splitlines() if re.match(r"#\w+:$|#  ", line))


@pytest.fixture
def examples(examples_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("EDGE_DETECTOR_HOOK_SECRET", "a secret")
    return load(tmp_path, examples_text)


def test_cameras_in_the_sample_are_valid_and_show_every_key(examples: Config) -> None:
    cameras = examples.cameras
    assert {key for camera in cameras.values() for key in camera.model_fields_set} == set(CameraConfig.model_fields)
    defaults = CameraConfig()
    blocks = ("tracking", "objects", "zones", "lines", "motion", "regions")
    for key in ("detect", "max_age_s", "stall_s", "frozen_s", "give_up_s", *blocks):
        assert getattr(cameras["front"], key) == getattr(defaults, key)


def test_zones_lines_filters_and_rules_in_the_sample_show_every_key(examples: Config) -> None:
    for named in (examples.zones, examples.lines, examples.objects.filters, examples.rules):
        shown = {key for part in named.values() for key in part.model_fields_set}
        assert shown == {key for part in named.values() for key in type(part).model_fields}
    night = examples.rules["night_visitor"]
    assert (night.label, night.zone, night.for_s, night.between) == ("person", "door", 5.0, "22:00-06:00")


def test_sinks_in_the_sample_show_every_key(examples: Config) -> None:
    for named in (examples.webhooks, examples.sinks):
        shown = {key for part in named.values() for key in part.model_fields_set}
        assert shown == {key for part in named.values() for key in type(part).model_fields}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("udp: {cameras: [back]}", r"udp\.cameras: no camera is named 'back'; known here: camera"),
        ("mqtt: {filter: {zones: [door]}}", r"mqtt\.filter\.zones: no zone is named 'door'; known here: none"),
        ("output: {jsonl_filter: {cameras: [x]}}", r"output\.jsonl_filter\.cameras: no camera is named 'x'"),
        ("events: {jsonl_filter: {cameras: [x]}}", r"events\.jsonl_filter\.cameras: no camera is named 'x'"),
        ("sinks: {mine: {kind: jsonl, zones: [x]}}", r"sinks\.mine\.zones: no zone is named 'x'"),
        ("udp: {address: 'host:0'}", r"udp\.address: give the port that is listened on"),
        ("snapshots: {path: /a}\nrecordings: {path: /a}", r"snapshots\.path and recordings\.path: must be two folders"),
        ("snapshots: {path: /a}\nrecordings: {path: /b/../a/}", r"snapshots\.path and recordings\.path: must be two"),
        ("output: {jsonl: x}\nevents: {jsonl: ./y/../x}", r"events\.jsonl and output\.jsonl: must be two files"),
        (
            "output: {jsonl: x}\nsinks: {a: {kind: jsonl, options: {target: ./x}}}",
            r"output\.jsonl and sinks\.a\.options\.target: must be two files",
        ),
        (
            "sinks: {a: {kind: jsonl, options: {target: x}}, b: {kind: lines, options: {path: x}}}",
            r"sinks\.a\.options\.target and sinks\.b\.options\.path: must be two files",
        ),
        ("udp: {address: host}", r"udp\.address: 'host' is no address"),
    ],
)
def test_mistake_in_what_a_sink_wants_names_its_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_labels_that_sinks_want_must_be_the_models() -> None:
    wanted = SinkFilterConfig(labels=["cat"])
    config = Config(udp=UdpConfig(labels=["dog"]), mqtt=MqttConfig(filter=wanted))
    with pytest.raises(ConfigError, match=r"mqtt\.filter\.labels: 'cat'; udp\.labels: 'dog': no label of the model"):
        check_labels(config, ("person",))


def test_one_source_is_a_camera_with_defaults(tmp_path: Path) -> None:
    for text, source in (("source: csi://0", "csi://0"), ("", "auto")):
        (camera,) = load(tmp_path, text).feeds.values()
        assert camera.source == source
        blocks = ("tracking", "objects", "zones", "lines", "motion", "regions")
        assert all(getattr(camera, key) == getattr(Config(), key) for key in blocks)
        rest = set(CameraConfig.model_fields) - {"source", *blocks}
        assert all(getattr(camera, key) == getattr(CameraConfig(), key) for key in rest)
    assert list(load(tmp_path, "").feeds) == ["camera"]


def test_password_comes_from_the_environment_and_stays_out_of_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_DETECTOR_PASSWORD", "s3cret")
    text = "source: rtsp://me:{EDGE_DETECTOR_PASSWORD}@host/x"
    assert load(tmp_path, text).feeds["camera"].source == "rtsp://me:s3cret@host/x"
    with pytest.raises(ConfigError, match="either source or cameras") as caught:
        load(tmp_path, f"{text}\ncameras: {{door: {{}}}}")
    assert "s3cret" not in str(caught.value)
    monkeypatch.delenv("EDGE_DETECTOR_PASSWORD")
    with pytest.raises(ConfigError, match="source: the environment has no EDGE_DETECTOR_PASSWORD"):
        load(tmp_path, text)


def test_password_comes_from_a_credential_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_DETECTOR_PASSWORD", raising=False)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    credential = tmp_path / "EDGE_DETECTOR_PASSWORD"
    hashed = hash_password("geheim")
    for content, secret in (("s3cret", "s3cret"), ("s3cret\n", "s3cret"), (" s3 \n\n", " s3 \n")):
        credential.write_text(content)
        text = "source: 'rtsp://me:{EDGE_DETECTOR_PASSWORD}@h'\nmqtt: {user: u, password: '{EDGE_DETECTOR_PASSWORD}'}"
        assert load(tmp_path, text).source == f"rtsp://me:{secret}@h"
        assert load(tmp_path, text).mqtt.password == secret
    credential.write_text(f"{hashed}\n")
    web = load(tmp_path, "web: {token: '{EDGE_DETECTOR_PASSWORD}', users: {ada: '{EDGE_DETECTOR_PASSWORD}'}}").web
    assert (web.token, web.users) == (hashed, {"ada": hashed})
    monkeypatch.setenv("EDGE_DETECTOR_PASSWORD", "of the environment")
    assert load(tmp_path, "mqtt: {user: '{EDGE_DETECTOR_PASSWORD}'}").mqtt.user == "of the environment"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            r"2: mqtt\.user: the environment has no EDGE_DETECTOR_X, .* no credential .*LoadCredential=",
        ),
        (b"HIDDEN\xff", r"2: mqtt\.user: the credential EDGE_DETECTOR_X is no text in UTF-8"),
        ("folder", r"2: mqtt\.user: the credential EDGE_DETECTOR_X cannot be read: Is a directory"),
    ],
)
def test_credential_that_is_absent_or_unreadable_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | str | None, message: str
) -> None:
    monkeypatch.delenv("EDGE_DETECTOR_X", raising=False)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    if isinstance(content, bytes):
        (tmp_path / "EDGE_DETECTOR_X").write_bytes(content)
    elif content is not None:
        (tmp_path / "EDGE_DETECTOR_X").mkdir()
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, "mqtt:\n  user: '{EDGE_DETECTOR_X}'")
    assert "HIDDEN" not in "".join(traceback.format_exception(caught.value))


def test_traceback_shows_no_secret(tmp_path: Path) -> None:
    for text in ("mqtt: {port: x, password: HIDDEN", "mqtt: {user: u, password: [HIDDEN]}", "mqtt: {password: HIDDEN}"):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, text)
        assert "HIDDEN" not in "".join(traceback.format_exception(caught.value))


def test_schema_for_editors_takes_the_sample_with_its_examples(repository: Path, examples_text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    schema = json.loads(json.dumps(Config.model_json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for text in ((repository / "systemd" / "edge-detector.yaml").read_text(encoding="utf-8"), examples_text):
        assert list(validator.iter_errors(yaml.safe_load(text))) == []
    spelled = ["0,0,1,0,1,1", [0, 0, 1, 0, 1, 1], ["0,0", "1,0", "1,1"], [[0, 0], [1, 0], [1, 1]]]
    for coordinates in spelled:
        zones = {"zones": {"a": {"coordinates": coordinates, "objects": "person"}}, "motion": {"mask": [coordinates]}}
        assert list(validator.iter_errors(zones)) == []
        assert Config.model_validate(zones).zones["a"].coordinates == ((0, 0), (1, 0), (1, 1))
    for wrong in ({"modle": {}}, {"zones": {"a": {}}}, {"mqtt": {"port": 0}}, {"zones": {"a": {"coordinates": 1}}}):
        assert len(list(validator.iter_errors(wrong))) == 1


def test_address_to_push_to_takes_secrets_and_the_cameras_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DETECTOR_RTSP_PASSWORD", "s3cret")
    address = "rtsp://me:{EDGE_DETECTOR_RTSP_PASSWORD}@host:8554/{camera}"
    config = load(tmp_path, f"cameras: {{a: {{}}, b: {{}}}}\nstream: {{rtsp_push: '{address}'}}")
    assert config.stream.rtsp_push == "rtsp://me:s3cret@host:8554/{camera}"


def test_empty_file_means_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing set\n") == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", r"modle: unknown key \(did you mean model\?\); known here: source, cameras, model, http, web"),
        (
            "model: {pth: x}",
            r"model\.pth: unknown key \(did you mean path\?\); known here: path, edgetpu_path, device, fallback",
        ),
        (
            "cameras: {door: {sorce: x}}",
            r"cameras\.door\.sorce: .* \(did you mean source\?\); known here: source, size",
        ),
        ("cameras: {door: {size: big}}", r"cameras\.door\.size: give a size as WIDTHxHEIGHT.*got 'big'"),
        ("cameras: {front door: {}}", r"cameras\.front…: a name is made of letters, digits"),
        ("cameras: {a: {}, b: {}}\noutput: {video: x.mp4}", r"output\.video: of several cameras, write \{camera\}"),
        ("stream: {rtsp_push: 'http://host/x'}", r"stream\.rtsp_push: give an address such as rtsp://"),
        ("stream: {rtsp_push: 'rtsp:///x'}", r"stream\.rtsp_push: give an address such as rtsp://"),
        ("stream: {encoder: nvenc}", r"stream\.encoder: .*'libx264'.*got 'nvenc'"),
        ("stream: {fps: 0}", r"stream\.fps: .*greater than or equal to 1.*got 0"),
        ("stream: {webrtc: true}\nhttp: null", r"stream\.webrtc: needs http"),
        ("cameras: {a: {}, b: {}}\nstream: {rtsp_push: 'rtsp://h/x'}", r"stream\.rtsp_push: of several cameras"),
        ("model: {device: tpu}", r"model\.device: give auto, cpu, edgetpu.*got 'tpu'"),
        ("model: {score_threshold: 1.5}", r"model\.score_threshold: .*less than or equal to 1.*got 1\.5"),
        ("model: {score_threshold: .nan}", r"model\.score_threshold"),
        ("model: {num_threads: 0}", r"model\.num_threads: .*greater than or equal to 1.*got 0"),
        ("model: {num_threads: '2'}", r"model\.num_threads: .*integer, got '2'"),
        ("model: {runtime: torch}", r"model\.runtime: .*'litert'.*got 'torch'"),
        ("model: person.tflite", r"model: must hold keys and values, not a text"),
        ("http: 8080", r"http: .*string, got 8080"),
        ("http: localhost", r"http: 'localhost' is no address: give HOST:PORT"),
        ("- source", r"\(top level\): must hold keys and values"),
        ("a: [", r"not valid YAML"),
    ],
)
def test_mistake_is_one_line_that_names_the_file_and_the_path_of_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert "settings.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sorce.*model\.num_threads|model\.num_threads.*sorce"):
        load(tmp_path, "sorce: auto\nmodel: {num_threads: -1}")


@pytest.mark.parametrize(
    "text",
    [
        "webhooks: {phone: 'https://example.org/?token=HIDDEN'}",
        "webhooks: 'https://example.org/?token=HIDDEN'",
        "webhooks: {phone: [{url: 'https://example.org/', secret: HIDDEN}]}",
        "webhooks: {phone: {url: 'ftp://HIDDEN@host/'}}",
        "webhooks: {phone: {url: 'https://me:HIDDEN@host/'}}",
        "webhooks: {phone: {url: 'https://host/', secret: 'whsec_HIDDEN!'}}",
        "stream: {rtsp_push: 'http://me:HIDDEN@host/x'}",
        "stream: {rtsp_push: 'rtsp://me:HIDDEN@host:99999999/x'}",
        "stream: {rtsp_push: ['rtsp://me:HIDDEN@host/x']}",
        "stream: 'rtsp://me:HIDDEN@host/x'",
        "cameras: {a: {}, b: {}}\nstream: {rtsp_push: 'rtsp://me:HIDDEN@host/x'}",
        "mqtt: 'mqtt://me:HIDDEN@host'",
        "mqtt: {host: 'mqtt://me:HIDDEN@host'}",
        "mqtt: [{host: h, password: HIDDEN}]",
        "mqtt: {host: h, password: HIDDEN}",
        'mqtt: {host: h, user: u, password: "HID"DEN}',
        "sinks: {mine: {kind: x, options: HIDDEN}}",
        "sinks: {mine: {kind: x, token: HIDDEN}}",
        "mqtt: {host: h, user: u, password: *HIDDEN}",
        "mqtt: {host: h, user: u, password: !HIDDEN x}",
        "mqtt: {host: h, user: u, password: !HIDDEN}",
        "mqtt: {host: h, user: u, password: %HIDDEN}",
        "mqtt: {host: h, user: u, password:HIDDEN}",
        "webhooks: {phone: {url: 'https://host/', secret:HIDDEN}}",
        "web: {users: {ada:HIDDEN}}",
        "web: {token:HIDDEN}",
        "cameras: {a: {'source:HIDDEN': x}}",
        "cameras: {'door:rtsp://me:HIDDEN@host': {}}",
        "mqtt: {host: h, user: u, password HIDDEN}",
        "mqtt: {host: h, user: u, password: !HID'DEN x}",
    ],
)
def test_mistake_does_not_show_what_may_be_secret(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert "HID" not in str(error.value)


def test_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_binary_file_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:80", ("::1", 80)), ("localhost:0", ("localhost", 0))],
)
def test_address_is_split_into_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@given(st.integers(min_value=65536))
def test_port_above_65535_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="is no address"):
        parse_address(f"localhost:{port}")


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:-1", "host:http", "host:²"])
def test_text_without_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        parse_address(text)


@pytest.mark.parametrize("http", ["0.0.0.0:8080", "192.168.1.5:80", "[::]:8080", "raspberrypi:8080"])
def test_page_is_open_to_the_network_only_for_those_who_are_known_or_on_purpose(tmp_path: Path, http: str) -> None:
    hashed = hash_password("geheim")
    with pytest.raises(ConfigError, match=r"everybody on the network could open the page .* --insecure|web\.insecure"):
        load(tmp_path, f"http: '{http}'")
    for web in (f"users: {{ada: '{hashed}'}}", "token: 0123456789abcdef", "insecure: true"):
        assert load(tmp_path, f"http: '{http}'\nweb: {{{web}}}").http == http


@pytest.mark.parametrize("http", ["127.0.0.1:8080", "[::1]:8080", "localhost:8080", "127.1.2.3:80"])
def test_page_on_loopback_needs_no_password(tmp_path: Path, http: str) -> None:
    assert load(tmp_path, f"http: '{http}'").http == http


@pytest.mark.parametrize(
    ("web", "message"),
    [
        ("token: hunter2hunter", r"web\.token: give 16 letters"),
        ("token: 'hunter2 hunter2 hunter2'", r"web\.token: give 16 letters"),
        ("users: {ada: hunter2}", r"web\.users\.ada: give what `edge-detector password` prints"),
        ("tls_cert: hunter2", r"web: tls_cert and tls_key belong together"),
        ("insecure: true, token: hunter2hunter2hunter2", r"web: insecure is without users and token"),
        ("hosts: ['https://hunter.example']", r"web\.hosts\.0: give a name alone"),
    ],
)
def test_mistake_about_the_page_is_told_without_its_secrets(tmp_path: Path, web: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, f"web: {{{web}}}")
    assert "hunter2" not in str(caught.value)
