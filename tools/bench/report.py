"""A run as Markdown, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tools.bench.figures import BARE, OURS, baseline_of
from tools.bench.plots import PLOTS
from tools.bench.results import PeerRow, StageRow
from tools.bench.run import Run
from tools.bench.service import ServiceRow
from tools.bench.stages import StageResults
from tools.bench.targets import targets_of


def report_of(run: Run, plots: Iterable[str] = PLOTS) -> str:
    """Return the report; `plots` are names of pictures beside it."""
    parts = [f"# Speed of edge_detector on {run.board}", *_machine(run), "## Targets", _targets(run)]
    if run.stages is not None:
        parts += [
            "## Stages",
            _stages(run.stages),
            "## Threads",
            _threads(run.stages),
            "## Memory",
            _memory(run.stages),
        ]
    if run.peers:
        parts += ["## Side by side", *_peers(run.peers)]
    if run.service:
        parts += ["## The service", *map(_service, run.service)]
    if run.left_out:
        parts += ["## Left out", "\n".join(f"- {name}: {reason}" for name, reason in run.left_out.items())]
    parts += [f"![{name}]({name})" for name in plots]
    return "\n\n".join(parts) + "\n"


def table(headings: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; all columns but the first hold numbers."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _machine(run: Run) -> Iterator[str]:
    machine, before, after = run.machine, run.before, run.after
    facts = {
        "machine": f"{machine.board or machine.architecture}, {machine.cpu}, {machine.cores} cores",
        "memory": f"{machine.memory_mb} MB",
        "system": f"{machine.system}, kernel {machine.kernel}",
        "governor": machine.governors or "none is told",
        "from, to": f"{before.wall_time}, {after.wall_time}",
        "load before, after": f"{before.load:.2f}, {after.load:.2f}",
        "temperature before, after": f"{_degrees(before.temperature_c)}, {_degrees(after.temperature_c)}",
        "commit": run.commit or "unknown",
        "command": f"`{run.command}`",
    }
    for runtime, versions in (run.stages.versions if run.stages is not None else {}).items():
        facts[f"versions, {runtime}"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    facts |= {name: f"sha256 `{digest}`" for name, digest in run.models.items()}
    yield table(("", ""), facts.items()).replace("---:", "---")
    if run.quick:
        yield "**A quick run: figures to look at, not to quote.**"
    if run.stages is not None and not run.stages.quiet:
        yield f"**Others were at work: a thread had a processor in {run.stages.processor:.0%} of its time only.**"
    if {*before.throttled, *after.throttled}:
        yield f"**The firmware complains: {', '.join(sorted({*before.throttled, *after.throttled}))}.**"


def _targets(run: Run) -> str:
    rows = (
        (target.name, target.wanted, "" if target.found is None else f"{target.found:.3g}", target.verdict)
        for target in targets_of(run)
    )
    return table(("target", "wanted", "found", ""), rows)


def _stages(results: StageResults) -> str:
    """Return p50 and p95 of each stage with the most threads, a table per runtime."""
    most = max(row.threads for row in results.rows)
    rows = [row for row in results.rows if row.threads == most]
    parts = [f"Milliseconds, p50 (p95), {most} threads; of letterbox also times {BARE}, of detect times invoke."]
    for runtime in dict.fromkeys(row.runtime for row in rows):
        cells = {(row.stage, (row.model, row.classes)): row for row in rows if row.runtime == runtime}
        columns = list(dict.fromkeys(column for _, column in cells))
        lines = []
        for stage in sorted({stage for stage, _ in cells}, key=lambda name: (baseline_of(name) is None, name)):
            pairs = ((cells.get((stage, key)), cells.get((baseline_of(stage) or "", key))) for key in columns)
            lines.append((stage, *(_cell(row, other) for row, other in pairs)))
        headings = (f"{model}, {classes} classes" for model, classes in columns)
        parts.append(table((runtime, *headings), lines))
    return "\n\n".join(parts)


def _cell(row: StageRow | None, baseline: StageRow | None) -> str:
    if row is None:
        return ""
    times = f", {row.timing.p50_ms / baseline.timing.p50_ms:.2f}x" if baseline is not None else ""
    return f"{row.timing.p50_ms:.3g} ({row.timing.p95_ms:.3g}){times}"


def _threads(results: StageResults) -> str:
    counts = sorted({row.threads for row in results.rows})
    found: dict[tuple[str, str, int], dict[tuple[str, int], float]] = {}
    for row in results.rows:
        found.setdefault((row.runtime, row.model, row.classes), {})[row.stage, row.threads] = row.timing.p50_ms
    lines = []
    for (runtime, model, classes), p50_ms in found.items():
        cells = (f"{p50_ms['invoke', n]:.4g} ms, {1e3 / p50_ms['detect', n]:.3g}/s" for n in counts)
        lines.append((f"{runtime}, {model}, {classes} classes", *cells))
    return "Invoke p50, and pictures per second of detect().\n\n" + table(("threads", *counts), lines)


def _memory(results: StageResults) -> str:
    lines = [
        (
            f"{row.runtime}, {row.model}, {row.classes} classes",
            row.threads,
            f"{row.rss_mb:.0f}",
            f"{row.peak_mb:.0f}",
            f"{row.rss_mb - row.model_mb:.0f}",
        )
        for row in results.memory
    ]
    return "MB of a process that has run the model once.\n\n" + table(
        ("process", "threads", "resident", "at most", "above the model file"), lines
    )


def _peers(rows: Sequence[PeerRow]) -> Iterator[str]:
    """Yield a table per model and classes."""
    for model, classes in dict.fromkeys((row.model, row.classes) for row in rows):
        chosen = [row for row in rows if (row.model, row.classes) == (model, classes)]
        stages = list(dict.fromkeys(stage for row in chosen for stage in row.stages))
        ours = next((row.stages for row in chosen if row.contender in OURS), {})
        lines = []
        for row in chosen:
            cells = []
            for stage in stages:
                timing = row.stages.get(stage)
                times = f", {timing.p50_ms / ours[stage].p50_ms:.2f}x" if timing and stage in ours else ""
                cells.append(f"{timing.p50_ms:.3g} ({timing.p95_ms:.3g}){times}" if timing else "")
            fit = f"{row.agreement:.0%}, {row.extra:.0f}"
            lines.append((row.title, *cells, fit, f"{row.rss_mb:.0f}", "yes" if row.counts else f"no: {row.reason}"))
        yield f"{model}, {classes} classes: milliseconds, p50 (p95), times ours."
        yield table(("", *stages, "found too, extra per 100", "MB", "counts"), lines)


def _service(row: ServiceRow) -> str:
    lines = [
        (
            f"{title}, {load.viewers} viewers, {load.kind}",
            load.fps,
            "" if load.share is None else load.share,
            load.p50_ms,
            load.p95_ms,
            load.cores,
            load.cpu_ms,
        )
        for title, loads in (("full speed", row.full_speed), ("paced", row.paced))
        for load in loads
    ]
    head = (
        f"{row.model}, {row.threads} threads, {row.rounds} rounds of {row.window_s:g} s, median (least-most). Bare "
        f"inference: {row.bare_fps}/s. First detection {row.first_detection_s} s after the start. "
        f"Resident {row.memory_mb.rss:.0f} MB, model file {row.memory_mb.model:.0f} MB."
    )
    if not row.quiet:
        head = f"**Others were at work.** {head}"
    return f"{head}\n\n" + table(
        ("", "inferences/s", "of bare", "p50 ms", "p95 ms", "cores", "CPU ms per inference"), lines
    )


def _degrees(temperature_c: float | None) -> str:
    return "none is told" if temperature_c is None else f"{temperature_c:.0f} C"
