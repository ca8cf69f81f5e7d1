from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_detector.config import load_config
from edge_detector.errors import ConfigFileError
from edge_detector.runtime.check import _path_errors, check_file


@pytest.fixture
def settings(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of settings beside a model, in a folder of its own, which is the current one."""
    model = repository / "tests" / "fixtures" / "detection_op.tflite"
    for file in (model, model.with_suffix(".json")):
        if file.exists():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    path = Path("settings.yaml")
    path.write_text("model: {path: ./detection_op.tflite}\nsource: synthetic://\n")
    return path


def add(settings: Path, text: str) -> None:
    settings.write_text(settings.read_text() + text)


def mistakes(settings: Path) -> list[str]:
    with pytest.raises(ConfigFileError) as caught:
        check_file(settings)
    return [line.removeprefix("settings.yaml:") for line in caught.value.lines]


def test_shipped_sample_is_fine(repository: Path) -> None:
    sample = repository / "systemd" / "edge-detector.yaml"
    summary, unchecked = check_file(sample)
    assert summary.splitlines() == [
        f"{sample}: ok",
        "  camera: camera (auto)",
        "  model: ssd_resnet50_fpn_person_640_int8, 640x640, person; device: auto",
        "  page: http://127.0.0.1:8080",
        "  sinks: none",
    ]
    assert unchecked == []


def test_summary_says_where_all_goes_and_no_secret(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DETECTOR_HOOK", "https://example.org/HIDDEN")
    monkeypatch.delenv("EDGE_DETECTOR_PASSWORD", raising=False)
    settings.write_text("""\
model: {path: ./detection_op.tflite}
cameras:
  # {EDGE_DETECTOR_PASSWORD} is known to the service
  front: {source: "rtsp://me:{EDGE_DETECTOR_PASSWORD}@host/1"}
  back: {source: "rtsp://me:HIDDEN@host/2"}
http: null
mqtt: {host: broker, user: me, password: HIDDEN}
webhooks: {phone: {url: "{EDGE_DETECTOR_HOOK}"}}
sinks: {mine: {kind: jsonl, options: {target: x.jsonl}}}
snapshots: {path: a/b}
""")
    before = sorted(Path().iterdir())
    summary, unchecked = check_file(settings)
    assert summary.splitlines()[1] == "  cameras: front (rtsp://***@host/1), back (rtsp://***@host/2)"
    assert summary.splitlines()[3:] == ["  page: none", "  sinks: mqtt, snapshots, webhooks.phone, sinks.mine"]
    assert unchecked == [
        "settings.yaml:4: EDGE_DETECTOR_PASSWORD: neither in this environment nor a credential, so not checked"
    ]
    assert "HIDDEN" not in summary
    assert sorted(Path().iterdir()) == before  # nothing was made


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("udp:\n  labels: [dog,\n    cow]", "4: udp.labels: 'cow' is no label of the model, which knows: "),
        ("zones: {z: {coordinates: '0,0,1,0,1,1', objects: [cow]}}", "3: zones.z.objects: 'cow' is no label"),
        ("sinks:\n  a: {kind: kafka}", "4: sinks.a: unknown publisher 'kafka'; choose from "),
        ("sinks:\n  a: {kind: jsonl, options: {to: x}}", "4: sinks.a: options of jsonl: "),
        ("snapshots:\n  path: settings.yaml/x", "4: snapshots.path: "),
        ("recordings:\n  path: settings.yaml", "4: recordings.path: "),
        ("events: {path: nofolder/events.db}", "3: events.path: "),
        ("events: {jsonl: .}", "3: events.jsonl: "),
        ("output:\n  jsonl: nofolder/x", "4: output.jsonl: "),
        ("output:\n  video: nofolder/x.mp4", "4: output.video: "),
        ("web: {users: {},\n  tls_cert: settings.yaml, tls_key: settings.yaml}", "4: web.tls_cert and web.tls_key"),
        ("web: {tls_cert: absent, tls_key: absent}", "3: web.tls_cert and web.tls_key cannot be used: absent: No"),
        ("mqtt: {host: h, tls_ca_certs: absent}", "3: mqtt.tls_ca_certs: cannot be used: No such file"),
        (
            "mqtt: {tls_client_cert: settings.yaml,\n  tls_client_key: absent}",
            "3: mqtt.tls_client_cert: cannot be used",
        ),
    ],
)
def test_what_this_machine_lacks_is_told_with_its_line(settings: Path, text: str, told: str) -> None:
    add(settings, text)
    (line,) = mistakes(settings)
    assert line.startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("source: ftp://me:HIDDEN@host", "1: source: ftp://***@host: unknown kind of source 'ftp'"),
        ("cameras:\n  a: {source: absent.mp4}", "2: cameras.a.source: absent.mp4: no such file"),
        ("source: ./*.jpg", "1: source: "),
        (
            "cameras:\n  a:\n    size: 640x480\n    zones:\n      z: {coordinates: '0,0,700,0,700,400'}",
            "5: cameras.a.zones.z.coordinates: ",
        ),
        ("source: csi://0?rotation=45", "1: source: csi://0: rotation=45: "),
        ("model: {path: nonesuch}", "1: model.path: model 'nonesuch' is unknown"),
        ("model: {path: ./settings.yaml}", "1: model.path: settings.yaml: "),
        ("model:\n  device: edgetpu", "2: model.device: "),
        ("model:\n  edgetpu_path: absent.tflite", "2: model.edgetpu_path: absent.tflite: no such file"),
        ("model:\n  labelmap_path: absent.txt", "2: model.labelmap_path: absent.txt: labels cannot be read"),
    ],
)
def test_camera_or_model_that_cannot_be_is_told_with_its_line(settings: Path, text: str, told: str) -> None:
    settings.write_text(text)
    (line,) = mistakes(settings)
    assert line.startswith(told)
    assert "HIDDEN" not in line


def test_labels_may_be_in_a_file_alone(settings: Path) -> None:
    content = Path("detection_op.tflite").read_bytes()
    with zipfile.ZipFile("detection_op.tflite") as appended:
        start = min(entry.header_offset for entry in appended.infolist())
    Path("bare.tflite").write_bytes(content[:start])
    Path("labels.txt").write_text("otter\nfox\n")
    settings.write_text("model:\n  path: ./bare.tflite\n  labelmap_path: labels.txt\nudp: {labels: [fox]}\n")
    assert "bare, 64x64, 2 labels" in check_file(settings)[0]
    Path("labels.txt").write_text("otter\n")
    (line,) = mistakes(settings)
    assert line.startswith("3: model.labelmap_path: ")


def test_damaged_model_is_told(settings: Path) -> None:
    model = Path("detection_op.tflite")
    model.write_bytes(model.read_bytes()[:2000])
    (line,) = mistakes(settings)
    assert line.startswith("1: model.path: ")


def test_mistakes_of_all_kinds_are_told_together_by_line(settings: Path) -> None:
    add(settings, "events: {path: nofolder/x}\nudp: {labels: [cow]}\nmqtt: {tls_ca_certs: absent}\n")
    assert [line[:2] for line in mistakes(settings)] == ["3:", "4:", "5:"]


def test_place_that_this_user_may_not_write_to_is_told(settings: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "events.jsonl").write_text("")
        (folder / "events.jsonl").chmod(0o444)
        folder.chmod(0o555)
        add(
            settings,
            f"events: {{path: {folder}/x.db, jsonl: {folder}/events.jsonl}}\nsnapshots: {{path: {folder}/a/b}}",
        )
        config = load_config(settings)
        with somebody():
            told = list(_path_errors(config))
        folder.chmod(0o755)
    assert sorted(told) == [
        f"events.jsonl: {folder}/events.jsonl cannot be written to by this user",
        f"events.path: {folder} cannot be written to by this user",
        f"snapshots.path: {folder} cannot be written to by this user",
    ]


@contextmanager
def somebody() -> Iterator[None]:
    """Be nobody meanwhile, where this is root, who may everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
