"""Times each stage of our own pipeline, per runtime, model, classes and threads, all in turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edge_detector.errors import ConfigError
from tools.bench.child import Child
from tools.bench.results import StageRow, Timing
from tools.environments import ensure, interpreter

RUNTIMES = ("litert", "tflite")
# What the extra `tflite` of setup.cfg says, and what the detector itself imports.
_TFLITE = ("tflite-runtime==2.14.0", "numpy<2", "opencv-python-headless<=4.11.0.86", "pydantic>=2.5", "PyYAML>=6.0")
_PER_CONFIGURATION = ("invoke", "decode + NMS", "detect")  # the others are the same with any number of threads

Say = Callable[[str], None]


@dataclass(frozen=True)
class Model:
    """A model file to be measured."""

    name: str
    classes: int
    path: Path


@dataclass(frozen=True)
class MemoryRow:
    """Megabytes of a process that has loaded a model and run it once.

    Attributes:
        runtime, model, classes, threads: as of `StageRow`.
        rss_mb: resident.
        peak_mb: most of it so far.
        model_mb: size of the model file.
    """

    runtime: str
    model: str
    classes: int
    threads: int
    rss_mb: float
    peak_mb: float
    model_mb: float


@dataclass(frozen=True)
class StageResults:
    """All that `measure_stages` finds; `missing` says which runtimes could not run, and why."""

    rows: tuple[StageRow, ...]
    memory: tuple[MemoryRow, ...]
    versions: Mapping[str, Mapping[str, str]]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class _Worker:
    """A process with one model under one runtime, and the times of its stages so far."""

    runtime: str
    model: Model
    threads: int
    child: Child
    times_s: dict[str, list[float]]

    def take_turn(self, budget_s: float) -> None:
        for stage, times in self.times_s.items():
            times += self.child.ask({"stage": stage, "budget_s": budget_s})["times_s"]

    def rows(self) -> list[StageRow]:
        title, classes = str(self.child.greeting["title"]).split(",")[0], self.model.classes
        return [
            StageRow(stage, title, self.model.name, classes, self.threads, Timing.of(times))
            for stage, times in self.times_s.items()
        ]

    def memory(self) -> MemoryRow:
        greeting, model = self.child.greeting, self.model
        title, megabytes = str(greeting["title"]).split(",")[0], model.path.stat().st_size / 1e6
        sizes = greeting["rss_mb"], greeting["peak_mb"], megabytes
        return MemoryRow(title, model.name, model.classes, self.threads, *sizes)


def measure_stages(
    models: Sequence[Model], venvs: Path, threads: Sequence[int], rounds: int, budget_s: float, say: Say
) -> StageResults:
    """Measure all models under all runtimes with each number of threads, in so many rounds.

    Every configuration has a process of its own; all live at once, one works at a time, and each round begins with the
    next of them. In a turn a stage repeats for `budget_s`. A runtime that does not work is left out.

    Raises:
        ConfigError: none works.
    """
    pythons, missing = _pythons(venvs)
    with ExitStack() as stack:
        workers: list[_Worker] = []
        for runtime, python in pythons.items():
            try:
                started = _start(stack, runtime, python, models, threads, say)
            except ConfigError as error:
                missing[runtime] = str(error)
            else:
                workers += started
        if not workers:
            raise ConfigError("; ".join(missing.values()))
        for number in range(rounds):
            for place in range(len(workers)):
                worker = workers[(place + number) % len(workers)]
                say(
                    f"stages: round {number + 1} of {rounds}, {place + 1} of {len(workers)}: {worker.runtime}, "
                    f"{worker.model.name}, {worker.model.classes} classes, {worker.threads} threads"
                )
                worker.take_turn(budget_s)
        return StageResults(
            rows=tuple(row for worker in workers for row in worker.rows()),
            memory=tuple(worker.memory() for worker in workers),
            versions={worker.runtime: worker.child.greeting["versions"] for worker in workers},
            missing=missing,
        )


def _start(
    stack: ExitStack, runtime: str, python: Path, models: Sequence[Model], threads: Sequence[int], say: Say
) -> list[_Worker]:
    """Start a process for each model and number of threads; `stack` ends them."""
    workers = []
    for model in models:
        for count in threads:
            say(f"stages: loading {model.name}, {model.classes} classes, {runtime}, {count} threads")
            arguments = [str(model.path), "--runtime", runtime, "--threads", str(count)]
            child = stack.enter_context(Child(python, "tools.bench.stage_worker", arguments))
            stages = child.greeting["stages"] if count == max(threads) else _PER_CONFIGURATION
            workers.append(_Worker(runtime, model, count, child, {stage: [] for stage in stages}))
    return workers


def _pythons(venvs: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the interpreter of each runtime, and of those that cannot be installed the reason."""
    pythons, missing = {"litert": Path(sys.executable)}, {}
    try:
        ensure(venvs / "tflite", _TFLITE)
        pythons["tflite"] = interpreter(venvs / "tflite")
    except ConfigError as error:
        missing["tflite"] = str(error)
    return pythons, missing
