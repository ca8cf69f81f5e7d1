"""The stages are timed for real, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_detector.doctor.host import Host
from edge_detector.errors import ConfigError
from edge_detector.registry import resolve_model
from tools.bench.child import Child
from tools.bench.figures import read_csv
from tools.bench.machine import Machine, Moment, sha256_of
from tools.bench.stages import Model, measure_stages

pytest.importorskip("ai_edge_litert", reason="needs LiteRT, which 32-bit ARM has not")

WORKER = "tools.bench.stage_worker"
PI = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nRevision\t: c03114\n",
    "proc/meminfo": "MemTotal:        3884376 kB\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand\n",
}


@pytest.fixture
def venvs(tmp_path: Path) -> Path:
    """Return a folder whose environment for tflite-runtime is the one that the tests run in."""
    venv = tmp_path / "tflite"
    (venv / "bin").mkdir(parents=True)
    (venv / "complete").touch()
    (venv / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (venv / "bin" / "python").chmod(0o755)
    return tmp_path


def test_each_stage_has_times_and_a_runtime_that_does_not_work_is_told(venvs: Path) -> None:
    said: list[str] = []
    model = Model("person-320", 1, resolve_model("person-320"))
    results = measure_stages([model], venvs, [1, 2], rounds=2, budget_s=0.001, say=said.append)
    litert = [row for row in results.rows if row.runtime.startswith("LiteRT")]
    p50_ms = {(row.stage, row.threads): row.timing.p50_ms for row in litert}
    assert len(p50_ms) == len(litert)
    for stage in ("invoke", "decode + NMS", "detect"):
        assert p50_ms[stage, 1] > 0
        assert p50_ms[stage, 2] > 0
    assert ("overlay 1280x720", 2) in p50_ms
    assert ("overlay 1280x720", 1) not in p50_ms  # is the same
    assert all(row.timing.count >= 4 for row in litert)  # two rounds of two at least
    assert 0 < results.processor <= 1
    assert {*results.versions, *results.missing} == {"litert", "tflite"}
    assert "litert" in results.versions
    assert all(row.peak_mb >= row.rss_mb > row.model_mb for row in results.memory)
    assert any("round 2 of 2" in step for step in said)


def test_the_command_writes_all_forms(venvs: Path, repository: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs Matplotlib: pip install 'edge-detector[bench]'")
    output = venvs / "results"
    command = [sys.executable, str(repository / "tools" / "bench"), "--quick", "--only", "stages", "--threads", "1"]
    command += ["--board", "a-board", "--output", str(output), "--venvs", str(venvs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in output.iterdir()} == {
        "report.md",
        "results.json",
        "results.csv",
        "stages.png",
        "threads.png",
    }
    read = json.loads((output / "results.json").read_text())
    assert {row["model"]: row["classes"] for row in read["stages"]["rows"]} == {"person-320": 1, "person-640": 90}
    assert "decode + NMS, synthetic" in {row["stage"] for row in read["stages"]["rows"]}
    report = (output / "report.md").read_text()
    assert "# Speed of edge_detector on a-board" in report
    assert "![stages.png](stages.png)" in report
    assert str(venvs) not in report  # paths without their folders
    assert {line.board for line in read_csv(output / "results.csv")} == {"a-board"}


def test_a_process_that_cannot_load_its_model_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a TFLite model"):
        Child(Path(sys.executable), WORKER, [str(tmp_path / "a.tflite"), "--runtime", "litert", "--threads", "1"])


def test_a_process_that_fails_at_a_question_says_why() -> None:
    arguments = [str(resolve_model("person-320")), "--runtime", "litert", "--threads", "1"]
    with Child(Path(sys.executable), WORKER, arguments) as child:
        assert len(child.ask({"stage": "invoke", "budget_s": 0.0})["times_s"]) == 2
        with pytest.raises(ConfigError, match="KeyError: 'no such stage'"):
            child.ask({"stage": "no such stage", "budget_s": 0.0})


def test_a_raspberry_pi_is_described(tmp_path: Path) -> None:
    for name, text in PI.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = Machine.read(Host(root=tmp_path))
    assert machine.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert (machine.cpu, machine.governors, machine.memory_mb) == ("Cortex-A72", "ondemand", 3977)
    assert machine.system == "Debian GNU/Linux 12 (bookworm)"


def test_this_machine_says_something() -> None:
    assert Machine.read().cores >= 1
    assert Moment.now().wall_time.endswith("Z")


def test_models_are_told_by_their_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of([tmp_path / "a"])["a"].startswith("ba7816bf8f01cfea")
