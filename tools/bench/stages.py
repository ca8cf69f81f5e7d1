"""Times each stage of our own pipeline, per runtime, model, classes and threads, all in turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from edge_detector.errors import ConfigError
from tools.bench.child import Child
from tools.bench.results import StageRow, Timing
from tools.environments import ensure, interpreter

RUNTIMES = ("litert", "tflite")
# What the extra `tflite` of setup.cfg says, and what the detector itself imports.
_TFLITE = ("tflite-runtime==2.14.0", "numpy<2", "opencv-python-headless<=4.11.0.86", "pydantic>=2.5", "PyYAML>=6.0")
_ON_ALL_THREADS = ("invoke", "detect")
QUIET = 0.95
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
    """All that `measure_stages` finds.

    Attributes:
        rows, memory: the figures.
        processor: share of the time of stages on one thread in which it had a processor, 0..1; see `quiet`.
        versions: of Python and packages, by runtime.
        missing: runtimes that could not run, and why.
    """

    rows: tuple[StageRow, ...]
    memory: tuple[MemoryRow, ...]
    processor: float
    versions: Mapping[str, Mapping[str, str]]
    missing: Mapping[str, str]

    @property
    def quiet(self) -> bool:
        """Whether others left the processors alone; else times, and ratios of long and short ones, say little."""
        return self.processor >= QUIET


@dataclass(frozen=True)
class _Worker:
    """A process with one model under one runtime, and the times of its stages so far."""

    runtime: str
    model: Model
    threads: int
    child: Child
    times_s: dict[str, list[float]]
    busy_s: list[tuple[float, float]] = field(default_factory=list)  # of one thread: processor's and all seconds

    def take_turn(self, budget_s: float) -> None:
        for stage, times in self.times_s.items():
            answer = self.child.ask({"stage": stage, "budget_s": budget_s})
            times += answer["times_s"]
            if stage not in _ON_ALL_THREADS:
                self.busy_s.append((answer["cpu_s"], sum(answer["times_s"])))

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
            processor=_share([busy_s for worker in workers for busy_s in worker.busy_s]),
            versions={worker.runtime: worker.child.greeting["versions"] for worker in workers},
            missing=missing,
        )


def _share(busy_s: Sequence[tuple[float, float]]) -> float:
    cpu_s, all_s = (sum(column) for column in zip(*busy_s, strict=True))
    return min(1.0, cpu_s / all_s)


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
