"""Charts of a run; ours is always red."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tools.bench.figures import OURS
from tools.bench.results import PeerRow, StageRow
from tools.bench.run import Run
from tools.bench.stages import StageResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = ("stages.png", "threads.png", "peers.png")
_OURS, _OTHER, _LEFT_OUT = "#d1495b", "#8a8a8a", "#dddddd"
_PARTS = {"preprocess": "#edae49", "invoke": "#30638e", "postprocess": "#d1495b"}
_BAR = 0.27  # of the space between two configurations
_WIDTH_IN = 6.0
_DPI = 150


def plot(run: Run, folder: Path) -> list[str]:
    """Write the charts that the run has figures for, and return their names."""
    drawn = {}
    if run.stages is not None:
        drawn["stages.png"] = _stages(run.stages)
        drawn["threads.png"] = _threads(run.stages)
    if any(row.stages for row in run.peers):
        drawn["peers.png"] = _peers(run.peers)
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=_DPI)
    return list(drawn)


def _stages(results: StageResults) -> Figure:
    """Where the time of a picture goes: letterbox, network and decoder, with the most threads."""
    most = max(row.threads for row in results.rows)
    rows = [row for row in results.rows if row.threads == most]
    columns = list(dict.fromkeys((row.runtime, row.model, row.classes) for row in rows))
    p50_ms = {((row.runtime, row.model, row.classes), row.stage): row.timing.p50_ms for row in rows}
    names = {"preprocess": "letterbox + quantize 1280x720", "invoke": "invoke", "postprocess": "decode + NMS"}
    figure = _figure(1.2 + 0.6 * len(columns))
    axis = figure.subplots()
    places = np.arange(len(columns))[::-1]
    for number, (part, stage) in enumerate(names.items()):
        times = [p50_ms[column, stage] for column in columns]
        bars = axis.barh(places + _BAR * (1 - number), times, _BAR, color=_PARTS[part], label=stage)
        axis.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
    axis.set_yticks(places, [f"{runtime}, {model}, {classes}" for runtime, model, classes in columns], fontsize=8)
    axis.set_xscale("log")
    axis.margins(x=0.1)
    axis.set_xlabel(f"ms per picture (log), {most} threads", fontsize=9)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def _threads(results: StageResults) -> Figure:
    """Invoke over the number of threads."""
    lines: dict[tuple[str, str, int], list[StageRow]] = {}
    for row in results.rows:
        if row.stage == "invoke":
            lines.setdefault((row.runtime, row.model, row.classes), []).append(row)
    figure = _figure(3.5)
    axis = figure.subplots()
    for (runtime, model, classes), rows in lines.items():
        rows.sort(key=lambda row: row.threads)
        style = "-" if classes == 1 else ":"
        label = f"{runtime}, {model}, {classes}"
        axis.plot([row.threads for row in rows], [row.timing.p50_ms for row in rows], style, marker="o", label=label)
    axis.set(yscale="log", xticks=sorted({row.threads for row in results.rows}))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.tick_params(which="both", labelsize=8)
    axis.set_xlabel("threads", fontsize=9)
    axis.set_ylabel("ms per inference (log)", fontsize=9)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return figure


def _peers(rows: tuple[PeerRow, ...]) -> Figure:
    """Total time of each contender; pale where it does not find the same."""
    groups: dict[tuple[str, int], list[PeerRow]] = {}
    for row in rows:
        if row.stages:
            groups.setdefault((row.model, row.classes), []).append(row)
    figure = _figure(0.6 + sum(0.6 + 0.28 * len(chosen) for chosen in groups.values()))
    heights = [len(chosen) + 1 for chosen in groups.values()]
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, ((model, classes), chosen) in zip(axes, groups.items(), strict=True):
        chosen.sort(key=lambda row: -row.stages["total"].p50_ms)
        colors = [_OURS if row.contender in OURS else _OTHER if row.counts else _LEFT_OUT for row in chosen]
        lengths = [row.stages["total"].p50_ms for row in chosen]
        bars = axis.barh([row.contender for row in chosen], lengths, color=colors)
        axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
        axis.tick_params(labelsize=8)
        axis.set_title(f"{model}, {classes} classes: ms per picture", fontsize=9)
    return figure


def _figure(height_in: float) -> Figure:
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    return Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
