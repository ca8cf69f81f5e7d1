"""`edge-detector check` as users run it, and how `run` tells of mistakes in its settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "systemd" / "edge-detector.yaml"
EX_CONFIG = 78

Result = subprocess.CompletedProcess[str]


def call(*arguments: str | Path, cwd: Path) -> Result:
    environment = {"PATH": "", "PYTHONPATH": str(REPOSITORY), "HOME": str(cwd)}
    command = [sys.executable, "-m", "edge_detector", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment)


def test_sample_is_fine(tmp_path: Path) -> None:
    result = call("check", SAMPLE, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"{SAMPLE}: ok"


def test_mistakes_are_lines_that_an_editor_can_jump_to(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("modle: {}\nmqtt:\n  host: broker\n  port: http\n  host: HIDDEN@broker\n")
    result = call("check", "mine.yaml", cwd=tmp_path)
    assert result.returncode == EX_CONFIG
    assert result.stdout == ""
    told = result.stderr.splitlines()
    assert [line.split(": ")[:2] for line in told] == [
        ["mine.yaml:1", "modle"],
        ["mine.yaml:4", "mqtt.port"],
        ["mine.yaml:5", "mqtt.host"],
        ["mine.yaml:5", "mqtt.host"],
    ]
    assert "HIDDEN" not in result.stderr
    result = call("--verbose", "run", "--config", "mine.yaml", cwd=tmp_path)
    assert result.returncode == EX_CONFIG
    assert result.stderr.splitlines()[-1] == f"edge-detector: error: {'; '.join(told)}"
    assert "HIDDEN" not in result.stderr


def test_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = call("check", "absent.yaml", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (EX_CONFIG, "")
    assert result.stderr == "absent.yaml: cannot be read: No such file or directory\n"


def test_file_is_that_of_the_service_unless_another_is_named(tmp_path: Path) -> None:
    result = call("check", cwd=tmp_path)
    assert "/etc/edge-detector/edge-detector.yaml:" in result.stdout + result.stderr


def test_secret_that_only_the_service_has_is_said_and_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('source: "rtsp://me:{EDGE_DETECTOR_PASSWORD}@host/1"\n')
    result = call("check", "mine.yaml", cwd=tmp_path)
    assert result.returncode == 0
    assert (
        "mine.yaml:1: EDGE_DETECTOR_PASSWORD: neither in this environment nor a credential, so not checked\n"
        in result.stderr
    )
    assert "  camera: camera (rtsp://***@host/1)\n" in result.stdout


def test_schema_is_json(tmp_path: Path) -> None:
    result = call("check", "--schema", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    schema = json.loads(result.stdout)
    assert schema["properties"]["mqtt"]
    assert schema["additionalProperties"] is False
