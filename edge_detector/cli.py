"""The command line: the only place that prints and exits."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from edge_detector import __version__
from edge_detector.errors import EdgeDetectorError, SourceError

if TYPE_CHECKING:
    from rich.progress import Progress

    from edge_detector.config import Config

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE

app = typer.Typer(
    help="Finds people in pictures, video and live cameras, on small computers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(stderr=True)
logger = logging.getLogger(__name__)

Model = Annotated[str | None, typer.Option(metavar="NAME|PATH", help="A shipped model's name, or a .tflite file.")]
Labels = Annotated[str | None, typer.Option(metavar="FILE", help="Class names, instead of those in the model.")]
Threshold = Annotated[float | None, typer.Option(help="Drop detections below this confidence, 0 to 1.")]
Threads = Annotated[int | None, typer.Option(help="Threads of the interpreter.")]
Runtime = Annotated[str | None, typer.Option(help="auto, litert or tflite.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"edge-detector {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more; show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Finds people in pictures, video and live cameras, on small computers."""
    handler = _ConsoleHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])


@app.command()
def run(
    source: Annotated[str | None, typer.Option(help="auto, demo, a device, rtsp://..., a file or folder.")] = None,
    model: Model = None,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address of the live page.")] = None,
    duration: Annotated[float | None, typer.Option(min=0, metavar="S", help="Stop after so many seconds.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file; options given here win over it.")] = None,
    labels: Labels = None,
    threshold: Threshold = None,
    threads: Threads = None,
    runtime: Runtime = None,
    jsonl: Annotated[str | None, typer.Option(metavar="FILE|-", help="Append detections as lines of JSON.")] = None,
    video: Annotated[str | None, typer.Option(metavar="FILE", help="Write an annotated video.")] = None,
) -> None:
    """Watch a camera, a stream or a file, and show it live in the browser."""
    from edge_detector.runtime.service import run_service

    given = {"source": source, "http": http, "output": {"jsonl": jsonl, "video": video}}
    settings = _settings(config, {**given, "model": _model(model, labels, threshold, threads, runtime)})
    stats = run_service(settings, _stop_on_signals(), duration, _say)
    _say(f"stopped: {stats.captured} pictures taken, {stats.inferred} searched, {stats.dropped} left out")


@app.command()
def detect(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Pictures, folders and video files.")],
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for annotated copies.")] = None,
    jsonl: Annotated[str | None, typer.Option(metavar="FILE|-", help="Detections as lines of JSON.")] = None,
    model: Model = None,
    labels: Labels = None,
    threshold: Threshold = None,
    threads: Threads = None,
    runtime: Runtime = None,
) -> None:
    """Find objects in pictures and videos; without --output and --jsonl, annotate into ./detections."""
    from contextlib import closing

    from edge_detector.runtime.batch import Batch
    from edge_detector.runtime.service import open_detector

    if output is None and jsonl is None:
        output = Path("detections")
    settings = _settings(None, {"model": _model(model, labels, threshold, threads, runtime)})
    interrupted = _stop_on_signals()
    with closing(open_detector(settings.model)) as detector, _progress() as progress:
        bar = progress.add_task("detecting", total=len(inputs))
        batch = Batch(
            detector, output, jsonl, interrupted, lambda done, total: progress.update(bar, completed=done, total=total)
        )
        report = batch.run(inputs)
    _say(f"{report.frames} pictures searched" + (f"; annotated copies are in {output}" if output else ""))
    if interrupted.is_set():
        raise typer.Exit(INTERRUPTED)
    if report.failed:
        raise SourceError(f"{report.failed} could not be read to the end (see above); all others are done")


@app.command()
def models() -> None:
    """List the models that are shipped."""
    from rich.table import Table

    from edge_detector.config import DEFAULT_MODEL
    from edge_detector.loader import load_manifest
    from edge_detector.model_file import read_manifest, read_model_file
    from edge_detector.registry import list_models

    table = Table("name", "input", "classes", "MB", "manifest", "default", box=None)
    for name, path in list_models().items():
        manifest = load_manifest(path)
        labels = manifest.labels[0] if len(manifest.labels) == 1 else str(len(manifest.labels))
        size = f"{path.stat().st_size / 1e6:.1f}"
        carried = read_manifest(read_model_file(path), path.name) is not None
        table.add_row(
            name,
            f"{manifest.input.width}x{manifest.input.height}",
            labels,
            size,
            "in the file" if carried else "by rules",
            "*" if name == DEFAULT_MODEL else "",
        )
    # A pipe or file gets whole names, whatever the width of the terminal.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def bench(
    model: Model = None,
    labels: Labels = None,
    runtime: Runtime = None,
    threads: Threads = None,
    frames: Annotated[int, typer.Option(min=2, help="Pictures of the demo clip to time each stage on.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Time each stage, and the running service against inference alone."""
    from contextlib import closing

    from edge_detector.runtime.bench import measure
    from edge_detector.runtime.service import open_detector

    settings = _settings(None, {"model": _model(model, labels, None, threads, runtime)})
    with closing(open_detector(settings.model)) as detector, _progress() as progress:
        bar = progress.add_task("measuring", total=None)
        report = measure(detector, frames, lambda done, total: progress.update(bar, completed=done, total=total))
    print(json.dumps(report.to_json()) if as_json else report.to_text())


def main() -> None:
    """Run the command; every error of this package becomes one line and its exit code."""
    try:
        app()
    except EdgeDetectorError as error:
        logger.debug("", exc_info=error)
        if isinstance(error.__cause__, BrokenPipeError):
            sys.exit(BROKEN_PIPE)
        print(f"edge-detector: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)


class _ConsoleHandler(logging.Handler):
    """Logs above the progress bar, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(self.format(record))


def _say(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _model(
    path: str | None, labels: str | None, threshold: float | None, threads: int | None, runtime: str | None
) -> dict[str, Any]:
    return {
        "path": path,
        "labelmap_path": labels,
        "score_threshold": threshold,
        "num_threads": threads,
        "runtime": runtime,
    }


def _settings(path: Path | None, given: dict[str, Any]) -> Config:
    """Return the settings of a file, or the defaults, with the options that were given in their place."""
    from edge_detector.config import Config, load_config, parse_config

    merged = (Config() if path is None else load_config(path)).model_dump()
    for key, value in given.items():
        if isinstance(value, dict):
            merged[key] |= {name: option for name, option in value.items() if option is not None}
        elif value is not None:
            merged[key] = value
    return parse_config(merged, "command line")


def _stop_on_signals() -> threading.Event:
    """Return an event that Ctrl-C or SIGTERM sets; a second signal ends the program at once."""
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def _progress() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.1f} fps")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)
