from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_detector.config import load_config, read_config
from edge_detector.config_file import read_config_file, unknown_key
from edge_detector.errors import ConfigFileError


def mistakes(folder: Path, text: str) -> list[str]:
    """Return what is wrong with a file of settings, without its name."""
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigFileError) as caught:
        load_config(path)
    assert all(line.startswith(f"{path}:") for line in caught.value.lines)
    assert "; ".join(caught.value.lines) == str(caught.value)
    return [line.removeprefix(f"{path}:") for line in caught.value.lines]


def test_all_mistakes_are_told_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = """\
# mine
mqtt:
  port: 99999
  host: broker

modle: {path: x}
cameras:
  door:
    source: auto
    fps: fast
rules:
  r: {label: person,
      zone: yard}
udp: {cameras: [dor]}
"""
    told = mistakes(tmp_path, text)
    assert [line.partition(": ")[0] for line in told] == ["3", "6", "10"]
    assert told[0].startswith("3: mqtt.port: Input should be less than or equal to 65535, got 99999")
    rest = re.sub("port: 99999|modle.*|fps: fast", "", text)
    told = mistakes(tmp_path, rest)
    assert told == [
        "13: rules.r.zone: no zone is named 'yard'; known here: none",
        "14: udp.cameras: no camera is named 'dor'; known here: door",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model:\n  path: a\n  path: b", "3: model.path: stands in line 2 already; delete one of the two"),
        ("udp: {}\n\nudp: {}", "3: udp: stands in line 1 already"),
        ('"udp": {}\nudp: {}', "2: udp: stands in line 1 already"),
        ("cameras: {a: {}, b: {}, a: {}}", "1: cameras.a: stands in this line already"),
        ("motion: {mask: []}\nobjects: {mask: [{x: 1,\n x: 2}]}", "3: objects.mask.0.x: stands in line 2 already"),
    ],
)
def test_key_that_stands_twice_is_a_mistake_with_both_lines(tmp_path: Path, text: str, told: str) -> None:
    assert any(line.startswith(told) for line in mistakes(tmp_path, text))


def test_key_in_two_blocks_or_over_a_merged_one_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("cameras:\n  a: &a {fps: 5, size: 640x480}\n  b: {<<: *a, fps: 10}\n  c: *a\n")
    cameras = load_config(path).cameras
    assert [(camera.fps, camera.size) for camera in cameras.values()] == [
        (5, "640x480"),
        (10, "640x480"),
        (5, "640x480"),
    ]
    told = mistakes(tmp_path, "cameras:\n  a: &a {fps: 5,\n    size: x}\n  b: {<<: *a, fps: 0}\n")
    assert [line.partition(": ")[0] for line in told] == ["3", "3", "4"]
    assert told[2].startswith("4: cameras.b.fps: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: [\n", "3: not valid YAML: "),
        ("a: 1\n  b: 2\n", "2: not valid YAML: mapping values are not allowed here"),
        ("udp:\n\taddress: x", "2: not valid YAML: found a tab: indent with blanks; it cannot start any token"),
        ("x: 1\n\ny: \x07", "3: not valid YAML: a character that no text has, #x0007"),
        ("model: {path: 2026-13-45}", " not valid YAML: month must be in 1..12"),
        ("x: " + 2000 * "[", " not valid YAML: blocks in blocks without end"),
        ("x: &x [*x]", "1: x: unknown key"),
        ("? [a]\n: b", "1: not valid YAML: found unhashable key"),
        ("- source", " (top level)"),
        ("text", " (top level)"),
    ],
)
def test_what_is_no_settings_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    assert mistakes(tmp_path, text)[0].startswith(told)


def test_message_without_a_key_of_the_file_has_no_line(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, "web: {}\nhttp: 0.0.0.0:80")
    assert told.startswith("2: http: everybody on the network could open the page")
    path = tmp_path / "settings.yaml"
    path.write_text("udp: {}\n")
    error = read_config_file(path).error([(0, "about nothing"), (1, "udp: x")])
    assert error.lines == (f"{path}: about nothing", f"{path}:1: udp: x")


@given(st.dictionaries(st.text("ab", min_size=1), st.dictionaries(st.text("xy", min_size=1), st.lists(st.none()))))
def test_every_key_and_item_knows_its_line(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, dict[str, list[None]]]
) -> None:
    lines: list[str] = []
    places: dict[tuple[str | int, ...], int] = {}
    for block, keys in content.items():
        lines.append(f"{block}:")
        places[(block,)] = len(lines)
        for key, items in keys.items():
            lines.append(f"  {key}: # it")
            places[block, key] = len(lines)
            for number in range(len(items)):
                lines += ["", f"  - text {number}"]
                places[block, key, number] = len(lines)
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    file = read_config_file(path)
    assert {keys: file.line_of(keys) for keys in places} == places
    assert {keys: file.line_of([*keys, "c"]) for keys in places} == places
    assert file.twice == ()


def test_suggestion_is_the_nearest_key() -> None:
    assert unknown_key("Hots", ("host", "port")) == "unknown key (did you mean host?); known here: host, port"
    assert unknown_key("zebra", ("host", "port")) == "unknown key; known here: host, port"
    assert "HIDDEN" not in unknown_key("token:HIDDEN", ("token", "users"))


def test_missing_secret_can_be_told_instead_of_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PASSWORD", "TOKEN", "ADA", "HOOK"):
        monkeypatch.delenv(f"EDGE_DETECTOR_{name}", raising=False)
    path = tmp_path / "settings.yaml"
    path.write_text("""\
http: 0.0.0.0:80
source: "rtsp://me:{EDGE_DETECTOR_PASSWORD}@host/x"
web: {token: "{EDGE_DETECTOR_TOKEN}", users: {ada: "{EDGE_DETECTOR_ADA}"}}
webhooks: {phone: {url: "{EDGE_DETECTOR_HOOK}", secret: "{EDGE_DETECTOR_HOOK}"}}
stream: {rtsp_push: "{EDGE_DETECTOR_HOOK}"}
""")
    missing: set[str] = set()
    config = read_config(read_config_file(path), missing)
    assert missing == {f"EDGE_DETECTOR_{name}" for name in ("PASSWORD", "TOKEN", "ADA", "HOOK")}
    assert config.source == "rtsp://me:{EDGE_DETECTOR_PASSWORD}@host/x"
    with pytest.raises(ConfigFileError) as caught:
        load_config(path)
    assert [
        line.removeprefix(f"{path}:").partition(": the environment has no EDGE_DETECTOR_")[0]
        for line in caught.value.lines
    ] == [
        "2: source",
        "3: web.token",
        "3: web.users.ada",
        "4: webhooks.phone.secret",
        "4: webhooks.phone.url",
        "5: stream.rtsp_push",
    ]
