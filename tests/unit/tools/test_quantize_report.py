from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("ai_edge_litert", reason="verification runs on LiteRT: pip install ai-edge-litert")

from edge_detector.detections import Detections
from edge_detector.errors import ConfigError
from tools.quantize import report
from tools.quantize.findings import (
    EdgeTpuReport,
    Findings,
    LayerError,
    MixedStep,
    OperatorMapping,
    Parity,
    Sample,
    Scores,
    SourceParity,
)
from tools.quantize.verify import OutputSums, match_scores


def measured() -> Findings:
    """Return findings with computed figures: an output that is off by noise, two detections of which one is lost."""
    random = np.random.default_rng(0)
    wanted = random.normal(-3, 1, (200, 6)).astype(np.float32)
    outputs = []
    for name in ("class_logits_p3", "box_encodings_p3"):
        sums = OutputSums(name, 0.1, -7.0, 1.0, 6)
        sums.add(wanted, wanted + random.normal(0, 0.1, wanted.shape).astype(np.float32))
        outputs.append(sums.parity())
    boxes = np.array([[10, 10, 60, 90], [100, 20, 150, 110]], np.float32)
    floats = Detections(boxes, np.array([0.9, 0.4], np.float32), np.array([0, 0]))
    ours = floats[np.array([True, False])]
    photo = random.integers(0, 256, (120, 160, 3), np.uint8)
    parity = Parity(
        "LiteRT 9.9, 2 threads",
        20,
        tuple(outputs),
        wanted=2,
        confirmed=1,
        found=1,
        lowest=0.001,
        highest=0.9,
        score_pairs=match_scores(floats, ours),
        median_ms=12.5,
        samples=(Sample(photo, floats, ours),),
    )
    return Findings(
        name="model",
        source="weights|odd`name`.pth",
        family="our own weights",
        notes=("A note.",),
        recipe={"command": "python tools/quantize x", "source_sha256": "abc"},
        seconds={"calibrating": 3.25},
        peak_memory_mb=1234.0,
        size_mb=26.2,
        float_size_mb=101.3,
        source_parities=(SourceParity("PyTorch 9", {"class_logits_p3": 2e-5}, {"class_logits_p3": 1.0}),),
        parities=(parity,),
        layers=(LayerError("functional/backbone.conv1/Relu;more", "CONV_2D", 21.5, 0.01),),
        scores=Scores(94, 20.3, 44.2, 20.2, None),
        edge_tpu=EdgeTpuReport(
            (
                OperatorMapping(0, "CONV_2D", "a", True),
                OperatorMapping(1, "PACK", "b", False, "5 dimensions"),
            ),
            12_000_000,
            8_388_608,
        ),
        mixed=(MixedStep(0, (), 0.99, 26.2, 27.0), MixedStep(1, ("a",), 0.995, 27.1, 28.0)),
        faults=(),
        labels=("person",),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib: pip install '.[quantize]'")
    folder = tmp_path_factory.mktemp("report") / "model.report"
    report.write_report(measured(), folder)
    return folder


def test_text_and_json_say_what_was_measured(written: Path) -> None:
    findings = measured()
    text = (written / "report.md").read_text()
    found: dict[str, Any] = json.loads((written / "report.json").read_text())
    (parity,) = findings.parities
    assert text.startswith("# model: verified\n")
    assert f"| class_logits_p3 | {parity.outputs[0].cosine:.4f} |" in text
    assert "1 of 2 detections confirmed, 0 of 1 invented" in text
    assert "| float | 20.3 | 44.2 |\n| model | 20.2 | - |" in text
    assert "| backbone.conv1 | CONV_2D | 21.5 | 1.000% |" in text
    assert "1 of 2 operators mapped, 12.0 MB of parameters, 3.6 MB of them fetched for every picture" in text
    assert "| PACK | 1 | CPU | 5 dimensions |" in text
    assert "| 1 | 0.9950 | 27.1 | 28.0 |" in text
    assert found["runtimes"][0]["outputs"][0]["cosine"] == parity.outputs[0].cosine
    assert (found["verdict"], found["coco"]["float_ap"], found["edge_tpu"]["mapped"]) == ("verified", 20.3, 1)


def test_names_cannot_break_the_tables(written: Path) -> None:
    text = (written / "report.md").read_text()
    assert r"From `weights\|odd'name'.pth`" in text
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        assert "\n" not in row


def test_every_picture_is_there_and_shows_something(written: Path) -> None:
    names = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (written / "report.md").read_text())
    assert names == ["histograms.png", "scores.png", "layers.png", "sample_1.jpg"]
    for name in names:
        picture = cv2.imread(str(written / name))
        assert picture is not None
        assert picture.std() > 5
    sample = cv2.imread(str(written / "sample_1.jpg"))
    left, right = sample[:, :160].astype(int), sample[:, 166:].astype(int)
    changed = np.abs(left - right).max(axis=2) > 60  # the lost box is on the left only
    assert changed[15:115, 95:155].any()
    assert changed[:, :90].mean() < 0.01


def test_an_earlier_report_is_replaced_and_nothing_else(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model.report"
    report.write_report(measured(), folder)
    (folder / "stale.png").touch()
    report.write_report(dataclasses.replace(measured(), faults=("LiteRT: cosine 0.5 < 0.95",)), folder)
    assert not (folder / "stale.png").exists()
    assert (folder / "report.md").read_text().startswith("# model: REFUSED\n- LiteRT: cosine 0.5 < 0.95\n")
    other = tmp_path / "photos"
    other.mkdir()
    (other / "mine.jpg").touch()
    with pytest.raises(ConfigError, match="is there and no report"):
        report.write_report(measured(), other)
    assert (other / "mine.jpg").exists()


def test_a_failure_in_between_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model.report"
    report.write_report(measured(), folder)
    before = (folder / "report.md").read_bytes()

    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "_markdown", fail)
    with pytest.raises(ConfigError, match="the report cannot be written: No space left on device"):
        report.write_report(measured(), folder)
    assert (folder / "report.md").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.report"]


def test_without_matplotlib_there_is_a_report_without_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = report.importlib.util.find_spec
    monkeypatch.setattr(
        report.importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find_spec(name, *a)
    )
    report.write_report(measured(), tmp_path / "model.report")
    assert "Without pictures: matplotlib is not installed." in (tmp_path / "model.report" / "report.md").read_text()
    assert {path.name for path in (tmp_path / "model.report").iterdir()} == {"report.md", "report.json"}


def test_the_terminal_shows_the_worst_layers_only_where_something_is_poor() -> None:
    def printed(findings: Findings) -> str:
        console = Console(width=120, record=True, quiet=False)
        with console.capture() as capture:
            for shown in report.console_summary(findings):
                console.print(shown)
        return capture.get()

    good = measured()
    assert "layers that add most noise" not in printed(good)
    assert "detections confirmed" in printed(good)
    assert "layers that add most noise" in printed(dataclasses.replace(good, faults=("poor",)))


def test_a_comparison_without_detections_is_told() -> None:
    findings = measured()
    empty = dataclasses.replace(findings.parities[0], wanted=0, confirmed=0)
    warning = "warning: The float model found nothing in these photos"
    shown = [str(line) for line in report.console_summary(dataclasses.replace(findings, parities=(empty,)))]
    assert any(line.startswith(warning) for line in shown)
    assert not any(str(line).startswith(warning) for line in report.console_summary(findings))
