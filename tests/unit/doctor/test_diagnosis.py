"""The whole: settings, secrets, checks that crash and hang, the report, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_detector.abandoned import count_abandoned
from edge_detector.doctor import network
from edge_detector.doctor.context import Context
from edge_detector.doctor.diagnosis import CHECKS, check_settings, diagnose
from edge_detector.doctor.finding import Finding, error, ok, skipped, warning
from edge_detector.doctor.host import Host
from edge_detector.doctor.report import Report

if TYPE_CHECKING:
    from tests.unit.doctor.conftest import Machine

LONG = "a long text that goes on and on, " * 4
COMMAND = "sudo something --that-is long && sudo something --else that-is even longer && sudo so on, and on"


def run_all(machine: Machine, *checks: object, config: Path | None = None, timeout_s: float = 20.0) -> list[Finding]:
    given = {"Some": list(checks)}
    return [found for _, found in diagnose(config, Host(root=machine.root), given, timeout_s)]  # type: ignore[arg-type]


def test_check_that_crashes_is_one_line_and_the_others_go_on(machine: Machine) -> None:
    def check_odd_thing(context: Context) -> Iterator[Finding]:
        yield ok("odd thing", "so far")
        raise RuntimeError("what nobody\nhad thought of")

    def check_next(context: Context) -> Iterator[Finding]:
        yield ok("next", "fine")

    found = run_all(machine, check_odd_thing, check_next)
    assert [(one.name, one.state) for one in found] == [("odd thing", "ok"), ("odd thing", "error"), ("next", "ok")]
    assert found[1].found == "the check itself failed: RuntimeError: what nobody had thought of"


def test_check_that_hangs_is_left_behind(machine: Machine) -> None:
    ends = threading.Event()

    def check_hanging(context: Context) -> Iterator[Finding]:
        ends.wait(60)
        yield ok("hanging", "at last")

    before = count_abandoned()
    (found,) = run_all(machine, check_hanging, timeout_s=0.1)
    assert (found.state, found.found) == ("error", "no answer within 0.1 s")
    assert count_abandoned() == before + 1
    ends.set()


def test_machine_of_which_nothing_is_known_gives_no_crash(machine: Machine) -> None:
    quick = {group: [check for check in checks if check.__name__ != "check_models"] for group, checks in CHECKS.items()}
    found = [one for _, one in diagnose(None, Host(root=machine.root), quick)]
    assert [one for one in found if "check itself failed" in one.found] == []
    assert not [one for one in found if one.state == "error"], found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("htp: 1\n", "htp: unknown key"),
        ("http: [\n", "not valid YAML"),
        ("http: 8080x\n", "http: "),
        ("[" * 1500, "settings.yaml: "),
        ("mqtt: {host: a, user: b, password: '{EDGE_DETECTOR_NOT_SET}'}", "EDGE_DETECTOR_NOT_SET"),
    ],
)
def test_wrong_settings_are_told_and_what_needs_them_is_skipped(machine: Machine, text: str, words: str) -> None:
    path = machine.write("settings.yaml", text)
    found, port = run_all(machine, check_settings, network.check_port, config=path)
    assert (found.state, words in found.found) == ("error", True), found
    assert found.fix
    assert (port.state, port.found) == ("skipped", "the settings cannot be used")


def test_settings_that_are_missing_are_an_error_only_where_they_were_named(machine: Machine) -> None:
    assert run_all(machine, check_settings)[0].found == "no file; the defaults"
    assert run_all(machine, check_settings, config=machine.root / "none.yaml")[0].state == "error"
    machine.write("/etc/edge-detector/edge-detector.yaml", "htp: 1")
    assert run_all(machine, check_settings)[0].state == "error"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("/etc/default/edge-detector", 'EDGE_DETECTOR_DOOR="s3same0pen"\n'),
        ("/etc/edge-detector/secrets/DOOR", "s3same0pen\n"),
    ],
)
def test_secrets_of_the_service_are_taken_from_where_it_gets_them(machine: Machine, name: str, text: str) -> None:
    assert "EDGE_DETECTOR_DOOR" not in os.environ
    machine.write(name, text)
    machine.unit("EnvironmentFiles=/etc/default/edge-detector (ignore_errors=yes)")
    path = machine.write("settings.yaml", "source: 'rtsp://ada:{EDGE_DETECTOR_DOOR}@127.0.0.1:1/x'")
    try:
        found = run_all(machine, check_settings, network.check_streams, config=path)
    finally:
        os.environ.pop("EDGE_DETECTOR_DOOR", None)
    assert found[0].state == "ok", found


@pytest.mark.parametrize(
    ("uid", "words"), [(0, "sudo nano /etc/edge-detector/secrets/DOOR"), (1000, "run it with sudo")]
)
def test_secret_that_is_not_there_is_asked_for_where_all_could_be_seen(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, uid: int, words: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    path = machine.write("settings.yaml", "source: 'rtsp://ada:{EDGE_DETECTOR_DOOR}@127.0.0.1:1/x'")
    (found,) = run_all(machine, check_settings, config=path)
    assert words in f"{found.fix} {found.command}", found


def test_no_secret_is_shown(machine: Machine) -> None:
    def check_that_tells_all(context: Context) -> Iterator[Finding]:
        config = context.config
        assert config is not None
        told = str(config.model_dump())
        yield error("all", told, told, told)
        raise RuntimeError(told)

    entry = "$scrypt$ln=14,r=8,p=1$Nm5tc1IeT1MARQIONCPzTQ$Kqw/2lyqAkQIMYs2a+WB+/8YHSNBz4HH/ZsQLflFaYI"
    path = machine.write(
        "settings.yaml",
        "source: rtsp://ada:w0rd-one@127.0.0.1/x\n"
        "mqtt: {host: 127.0.0.1, user: eyes, password: w0rd-two}\n"
        "webhooks: {phone: {url: 'https://example.org/hook/w0rd-three', secret: w0rd-four}}\n"
        "stream: {rtsp_push: 'rtsp://me:w0rd-five@127.0.0.1/x'}\n"
        f'web: {{token: w0rd-six-and-more, users: {{ada: "{entry}"}}}}\n',
    )
    found = run_all(machine, check_settings, check_that_tells_all, config=path)
    assert [one.state for one in found] == ["ok", "error", "error"], found
    assert "w0rd" not in str(found)
    assert "$scrypt" not in str(found)


FINDINGS = [
    ("One", ok("first", "fine")),
    ("One", warning("second", LONG, LONG)),
    ("Two", error("third", "broken", "Put it right:", COMMAND)),
    ("Two", skipped("fourth", "not here")),
]


def test_report_for_people_fits_a_terminal_and_keeps_commands_whole() -> None:
    report = Report(FINDINGS)
    lines = "\n".join(text.plain for text in report.lines(80)).splitlines()
    assert lines[0] == "One"
    assert lines[1] == "ok       first           fine"
    assert [line for line in lines if len(line) > 80] == [f"              {COMMAND}"]
    assert lines[-1] == "1 ok, 1 warning, 1 error, 1 skipped"
    assert report.exit_code == 1


def test_report_for_programs_holds_all() -> None:
    report = Report(FINDINGS)
    told = json.loads(json.dumps(report.to_json()))
    assert (told["schema"], told["ok"], told["counts"]["error"]) == (1, False, 1)
    third = {"group": "Two", "name": "third", "state": "error", "found": "broken"}
    assert told["checks"][2] == {**third, "fix": "Put it right:", "command": COMMAND}


def test_warnings_alone_are_no_failure() -> None:
    report = Report(FINDINGS[:2])
    assert report.to_json()["ok"] is True
    assert report.exit_code == 0


def call(repository: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_detector", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=repository)


def test_command_tells_of_this_machine(repository: Path, tmp_path: Path) -> None:
    # What else is wrong with the machine that tests run on nobody knows.
    path = tmp_path / "settings.yaml"
    path.write_text("http: 127.0.0.1:0\nsource: demo\nmodel: {path: ssd_resnet50_fpn_person_320_int8}\n")
    result = call(repository, "--json", "--config", path)
    told = json.loads(result.stdout)
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert (states["settings"], states["model"], states["http"]) == ("ok", "ok", "ok")
    assert result.returncode == (0 if told["ok"] else 1)
    assert result.stderr == ""


def test_command_fails_where_something_is_wrong_and_writes_no_colours_into_a_pipe(
    repository: Path, tmp_path: Path
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("model: {path: /nowhere.tflite}\nsource: demo\n")
    result = call(repository, "--config", path)
    assert result.returncode == 1
    assert "error    model           /nowhere.tflite: no such model file" in result.stdout
    assert "\x1b" not in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
