"""A run as figures, one a line: what can be compared between machines and commits."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tools.bench.peers import REFERENCE, REFERENCE_DECODER
from tools.bench.results import PeerRow, StageRow, Timing
from tools.bench.run import Run
from tools.bench.service import Load, ServiceRow, Spread
from tools.bench.stages import MemoryRow, StageResults

OURS = (REFERENCE, REFERENCE_DECODER)
LETTERBOX, BARE, BARE_AREA = "letterbox + quantize", "cv2.resize bilinear", "cv2.resize by area"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Figure:
    """One line of the CSV. Empty is what does not apply, or is not known.

    Attributes:
        board, date, commit: where, when and of what.
        section: "stages", "memory", "peers" or "service".
        name: the stage, or what else it is.
        runtime: the runtime, or the peer.
        model, classes, threads: under which.
        p50, p95: where there is only one number, it is p50.
        unit: of both.
        ratio: of p50 to `ratio_to`, in which more is better for rates and less for all else.
        ratio_to: what `ratio` compares with.
        note: why it does not count, or "not measured".
    """

    board: str
    date: str
    commit: str
    section: str
    name: str
    runtime: str
    model: str
    classes: str
    threads: str
    p50: str
    p95: str
    unit: str
    ratio: str
    ratio_to: str
    note: str

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from the others of its run."""
        return self.section, self.name, self.runtime.split(" ")[0], self.model, self.classes, self.threads


def figures_of(run: Run) -> list[Figure]:
    """Return all figures of a run."""
    found: list[Figure] = []
    if run.stages is not None:
        found += [*_stages(run.stages), *map(_memory, run.stages.memory)]
    found += _peers(run.peers)
    for row in run.service:
        found += _service(row)
    about = {"board": run.board, "date": run.before.wall_time[:10], "commit": run.commit}
    return [replace(figure, **about) for figure in found]


def blank(figures: Iterable[Figure], board: str) -> list[Figure]:
    """Return the same lines for a board that nothing was measured on."""
    empty = {"date": "", "commit": "", "p50": "", "p95": "", "ratio": "", "note": NOT_MEASURED}
    return [replace(figure, board=board, **empty) for figure in figures]


def write_csv(figures: Iterable[Figure], path: Path) -> None:
    """Write a line each, after one with the columns' names."""
    names = [field.name for field in fields(Figure)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(figure, name) for name in names] for figure in figures)


def read_csv(path: Path) -> list[Figure]:
    """Return what `write_csv` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Figure(**line) for line in csv.DictReader(file)]


def baseline_of(stage: str) -> str | None:
    """Return the stage that a stage of our own is compared with."""
    if stage == "detect":
        return "invoke"
    return stage.replace(LETTERBOX, BARE) if stage.startswith(LETTERBOX) else None


def _stages(results: StageResults) -> Iterator[Figure]:
    by_key = {(row.runtime, row.model, row.classes, row.threads, row.stage): row for row in results.rows}
    for row in results.rows:
        baseline = by_key.get((row.runtime, row.model, row.classes, row.threads, baseline_of(row.stage) or ""))
        yield _stage(row, baseline)


def _stage(row: StageRow, baseline: StageRow | None) -> Figure:
    ratio = None if baseline is None else row.timing.p50_ms / baseline.timing.p50_ms
    keys = row.runtime, row.model, row.classes, row.threads
    return _figure("stages", row.stage, *keys, row.timing, ratio=ratio, ratio_to=baseline.stage if baseline else "")


def _memory(row: MemoryRow) -> Figure:
    keys = row.runtime, row.model, row.classes, row.threads
    return _figure("memory", "resident", *keys, row.rss_mb, unit="MB", ratio=row.rss_mb / row.model_mb, ratio_to="file")


def _peers(rows: Iterable[PeerRow]) -> Iterator[Figure]:
    rows = list(rows)
    ours = {(row.model, row.classes): row.stages for row in rows if row.contender in OURS}
    for row in rows:
        keys = row.contender, row.model, row.classes, None
        if not row.stages:
            yield _figure("peers", "total", *keys, None, note=row.reason)
        for stage, timing in row.stages.items():
            own = ours.get((row.model, row.classes), {}).get(stage)
            ratio = timing.p50_ms / own.p50_ms if own is not None else None
            note = "" if row.counts else row.reason
            yield _figure("peers", stage, *keys, timing, ratio=ratio, ratio_to="ours" if own else "", note=note)


def _service(row: ServiceRow) -> Iterator[Figure]:
    keys = "edge-detector run", row.model, 1, row.threads
    yield _figure("service", "bare inference", *keys, row.bare_fps, unit="1/s")
    for title, loads in (("full speed", row.full_speed), ("paced", row.paced)):
        quiet = next(load for load in loads if not load.viewers)
        for load in loads:
            yield from _load(f"{title}, {_watched(load)}", load, quiet, keys)
    yield _figure("service", "start to first detection", *keys, row.first_detection_s, unit="s")
    memory = row.memory_mb
    yield _figure("service", "resident", *keys, memory.rss, unit="MB", ratio=memory.rss / memory.model, ratio_to="file")


def _load(title: str, load: Load, quiet: Load, keys: tuple[str, str, int, int]) -> Iterator[Figure]:
    if load.share is not None:
        share = load.share.median
        name = f"inferences, {title}"
        yield _figure("service", name, *keys, load.fps, unit="1/s", ratio=share, ratio_to="bare inference")
        latency = Timing(load.p50_ms.median, load.p95_ms.median, load.p50_ms.least, 0)
        yield _figure("service", f"frame to detection, {title}", *keys, latency)
    times = load.cores.median / quiet.cores.median
    yield _figure("service", f"processor, {title}", *keys, load.cores, unit="cores", ratio=times, ratio_to="no viewer")


def _watched(load: Load) -> str:
    """Return who watches, in words."""
    return f"{load.viewers} by {load.kind}" if load.viewers else "no viewer"


def _figure(
    section: str,
    name: str,
    runtime: str,
    model: str,
    classes: int | None,
    threads: int | None,
    value: Timing | Spread | float | None,
    *,
    unit: str = "ms",
    ratio: float | None = None,
    ratio_to: str = "",
    note: str = "",
) -> Figure:
    if isinstance(value, Timing):
        p50, p95 = _number(value.p50_ms), _number(value.p95_ms)
    else:
        p50, p95 = _number(value.median if isinstance(value, Spread) else value), ""
    return Figure(
        board="",
        date="",
        commit="",
        section=section,
        name=name,
        runtime=runtime,
        model=model,
        classes="" if classes is None else str(classes),
        threads="" if threads is None else str(threads),
        p50=p50,
        p95=p95,
        unit=unit,
        ratio="" if ratio is None else f"{ratio:.3f}",
        ratio_to=ratio_to,
        note=note,
    )


def _number(value: float | None) -> str:
    """Return it for the CSV; empty is what is unknown."""
    return "" if value is None or math.isnan(value) else f"{value:.4g}"
