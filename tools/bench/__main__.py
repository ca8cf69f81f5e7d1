"""python tools/bench: how fast it is here, stage by stage, side by side with others, and as a service."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as `python tools/bench` from anywhere

import typer
from rich.console import Console

from edge_detector.errors import ConfigError, EdgeDetectorError
from edge_detector.registry import resolve_model
from tools.bench.compare import compare
from tools.bench.figures import blank, figures_of, read_csv, write_csv
from tools.bench.machine import Machine, Moment, git_commit, sha256_of
from tools.bench.plots import plot
from tools.bench.report import report_of
from tools.bench.results import PeerRow
from tools.bench.run import Run
from tools.bench.service import ServiceRow, measure_service
from tools.bench.stages import Model, StageResults, measure_stages
from tools.bench.targets import targets_of
from tools.bench.widen import COCO_CLASSES, widen

REFERENCE = Path(__file__).parent / "reference"
MEASURED = "x86-64-epyc-2-cores"  # the board in REFERENCE that has figures
SHIPPED = ("person-320", "person-416", "person-640")
LEAST_AND_MOST = SHIPPED[0], SHIPPED[-1]  # of these all is measured, of the others what one class costs

console = Console(stderr=True)


@dataclass(frozen=True)
class Effort:
    """How long a run takes.

    Attributes:
        rounds: of stages and peers.
        budget_s: of a stage's turn.
        pictures: that each peer goes through in its turn.
        service_rounds, window_s: rounds of the service, each with windows of so many seconds.
        all_threads: from one to all cores, not all cores only.
    """

    rounds: int
    budget_s: float
    pictures: int
    service_rounds: int
    window_s: float
    all_threads: bool

    def threads(self) -> list[int]:
        """Return the numbers of threads to measure."""
        cores = len(os.sched_getaffinity(0))
        return list(range(1, cores + 1)) if self.all_threads else [cores]


FULL = Effort(rounds=5, budget_s=1.0, pictures=16, service_rounds=3, window_s=8.0, all_threads=True)
QUICK = Effort(rounds=1, budget_s=0.2, pictures=2, service_rounds=1, window_s=2.0, all_threads=False)


class Part(str, Enum):
    """What can be measured."""

    STAGES = "stages"
    PEERS = "peers"
    SERVICE = "service"


def main(
    output: Annotated[Path, typer.Option(help="Folder of what is written; it is made.")] = Path("bench-results"),
    venvs: Annotated[Path, typer.Option(help="Folder of other runtimes' and peers' environments; they are made.")] = (
        Path(".venv-bench")
    ),
    only: Annotated[list[Part] | None, typer.Option(help="Measure only this; can be repeated.")] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="Of the stages; can be repeated. Default: 1 to all cores.")
    ] = None,
    board: Annotated[str, typer.Option(help="What to call this machine.")] = platform.node(),
    calibration: Annotated[
        Path | None, typer.Option(help="Photos to quantize the peers' ONNX file on; default: the demo clip.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="In minutes; figures only to look at.")] = False,
    blank_board: Annotated[
        str | None, typer.Option("--blank", help="Measure nothing: write the lines of this board to reference/.")
    ] = None,
) -> None:
    """Measure, and write report.md, results.json, results.csv and charts."""
    if blank_board is not None:
        write_blank(blank_board)
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("the charts need matplotlib: pip install '.[bench]'")
    output.mkdir(parents=True, exist_ok=True)
    parts, effort = only or list(Part), QUICK if quick else FULL
    left_out: dict[str, str] = {}
    before = Moment.now()
    stages: StageResults | None = None
    peers: list[PeerRow] = []
    service: list[ServiceRow] = []
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder), narrow=quick)
        if Part.STAGES in parts:
            with without(left_out, "stages"):
                counts = threads or effort.threads()
                stages = measure_stages(models, venvs, counts, effort.rounds, effort.budget_s, say)
                left_out |= stages.missing
        if Part.PEERS in parts:
            with without(left_out, "peers"):
                peers += compare(venvs, effort.rounds, effort.pictures, calibration=calibration, say=say)
        if Part.SERVICE in parts:
            for name in LEAST_AND_MOST:
                with without(left_out, f"service, {name}"):
                    service.append(measure_service(resolve_model(name), effort.service_rounds, effort.window_s, say))
        digests = sha256_of(model.path for model in models)
    run = Run(
        board=board,
        command=command_line(),
        quick=quick,
        commit=git_commit(),
        machine=Machine.read(),
        before=before,
        after=Moment.now(),
        models=digests,
        stages=stages,
        peers=tuple(peers),
        service=tuple(service),
        left_out=left_out,
    )
    write(run, output)


@contextmanager
def without(left_out: dict[str, str], part: str) -> Iterator[None]:
    """Go on where a part cannot be measured, and note why: the others took long enough."""
    try:
        yield
    except (EdgeDetectorError, RuntimeError) as error:
        left_out[part] = str(error)
        console.print(f"left out: {part}: {error}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def make_models(folder: Path, narrow: bool) -> list[Model]:
    """Return the shipped models, and what `widen` makes of them in `folder`; if `narrow` the least and the most."""
    models = []
    for name in SHIPPED:
        path = resolve_model(name)
        models.append(Model(name, 1, path))
        if name in LEAST_AND_MOST:
            wide = folder / f"{name}-{COCO_CLASSES}-classes.tflite"
            wide.write_bytes(widen(path.read_bytes(), COCO_CLASSES))
            models.append(Model(name, COCO_CLASSES, wide))
    return [models[0], models[-1]] if narrow else models


def write(run: Run, folder: Path) -> None:
    """Write all forms of a run."""
    run.write_json(folder / "results.json")
    write_csv(figures_of(run), folder / "results.csv")
    plots = plot(run, folder)
    (folder / "report.md").write_text(report_of(run, plots), encoding="utf-8")
    for target in targets_of(run):
        found = "" if target.found is None else f"{target.found:.3g}, "
        console.print(
            f"{target.verdict.strip('*')}: {target.name}: {found}wanted {target.wanted}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"report: {folder / 'report.md'}", highlight=False, soft_wrap=True)


def write_blank(board: str) -> None:
    """Write the lines of a board that nothing was measured on, which are those of the measured one.

    Raises:
        ConfigError: there is none yet, or this is it.
    """
    measured = REFERENCE / f"{MEASURED}.csv"
    if board == MEASURED or not measured.exists():
        raise ConfigError(f"--blank {board}: gives the lines of {measured.name} to another board; measure that first")
    write_csv(blank(read_csv(measured), board), REFERENCE / f"{board}.csv")


def command_line() -> str:
    """Return how the program was called, paths without their folders."""
    words = (Path(word).name if os.sep in word else word for word in sys.argv[1:])
    return shlex.join(["python", "tools/bench", *words])


def say(step: str) -> None:
    """Tell what is being done."""
    console.print(step, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgeDetectorError as error:
        console.print(f"bench: error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
