"""What a run of the benchmarks says, from figures made up here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tools.bench.figures import NOT_MEASURED, Figure, blank, figures_of, read_csv, write_csv
from tools.bench.machine import Machine, Moment
from tools.bench.report import report_of
from tools.bench.results import PeerRow, StageRow, Timing
from tools.bench.run import Run
from tools.bench.service import Load, Memory, ServiceRow, Spread
from tools.bench.service import Target as ServiceTarget
from tools.bench.stages import MemoryRow, StageResults
from tools.bench.targets import targets_of

REFERENCE = Path(__file__).resolve().parents[3] / "tools" / "bench" / "reference"


def timing(p50_ms: float) -> Timing:
    return Timing(p50_ms, 2 * p50_ms, p50_ms / 2, 10)


def spread(value: float) -> Spread:
    return Spread(value, value, value)


def stages(letterbox_ms: float = 1.2, processor: float = 0.99) -> StageResults:
    p50_ms = {
        "invoke": 20.0,
        "detect": 22.0,
        "decode + NMS": 0.5,
        "letterbox + quantize 1280x720": letterbox_ms,
        "cv2.resize bilinear 1280x720": 1.0,
        "cv2.resize by area 1280x720": 1.1,
    }
    rows = [StageRow(name, "LiteRT 9", "person-320", 1, 2, timing(value)) for name, value in p50_ms.items()]
    rows += [replace(row, threads=1) for row in rows[:3]]
    memory = (MemoryRow("LiteRT 9", "person-320", 1, 2, 130.0, 140.0, 26.0),)
    return StageResults(tuple(rows), memory, processor, {"litert": {"numpy": "9.9"}}, {"tflite": "no wheel"})


def decoder(contender: str, total_ms: float, counts: bool = True) -> PeerRow:
    reason = "" if counts else "finds something else"
    stages = {"total": timing(total_ms)}
    return PeerRow(contender, contender, "outputs of person 640", 90, stages, 1.0, 0.0, counts, reason, 99.0)


def service() -> ServiceRow:
    def load(viewers: int, share: float | None) -> Load:
        return Load(
            viewers=viewers,
            kind="mjpeg",
            fps=spread(30.0),
            share=None if share is None else spread(share),
            p50_ms=spread(50.0),
            p95_ms=spread(90.0),
            cores=spread(0.5 + viewers / 10),
            cpu_ms=spread(60.0),
            pictures_per_s=spread(10.0),
            missed_per_s=spread(0.0),
        )

    return ServiceRow(
        model="person-320",
        threads=2,
        machine="test",
        quiet=True,
        rounds=1,
        window_s=1.0,
        bare_fps=spread(33.0),
        bare_cores=spread(1.9),
        bare_cpu_ms=spread(57.0),
        full_speed=(load(0, 0.95), load(1, 0.91)),
        paced=(load(0, None), load(1, None), load(10, None)),
        opened_s=spread(1.0),
        first_detection_s=spread(1.25),
        memory_mb=Memory(26.0, 140.0, 90.0, 50.0, 150.0, 114.0),
        targets=(ServiceTarget("inferences of bare, 1 viewer, mjpeg", 0.9, 0.91, met=True),),
    )


def run(**changes: object) -> Run:
    found = Run(
        board="test-board",
        command="python tools/bench",
        quick=False,
        commit="abc",
        machine=Machine("", "test CPU", 2, "performance", 4000, "6.1", "Debian", "aarch64"),
        before=Moment("2026-01-02T03:04:05Z", 0.0, 40.0, ()),
        after=Moment("2026-01-02T04:04:05Z", 2.0, 60.0, ()),
        models={"a.tflite": "0123"},
        stages=stages(),
        peers=(decoder("ours-decoder", 2.0), decoder("example-decoding", 30.0), decoder("op-fast-alone", 15.0)),
        service=(service(),),
        left_out={"tflite": "no wheel"},
    )
    return replace(found, **changes)  # type: ignore[arg-type]  # names are those of Run


def verdicts(measured: Run) -> dict[str, str]:
    return {target.name: target.verdict for target in targets_of(measured)}


def test_targets_are_judged_by_the_runs_own_figures() -> None:
    found = verdicts(run())
    assert found["decode + NMS of 51150 x 90: example loop to ours"] == "met"
    assert found["decode + NMS of 51150 x 90: PostProcess op to ours"] == "**missed**"
    assert found["person-320: letterbox + quantize 1280x720 to cv2.resize bilinear"] == "met"
    assert found["person-320: inferences of bare, 1 viewer, mjpeg"] == "met"
    slower = verdicts(run(stages=stages(letterbox_ms=1.4)))
    assert slower["person-320: letterbox + quantize 1280x720 to cv2.resize bilinear"] == "**missed**"
    assert slower["person-320: letterbox + quantize 1280x720 to cv2.resize by area"] == "met"


def test_targets_are_left_open_where_others_were_at_work() -> None:
    found = verdicts(run(stages=stages(processor=0.5)))
    assert found["person-320: letterbox + quantize 1280x720 to cv2.resize bilinear"] == "others were at work"
    assert found["decode + NMS of 51150 x 90: example loop to ours"] == "others were at work"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    found = verdicts(run(stages=None, peers=(), service=()))
    assert set(found.values()) == {"not measured"}
    assert len(found) == 7


def test_a_peer_that_finds_something_else_is_no_yardstick() -> None:
    peers = (decoder("ours-decoder", 2.0), decoder("example-decoding", 30.0, counts=False))
    assert verdicts(run(peers=peers))["decode + NMS of 51150 x 90: example loop to ours"] == "not measured"


def test_the_fastest_form_of_a_peer_is_the_yardstick() -> None:
    peers = (decoder("ours-decoder", 1.0), decoder("op-regular-alone", 90.0), decoder("op-fast-alone", 9.0))
    target = next(target for target in targets_of(run(peers=peers)) if "PostProcess" in target.name)
    assert target.found == 9.0


def test_the_report_tells_what_it_was_measured_on_and_what_is_missing() -> None:
    text = report_of(run())
    for said in (
        "test CPU",
        "performance",
        "40 C, 60 C",
        "kernel 6.1",
        "numpy 9.9",
        "sha256 `0123`",
        "tflite: no wheel",
    ):
        assert said in text
    assert "Others were at work" not in text
    hot = Moment("2026-01-02T03:04:05Z", 3.0, None, ("throttled",))
    busy = report_of(run(before=hot, stages=stages(processor=0.5), quick=True))
    for said in ("Others were at work: a thread had a processor in 50%", "quick run", "complains: throttled"):
        assert said in busy


def test_the_report_has_a_line_per_stage_and_contender() -> None:
    lines = report_of(run()).splitlines()
    assert "| letterbox + quantize 1280x720 | 1.2 (2.4), 1.20x |" in lines
    assert "| LiteRT 9, person-320, 1 classes | 20 ms, 45.5/s | 20 ms, 45.5/s |" in lines
    assert any(line.startswith("| example-decoding | 30 (60), 15.00x | 100%, 0 | 99 | yes |") for line in lines)


def test_every_figure_has_one_line_and_survives_the_csv(tmp_path: Path) -> None:
    figures = figures_of(run())
    assert len({figure.key for figure in figures}) == len(figures)
    assert {figure.section for figure in figures} == {"stages", "memory", "peers", "service"}
    write_csv(figures, tmp_path / "a.csv")
    assert read_csv(tmp_path / "a.csv") == figures
    detect = next(figure for figure in figures if figure.name == "detect" and figure.threads == "2")
    assert (detect.board, detect.date, detect.commit) == ("test-board", "2026-01-02", "abc")
    assert (detect.p50, detect.p95, detect.unit, detect.ratio, detect.ratio_to) == ("22", "44", "ms", "1.100", "invoke")


def test_a_peer_that_does_not_run_has_a_line_with_its_reason() -> None:
    peer = replace(decoder("example-decoding", 0.0, counts=False), stages={}, reason="does not run: no wheel")
    (figure,) = figures_of(run(stages=None, service=(), peers=(peer,)))
    assert (figure.runtime, figure.p50, figure.note) == ("example-decoding", "", "does not run: no wheel")
    assert "no: does not run: no wheel" in report_of(run(peers=(decoder("ours-decoder", 2.0), peer)))


def test_the_lines_of_another_board_are_the_same_without_values() -> None:
    figures = figures_of(run())
    empty = blank(figures, "other")
    assert [figure.key for figure in empty] == [figure.key for figure in figures]
    assert {(line.board, line.p50, line.p95, line.ratio, line.note) for line in empty} == {
        ("other", "", "", "", NOT_MEASURED)
    }


def test_the_json_holds_all_of_it(tmp_path: Path) -> None:
    run().write_json(tmp_path / "a.json")
    read = json.loads((tmp_path / "a.json").read_text())
    assert read["stages"]["rows"][0]["timing"]["p50_ms"] == 20.0
    assert read["service"][0]["targets"][0]["met"] is True
    assert read["peers"][1]["contender"] == "example-decoding"


def test_boards_without_figures_have_the_lines_of_the_measured_one() -> None:
    boards: dict[str, list[Figure]] = {path.stem: read_csv(path) for path in sorted(REFERENCE.glob("*.csv"))}
    measured = {name: figures for name, figures in boards.items() if any(figure.p50 for figure in figures)}
    if not measured:
        pytest.skip("nothing has been measured yet: python tools/bench on a quiet machine")
    keys = [figure.key for figure in next(iter(measured.values()))]
    for name in boards.keys() - measured.keys():
        assert [figure.key for figure in boards[name]] == keys, f"python tools/bench --blank {name}"
