"""A report of a soak, as Markdown with plots."""

from __future__ import annotations

import platform
import statistics
from pathlib import Path
from typing import Any

from tests.endurance.soak import Record
from tests.endurance.verdict import drift, judge, levels, rests, theil_sen

FAULT_COLOR = "#e8590c"


def write_report(record: Record, folder: Path) -> str:
    """Write endurance.md and plots; return the Markdown."""
    plots = _plot(record, folder)
    options = record.options
    minutes = record.samples[-1]["s"] / 60 if record.samples else 0
    times = sum(len(injected.kinds) for injected in record.injected)
    together = sum(len(injected.kinds) > 1 for injected in record.injected)
    text = [
        "# Endurance",
        f"{minutes:.0f} minutes, {times} faults ({together} times two at once), seed {options.seed}: "
        f"`python tests/endurance --minutes {options.minutes:g} --seed {options.seed}`. Two cameras (RTSP over a relay "
        f"that breaks it, a looping file), model {options.model}, {options.detect_fps:g} searches per second each, all "
        f"sinks on, with limits so small that files turn over and go all the time. {_machine()}.\n",
        "| demanded | met | seen |",
        "|---|---|---|",
        *(f"| {what} | {'yes' if met else '**no**'} | {seen} |" for what, met, seen in judge(record)),
        "",
        *(f"![{caption}]({name})\n" for name, caption in plots),
        "## What was broken, and how long until all sinks delivered again",
        "Counted from the end of the fault, outside of the service: messages at a subscriber, posts at a server, "
        "lines, rows, complete files, datagrams, pictures at viewers. Of two faults at once both rows get the time.\n",
        "| fault | times | median, longest | slowest sink |",
        "|---|---|---|---|",
        *_fault_rows(record),
        "",
        "| sink | delivered | back after: median, longest | after |",
        "|---|---|---|---|",
        *_sink_rows(record),
        "",
    ]
    if record.left_out:
        text += ["Not run: " + "; ".join(f"{name} ({why})" for name, why in record.left_out.items()) + ".\n"]
    markdown = "\n".join(text)
    (folder / "endurance.md").write_text(markdown)
    return markdown


def _fault_rows(record: Record) -> list[str]:
    rows = []
    for kind in dict.fromkeys(kind for injected in record.injected for kind in injected.kinds):
        mine = [injected for injected in record.injected if kind in injected.kinds]
        all_back = [max(injected.recovered_s.values(), default=0.0) for injected in mine]
        worst = max(mine, key=lambda injected: max(injected.recovered_s.values(), default=0.0))
        slowest = max(worst.recovered_s, key=lambda name: worst.recovered_s[name], default="")
        rows.append(
            f"| {kind} | {len(mine)} | {statistics.median(all_back):.1f} s, {max(all_back):.1f} s | {slowest} |"
        )
    return rows


def _sink_rows(record: Record) -> list[str]:
    rows = []
    for name, count in record.counts.items():
        took = [(one.recovered_s[name], " + ".join(one.kinds)) for one in record.injected if name in one.recovered_s]
        if took:
            longest, after = max(took)
            median = statistics.median(seconds for seconds, _ in took)
            rows.append(f"| {name} | {count} | {median:.1f} s, {longest:.1f} s | {after} |")
    return rows


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    import os

    return f"{os.cpu_count()} cores of {model}, shared with other work"


def _plot(record: Record, folder: Path) -> list[tuple[str, str]]:
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    if not record.samples:
        return []
    minutes = [row["s"] / 60 for row in record.samples]
    figure, axes = plt.subplots(3, 1, figsize=(10, 8), sharex=True, layout="constrained")
    panels: tuple[tuple[str, tuple[str, ...], Any], ...] = (
        ("memory, MB", ("rss_mb", "anonymous_mb"), axes[0]),
        ("threads", ("threads",), axes[1]),
        ("file descriptors", ("fds",), axes[2]),
    )
    names = {"rss_mb": "resident", "anonymous_mb": "of it anonymous"}
    for title, keys, axis in panels:
        for key in keys:
            axis.plot(minutes, [row[key] for row in record.samples], lw=0.8, label=names.get(key))
        for injected in record.injected:
            end_s = injected.at_s + injected.lasted_s
            axis.axvspan(injected.at_s / 60, end_s / 60, color=FAULT_COLOR, alpha=0.18, lw=0)
        axis.axvspan(0, record.options.warm_up_s / 60, color="0.5", alpha=0.1, lw=0)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    windows = rests(record)
    if len(windows) >= 4:
        xs, ys = levels(record)
        slope, _, _ = theil_sen(xs, ys)
        middle = statistics.median(y - slope * x for x, y in zip(xs, ys, strict=True))
        ends = [xs[0], xs[-1]]
        line = [middle + slope * x for x in ends]
        axes[0].plot([60 * x for x in ends], line, "k--", lw=1, label=f"{slope:+.2f} MB/h")
        for axis, key in ((axes[1], "threads"), (axes[2], "fds")):
            axis.set_title(
                "at rest {:g} in the first quarter, {:g} in the last".format(*drift(windows, key)[:2]), fontsize=9
            )
    axes[0].legend(loc="lower right", ncols=3)
    axes[0].set_title("orange: a fault; grey: warm-up", fontsize=9)
    axes[-1].set_xlabel("minutes")
    figure.savefig(folder / "endurance-process.png")
    plt.close(figure)

    kinds = list(dict.fromkeys(kind for injected in record.injected for kind in injected.kinds))
    took = [
        [max(one.recovered_s.values(), default=0.0) for one in record.injected if kind in one.kinds] for kind in kinds
    ]
    figure, axis = plt.subplots(figsize=(10, 0.5 + 0.35 * max(1, len(kinds))), layout="constrained")
    for row, seconds in enumerate(took):
        axis.plot(seconds, [row] * len(seconds), "o", color=FAULT_COLOR, alpha=0.5, ms=5)
        axis.plot([statistics.median(seconds)], [row], "|", color="k", ms=14)
    axis.set_yticks(range(len(kinds)), kinds)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("seconds from the end of the fault until all sinks delivered again (line: median)")
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(folder / "endurance-recovery.png")
    plt.close(figure)
    return [
        ("endurance-process.png", "Memory, threads and file descriptors over time"),
        ("endurance-recovery.png", "Seconds until all sinks delivered again, by fault"),
    ]
