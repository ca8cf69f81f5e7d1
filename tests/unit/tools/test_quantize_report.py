from __future__ import annotations

import dataclasses
import errno
import html
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

pytest.importorskip("ai_edge_litert", reason="verification runs on LiteRT: pip install ai-edge-litert")

from edge_detector.detections import Detections
from edge_detector.errors import ConfigError
from tools.quantize import plots, report
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

Tables = list[list[list[str]]]
ODD = "a|b`c``<b>*x*_y_[z](q)\n| d |$e$ 人"
PICTURES = {"histograms.png", "layers.png", "scores.png", "sample_1.jpg"}


def measured() -> Findings:
    """Return findings with computed figures: an output that is off by noise, two detections of which one is lost."""
    random = np.random.default_rng(0)
    outputs = []
    for level, name in enumerate(("box_encodings_p3", "box_encodings_p4", "class_logits_p3", "class_logits_p4")):
        wanted = random.normal(-3, 1, (200 >> level, 6)).astype(np.float32)
        sums = OutputSums(name, 0.1, -7.0, 1.0, 6)
        sums.add(wanted, wanted + random.normal(0, 0.1, wanted.shape).astype(np.float32))
        outputs.append(sums.parity())
    boxes = np.array([[10, 10, 60, 90], [100, 20, 150, 110]], np.float32)
    floats = Detections(boxes, np.array([0.9, 0.4], np.float32), np.array([0, 0]))
    ours = Detections(boxes[:1], np.array([0.8], np.float32), np.array([0]))
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
    other = dataclasses.replace(parity, runtime="tflite-runtime 9, 2 threads", confirmed=2, median_ms=1455.2)
    return Findings(
        name="model",
        source="weights.pth",
        family="our own weights",
        notes=("A note.",),
        recipe={"command": "python tools/quantize x", "source_sha256": "abc"},
        seconds={"reading": 1.5, "calibrating": 3.25},
        peak_memory_mb=1234.0,
        size_mb=26.2,
        float_size_mb=101.3,
        source_parities=(
            SourceParity("PyTorch 9", {"a": 2e-5, "b": 3e-5}, {"a": 0.1, "b": 1.0}),  # a is worse for its spread
        ),
        parities=(parity, other),
        layers=(
            LayerError("functional/backbone.conv1/Relu;more", "CONV_2D", 21.5, 0.01, 0.009),
            LayerError("functional/tower/conv2/Conv2D", "CONV_2D", 25.0, 0.004, 0.0),
        ),
        scores=Scores(94, 20.3, 44.2, 20.2, None),
        edge_tpu=EdgeTpuReport(
            (
                OperatorMapping(0, "CONV_2D", "a", True),
                OperatorMapping(1, "CONV_2D", "b", True),
                OperatorMapping(2, "PACK", "c", False, "5 dimensions"),
            ),
            12_000_000,
            8_388_608,
        ),
        mixed=(MixedStep(0, (), 0.99, 26.2, 27.0), MixedStep(1, ("m/one/x",), 0.995, 27.1, 28.0)),
        faults=(),
        labels=("person",),
        score=0.3,
        input_wh=(320, 256),
    )


def rendered(folder: Path) -> str:
    """Return the report as HTML, as GitHub would show it."""
    return MarkdownIt("commonmark").enable("table").render((folder / "report.md").read_text(encoding="utf-8"))


def tables(page: str) -> Tables:
    """Return the text of the cells of all tables, heading row first."""
    return [
        [
            [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
            for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)
        ]
        for table in re.findall(r"<table>(.*?)</table>", page, re.S)
    ]


def printed(findings: Findings) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        for shown in report.console_summary(findings):
            console.print(shown)
    return capture.get()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib", reason="charts need matplotlib: pip install '.[quantize]'")
    folder = tmp_path_factory.mktemp("report") / "model.report"
    report.write_report(measured(), folder)
    return folder


def test_the_page_says_what_was_measured(written: Path) -> None:
    findings = measured()
    page = rendered(written)
    found = {tuple(table[0]): table[1:] for table in tables(page)}
    assert page.startswith("<h1>model: verified</h1>")
    assert "To int8, input 320x256: 26.2 MB (float 101.3 MB)" in page
    least = f"{min(output.cosine for output in findings.parities[0].outputs):.4f}"
    assert found["runtime", "photos", "least cosine", "confirmed", "invented", "ms"] == [
        ["LiteRT 9.9, 2 threads", "20", least, "1 of 2", "0 of 1", "12"],
        ["tflite-runtime 9, 2 threads", "20", least, "2 of 2", "0 of 1", "1455"],
    ]
    assert found["percent", "AP", "AP50"] == [
        ["float", "20.3", "44.2"],
        ["int8", "20.2", "-"],
        ["difference", "-0.1", "-"],
    ]
    outputs = found["output", "cosine", "worst channel", "greatest error", "step"]
    first = findings.parities[0].outputs[0]
    assert [row[0] for row in outputs] == [output.name for output in findings.parities[0].outputs]
    worst = f"{first.worst_channel}: {first.worst_channel_cosine:.4f}"
    assert outputs[0] == [first.name, f"{first.cosine:.4f}", worst, f"{first.max_error:.3g}", "0.1000"]
    assert found["source computed by", "greatest error", "in output", "whose spread is"] == [
        ["PyTorch 9", "2e-05", "a", "0.1"]
    ]
    assert found["layer", "operator", "noise added", "mostly by", "SNR in dB"] == [
        ["backbone.conv1", "CONV_2D", "1.00%", "rounding", "21.5"],
        ["tower/conv2", "CONV_2D", "0.40%", "weights", "25.0"],
    ]
    assert found["layers", "least cosine", "MB", "ms", "added to those above"][1] == [
        "1",
        "0.9950",
        "27.1",
        "28",
        "one",
    ]
    assert found["operator", "number", "runs on", "why not on the Edge TPU"] == [
        ["CONV_2D", "2", "Edge TPU", ""],
        ["PACK", "1", "CPU", "5 dimensions"],
    ]
    assert "2 of 3 operators mapped, 12.0 MB of parameters, 3.6 MB of them fetched for every picture" in page
    assert found["stage", "seconds"] == [["reading", "1.5"], ["calibrating", "3.2"], ["all", "4.8"]]
    assert "<pre><code>python tools/quantize x\n</code></pre>" in page
    assert found["", ""] == [["source_sha256", "abc"]]


def test_json_has_the_same_figures_and_the_arrays_in_short(written: Path) -> None:
    findings = measured()
    found: dict[str, Any] = json.loads((written / "report.json").read_text(encoding="utf-8"))
    assert (found["schema_version"], found["verdict"], found["faults"]) == (1, "verified", [])
    runtime, parity = found["runtimes"][0], findings.parities[0]
    assert (runtime["confirmed"], runtime["wanted"], runtime["found"]) == (1, 2, 1)
    assert runtime["score_pairs"] == {
        "both": 1,
        "float_only": 1,
        "model_only": 0,
        "mean_difference": pytest.approx(0.1, abs=1e-6),
    }
    assert runtime["samples"] == [{"float_found": 2, "found": 1}]
    output, figures = parity.outputs[0], runtime["outputs"][0]
    assert (figures["cosine"], figures["max_error"], figures["low"]) == (output.cosine, output.max_error, -7.0)
    assert figures["values"] == 1200
    apart = np.abs(output.float_counts - output.counts).sum() / 2
    assert figures["overlap"] == pytest.approx(1 - apart / 1200)
    assert found["coco"]["float_ap"] == 20.3
    assert found["layers"][0]["name"] == "functional/backbone.conv1/Relu;more"
    assert found["edge_tpu"]["operators"] == 3
    assert [group["number"] for group in found["edge_tpu"]["groups"]] == [2, 1]
    assert found["mixed"][1]["layers"] == ["m/one/x"]


def test_what_is_no_number_is_null_and_shown_as_the_worst(tmp_path: Path) -> None:
    findings = measured()
    parity = findings.parities[0]
    broken = dataclasses.replace(parity.outputs[0], cosine=float("nan"), max_error=float("inf"))
    parity = dataclasses.replace(parity, outputs=(*parity.outputs[1:], broken))
    findings = dataclasses.replace(findings, parities=(parity,))
    report.write_report(findings, tmp_path / "r")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found = json.loads((tmp_path / "r" / "report.json").read_text(), parse_constant=refuse)
    assert found["runtimes"][0]["outputs"][-1]["cosine"] is None
    assert tables(rendered(tmp_path / "r"))[0][1][2] == "-"
    assert "layers that add most noise" in printed(findings)


def test_odd_names_stay_in_their_cells_and_show_as_they_are(tmp_path: Path) -> None:
    findings = measured()
    parity = findings.parities[0]
    output = dataclasses.replace(parity.outputs[0], name=ODD)
    odd = dataclasses.replace(
        findings,
        name=ODD,
        source=ODD,
        labels=(ODD,),
        notes=(ODD, "# no heading", "1. no list"),
        faults=(ODD,),
        recipe={ODD: ODD, "command": "x ```` y"},
        seconds={ODD: 1.0},
        parities=(dataclasses.replace(parity, runtime=ODD, outputs=(output,)),),
        layers=(dataclasses.replace(findings.layers[0], name=ODD),),
        edge_tpu=EdgeTpuReport((OperatorMapping(0, ODD, ODD, False, ODD),), 1, 2, compiler=f"```\n{ODD}", compiled=ODD),
    )
    report.write_report(odd, tmp_path / "r")
    page, shown = rendered(tmp_path / "r"), " ".join(ODD.split())
    found = tables(page)
    assert all(len(row) == len(table[0]) for table in found for row in table)
    by_heading = {table[0][0]: table[1] for table in found}
    for heading in ("runtime", "output", "layer", "operator", "stage", ""):
        assert by_heading[heading][0].strip() == shown, heading
    assert by_heading["operator"][3] == by_heading[""][1].strip() == shown
    texts = html.unescape(re.sub("<[^>]*>", "", page))
    assert texts.startswith(f"{shown}: REFUSED")
    assert "\n# no heading\n" in texts
    assert "\n1. no list\n" in texts
    assert f"```\n{ODD}\n" in texts
    assert "x ```` y\n" in texts
    assert not re.search("<b>|<em>|<a ", page.replace('<a href="report.json">', ""))
    assert shown[:20] in printed(odd)


def test_every_link_leads_to_a_file_and_every_file_is_shown(written: Path) -> None:
    links = set(re.findall(r'(?:src|href)="([^"]+)"', rendered(written)))
    assert links == {path.name for path in written.iterdir()} - {"report.md"}
    assert links == PICTURES | {"report.json"}


def test_pictures_show_something_and_charts_are_as_wide_as_a_page(written: Path) -> None:
    for name in PICTURES:
        picture = cv2.imread(str(written / name))
        assert picture is not None
        assert picture.std() > 5
        assert 300 < picture.shape[1] <= 1200
        assert (written / name).stat().st_size < 300_000


def test_a_sample_shows_on_its_right_what_the_model_found(written: Path) -> None:
    sample = cv2.imread(str(written / "sample_1.jpg"))
    assert sample is not None
    left, right = sample[:, :160].astype(int), sample[:, 168:].astype(int)
    assert right.shape[1] == 160
    changed = np.abs(left - right).max(axis=2) > 60
    assert changed[15:115, 95:155].any()  # the lost box is on the left only
    assert changed[25:85, :90].mean() < 0.01


def test_photos_of_every_shape_become_samples_of_a_page_s_width(tmp_path: Path) -> None:
    for size_wh in ((4000, 3000), (40_000, 20), (3, 2000), (1, 1)):
        photo = np.full((size_wh[1], size_wh[0], 3), 90, np.uint8)
        plots.write_sample(Sample(photo, Detections.empty(), Detections.empty()), (), tmp_path / "s.jpg")
        picture = cv2.imread(str(tmp_path / "s.jpg"))
        assert picture is not None
        assert picture.shape[1] <= 1128
        assert picture.shape[0] <= 480


def coloured(picture: Any) -> Any:
    """Return where one of the chart's colours is, not white, black or grey."""
    return picture.astype(int).max(axis=2) - picture.astype(int).min(axis=2) > 40


def test_the_scatter_tells_agreeing_scores_from_others(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts need matplotlib: pip install '.[quantize]'")
    line = np.linspace(0.3, 0.9, 40, dtype=np.float32)
    for name, pairs in (("same", np.stack([line, line], 1)), ("lower", np.stack([line, line - 0.2], 1))):
        plots.plot_scores(pairs, "int8", 0.0, tmp_path / f"{name}.png")
    same, lower = (coloured(cv2.imread(str(tmp_path / f"{name}.png")))[110:] for name in ("same", "lower"))
    rows_same, rows_lower = (np.nonzero(picture)[0].mean() for picture in (same, lower))
    columns_same, columns_lower = (np.nonzero(picture)[1].mean() for picture in (same, lower))
    assert 120 < rows_lower - rows_same < 190  # 0.2 of about 790 pixels further down
    assert abs(columns_lower - columns_same) < 3


def test_longer_bars_for_layers_that_add_more_noise(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts need matplotlib: pip install '.[quantize]'")
    layers = [(f"layer {number}", LayerError("", "", 0.0, noise, 0.0)) for number, noise in enumerate((0.4, 0.2, 0.1))]
    plots.plot_layers(layers, tmp_path / "layers.png")
    lengths = coloured(cv2.imread(str(tmp_path / "layers.png")))[60:].sum(axis=1)
    runs = [lengths[place] for place in range(1, len(lengths)) if lengths[place] > 30 and lengths[place - 1] <= 30]
    assert np.array(runs) / runs[0] == pytest.approx([1, 0.5, 0.25], abs=0.02)


def test_the_same_findings_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    report.write_report(measured(), tmp_path / "again")
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_a_refusal_comes_first_with_its_reasons_and_what_to_try(tmp_path: Path) -> None:
    faults = ("LiteRT: cosine 0.5 < 0.95", "AP fell")
    report.write_report(dataclasses.replace(measured(), faults=faults), tmp_path / "r")
    text = (tmp_path / "r" / "report.md").read_text()
    assert text.startswith("# model: REFUSED\n- LiteRT: cosine 0.5 < 0.95\n- AP fell\n\nNo model file was written")
    assert "other `--ranges`" in text  # most noise is rounding
    assert "`--mixed 2`" in text  # one layer was kept already
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    assert (found["verdict"], found["faults"]) == ("refused", list(faults))


def test_noise_of_weights_is_not_blamed_on_photos(tmp_path: Path) -> None:
    layers = tuple(dataclasses.replace(layer, rounding_noise=0.0) for layer in measured().layers)
    report.write_report(dataclasses.replace(measured(), faults=("poor",), layers=layers), tmp_path / "r")
    text = (tmp_path / "r" / "report.md").read_text()
    assert "no photos and no `--ranges` change that" in text
    assert "Calibrate on more photos" not in text


def test_an_earlier_report_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model.report"
    report.write_report(measured(), folder)
    (folder / "sample_9.jpg").touch()
    report.write_report(dataclasses.replace(measured(), name="second"), folder)
    assert not (folder / "sample_9.jpg").exists()
    assert (folder / "report.md").read_text().startswith("# second: verified")
    assert [path.name for path in tmp_path.iterdir()] == ["model.report"]


@pytest.mark.parametrize("name", ["mine.jpg", "report.txt", "notes"])
def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / "report.json").touch()
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name}: is not part of a report; give another folder with --report"):
        report.write_report(measured(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", name}


def test_a_file_in_its_place_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("mine")
    with pytest.raises(ConfigError, match="r: is not part of a report"):
        report.write_report(measured(), tmp_path / "r")
    assert (tmp_path / "r").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_failure_in_between_leaves_the_earlier_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    folder = tmp_path / "model.report"
    report.write_report(measured(), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written_text = Path.write_text

    def fail(path: Path, *args: Any, **options: Any) -> int:
        if path.name == "report.md":
            written_text(path, "half")
            raise error
        return written_text(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises((ConfigError, KeyboardInterrupt)) as caught:
        report.write_report(dataclasses.replace(measured(), name="second"), folder)
    if isinstance(error, OSError):
        assert f"{folder}: the report cannot be written: No space left on device; give" in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.report"]


def test_the_earlier_report_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model.report"
    report.write_report(measured(), folder)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        report.write_report(dataclasses.replace(measured(), name="second"), folder)
    assert (folder / "report.md").read_text().startswith("# model: verified")
    assert [path.name for path in tmp_path.iterdir()] == ["model.report"]


def test_no_folder_to_write_into_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the report cannot be written: No such file or directory"):
        report.write_report(measured(), tmp_path / "missing" / "r")


def test_without_matplotlib_there_are_samples_but_no_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type] # is how an import is blocked
    report.write_report(measured(), tmp_path / "r")
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"report.md", "report.json", "sample_1.jpg"}
    assert "Without charts, matplotlib cannot be used" in (tmp_path / "r" / "report.md").read_text()
    assert ".png" not in (tmp_path / "r" / "report.md").read_text()


def test_a_conversion_without_integers_has_a_report_too(tmp_path: Path) -> None:
    parity = dataclasses.replace(measured().parities[0], samples=(), score_pairs=np.zeros((0, 2), np.float32))
    bare = dataclasses.replace(
        measured(), precision="float16", parities=(parity,), layers=(), mixed=(), edge_tpu=None, scores=None
    )
    report.write_report(bare, tmp_path / "r")
    text = (tmp_path / "r" / "report.md").read_text()
    assert "## float16 against float" in text
    assert "Edge TPU" not in text
    assert "noise" not in text


def test_the_terminal_shows_runtimes_in_one_table_and_layers_only_where_something_is_poor() -> None:
    good = printed(measured())
    assert "layers that add most noise" not in good
    assert re.search(r"LiteRT 9\.9, 2 threads +│ +20 │ +0\.9\d{3} │ +1 of 2 │ +0 of 1 │ +12 ", good)
    assert "26.2 MB (float 101.3 MB); took 5 s and 1.2 GB of memory at most" in good
    assert len(good.splitlines()) < 30
    assert re.search(
        r"backbone\.conv1 │ CONV_2D +│ +1\.00%", printed(dataclasses.replace(measured(), faults=("poor",)))
    )


def test_a_comparison_without_detections_is_told(tmp_path: Path) -> None:
    findings = measured()
    empty = dataclasses.replace(findings.parities[0], wanted=0, confirmed=0)
    findings = dataclasses.replace(findings, parities=(empty,))
    report.write_report(findings, tmp_path / "r")
    assert "warning: The float model found nothing in these photos" in printed(findings)
    assert "The float model found nothing in these photos" in (tmp_path / "r" / "report.md").read_text()
    assert "found nothing" not in printed(measured())
