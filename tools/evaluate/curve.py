"""python -m tools.evaluate.curve: what canvases cost and give, as a table, a chart and JSON.

    python -m tools.evaluate.curve person-320 person-416 person-640 --annotations FILE --images DIR --output DIR

The models take turns on every picture, so that a busy moment meets all of them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, EdgeDetectorError
from edge_detector.registry import resolve_model
from tools.bench.machine import Machine, git_commit, sha256_of
from tools.evaluate.__main__ import open_detector
from tools.evaluate.annotations import Annotations, load_annotations, match_labels, read_frame
from tools.evaluate.report import Report
from tools.evaluate.score import Figures, score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLD = 0.01  # least confidence that counts, as in tools/evaluate
_DPI = 150

console = Console(stderr=True)


def main(
    models: Annotated[list[str], typer.Argument(help="Names or .tflite files, of the same network.")],
    annotations: Annotated[Path, typer.Option(help="COCO-format instances file.")],
    images: Annotated[Path, typer.Option(help="Folder of its pictures.")],
    output: Annotated[Path, typer.Option(help="Folder for curve.json and curve.png; it is made.")],
    runtime: Annotated[str, typer.Option(help="auto, litert or tflite.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of one inference; default: as the runtime.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first so many pictures.")] = None,
) -> None:
    """Score models and time them in turns."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("the chart needs matplotlib: pip install 'edge-detector[evaluate]'")
    paths = [resolve_model(name) for name in models]
    truth = load_annotations(annotations, images, limit)
    try:
        output.mkdir(parents=True, exist_ok=True)  # before all the work
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror}; give another folder") from error
    detectors: list[Detector] = []
    try:
        for path in paths:
            detectors.append(open_detector(path, None, None, runtime, threads, THRESHOLD))
        reports = compare(detectors, truth)
    finally:
        for detector in detectors:
            detector.close()
    found = {
        "commit": git_commit(),
        "machine": dataclasses.asdict(Machine.read()),
        "models": sha256_of(paths),
        "reports": [dataclasses.asdict(report) for report in reports],
    }
    print(table(reports))
    (output / "curve.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    chart(reports).savefig(output / "curve.png", dpi=_DPI)


def compare(detectors: Sequence[Detector], truth: Annotations) -> list[Report]:
    """Return a report per detector; times are medians of all pictures, the first one left out."""
    matches = [match_labels(detector.manifest.labels, truth) for detector in detectors]
    found: list[dict[int, Detections]] = [{} for _ in detectors]
    timings: list[list[dict[str, float]]] = [[] for _ in detectors]
    for picture in track(truth.pictures, "scoring", console=console):
        frame = read_frame(picture)
        for detector, detections, times in zip(detectors, found, timings, strict=True):
            detections[picture.image_id], timings_s = detector.detect_timed(frame)
            times.append(timings_s | {"total": sum(timings_s.values())})
    return [
        Report(
            model=detector.manifest.name,
            backend=detector.backend.name,
            input_wh=(detector.manifest.input.width, detector.manifest.input.height),
            pictures=len(detections),
            threshold=THRESHOLD,
            median_ms={stage: 1000 * statistics.median(t[stage] for t in times[1:] or times) for stage in times[0]},
            match=match,
            score=score(truth, match, detections),
        )
        for detector, detections, times, match in zip(detectors, found, timings, matches, strict=True)
    ]


def table(reports: Sequence[Report]) -> str:
    """Return the figures as Markdown, accuracy in percent."""
    lines = [
        "| canvas | AP50 | AP | AP small, medium, large | ms per picture | AP50 per 10 ms |",
        "|---|---|---|---|---|---|",
    ]
    for report in reports:
        of, total_ms = report.score.overall, report.median_ms["total"]
        sizes = ", ".join(_percent(of, name) for name in ("ap_small", "ap_medium", "ap_large"))
        cells = "x".join(map(str, report.input_wh)), _percent(of, "ap50"), _percent(of, "ap"), sizes
        per_time = 1000 * (of.ap50 or 0.0) / total_ms
        lines.append("| " + " | ".join([*cells, f"{total_ms:.1f}", f"{per_time:.1f}"]) + " |")
    return "\n".join(lines)


def _percent(figures: Figures, name: str) -> str:
    value = getattr(figures, name)
    return "-" if value is None else f"{100 * value:.1f}"


def chart(reports: Sequence[Report]) -> Figure:
    """Draw accuracy over time per picture, a point per model."""
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axis = figure.subplots()
    rows = sorted(reports, key=lambda report: report.median_ms["total"])
    times = [report.median_ms["total"] for report in rows]
    for name, title, colour in (("ap50", "AP50", "#d1495b"), ("ap", "AP", "#30638e")):
        values = [100 * (getattr(report.score.overall, name) or 0.0) for report in rows]
        axis.plot(times, values, marker="o", color=colour, label=title)
        for report, x, y in zip(rows, times, values, strict=True):
            axis.annotate(
                f"{report.input_wh[0]}: {y:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8
            )
    axis.set(xlim=(0, 1.12 * max(times)), ylim=(0, 100))
    axis.set_xlabel(f"ms per picture, letterbox to boxes; {rows[0].backend}", fontsize=9)
    axis.set_ylabel(f"percent, {rows[0].pictures} pictures", fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgeDetectorError as error:
        console.print(f"curve: error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
