"""`make pi-acceptance` itself: what it reports of a camera that is faked, which shows the same picture for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def reported(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, dict[str, object]]:
    """The exit code and both reports, with a CSI camera that is a fake and no Coral."""
    folder = tmp_path_factory.mktemp("reports")
    command = [sys.executable, "tests/hardware/acceptance.py", "--output", str(folder), "--"]
    command += ["-p", "no:cacheprovider", "-k", "(csi and (size or something or swapped)) or coral or lists"]
    environment = {**os.environ, "PYTHONPATH": str(repository / "tests" / "fakes"), "EDGE_DETECTOR_INTERACTIVE": ""}
    environment |= {"EDGE_DETECTOR_EDGETPU_LIBRARY": "", "EDGE_DETECTOR_EDGETPU_MODEL": ""}
    result = subprocess.run(command, capture_output=True, text=True, cwd=repository, env=environment, timeout=300)
    (markdown,), (values,) = folder.glob("pi-acceptance-*.md"), folder.glob("pi-acceptance-*.json")
    assert str(markdown) in result.stdout
    return result.returncode, markdown.read_text(), json.loads(values.read_text())


def outcomes(values: dict[str, object]) -> dict[str, dict[str, str]]:
    return {one["title"]: one for one in values["outcomes"]}  # type: ignore[attr-defined]


def test_camera_that_always_shows_the_same_fails_it(reported: tuple[int, str, dict[str, object]]) -> None:
    code, markdown, values = reported
    assert code == values["exit_code"] == 1
    assert outcomes(values)["pictures show something and change: csi"]["outcome"] == "failed"
    assert "always the same picture" in outcomes(values)["pictures show something and change: csi"]["reason"]
    assert "❌ **failed**: AssertionError: always the same picture" in markdown


def test_what_passes_is_reported_with_its_figures(reported: tuple[int, str, dict[str, object]]) -> None:
    _, markdown, values = reported
    size = outcomes(values)["size is honoured: csi"]
    assert (size["outcome"], size["reason"]) == ("passed", "")
    assert size["figures"] == {"camera": "csi://0 (imx708)", "sizes": "640x480, 1280x720"}
    assert "| size is honoured: csi | ✅ passed" in markdown
    assert outcomes(values)["command lists all models"]["outcome"] == "passed"


def test_what_is_missing_is_skipped_with_the_reason_once(reported: tuple[int, str, dict[str, object]]) -> None:
    _, markdown, values = reported
    reasons = {one["reason"] for one in outcomes(values).values() if one["outcome"] == "skipped"}
    assert any("INTERACTIVE=1" in reason for reason in reasons)
    assert all(markdown.count(reason) == 1 for reason in reasons)


def test_machine_is_described(reported: tuple[int, str, dict[str, object]]) -> None:
    _, markdown, values = reported
    machine = values["machine"]
    assert isinstance(machine, dict)
    assert {"machine", "processor", "memory", "system", "kernel", "Python", "numpy"} <= set(machine)
    assert all(f"| {name} | " in markdown for name in machine)
