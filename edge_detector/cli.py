"""The command line: the only place that prints and exits."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from edge_detector import __version__, logs
from edge_detector.errors import ConfigFileError, EdgeDetectorError, SourceError
from edge_detector.signals import event_on, stop_on_signals

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from edge_detector.config import Config

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
SETTINGS = Path("/etc/edge-detector/edge-detector.yaml")
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
Device = Annotated[str | None, typer.Option(help="auto, cpu, edgetpu, edgetpu:usb:0 or edgetpu:pci:0.")]


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
    logs.set_up(logging.DEBUG if verbose else logging.INFO, handler)


@app.command()
def run(
    source: Annotated[str | None, typer.Option(help="auto, demo, a device, rtsp://..., a file or folder.")] = None,
    model: Model = None,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address of the live page.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Open the page to everybody on the network.")] = False,
    duration: Annotated[float | None, typer.Option(min=0, metavar="S", help="Stop after so many seconds.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file; options given here win over it.")] = None,
    labels: Labels = None,
    threshold: Threshold = None,
    threads: Threads = None,
    runtime: Runtime = None,
    device: Device = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Picture size to ask the camera for.")] = None,
    fps: Annotated[float | None, typer.Option(help="Pictures per second to ask the camera for.")] = None,
    detect_fps: Annotated[float | None, typer.Option(help="At most so many inferences per second.")] = None,
    jsonl: Annotated[str | None, typer.Option(metavar="FILE|-", help="Append detections as lines of JSON.")] = None,
    video: Annotated[str | None, typer.Option(metavar="FILE", help="Write an annotated video.")] = None,
) -> None:
    """Watch cameras, a stream or a file, and show them live in the browser."""
    from edge_detector.runtime.reload import Reload
    from edge_detector.runtime.service import run_service

    given: dict[str, Any] = {"http": http, "output": {"jsonl": jsonl, "video": video}}
    given["web"] = {"insecure": True if insecure else None}
    given["camera"] = {"source": source, "size": size, "fps": fps, "detect_fps": detect_fps}
    given["model"] = _model(model, labels, threshold, threads, runtime, device)
    settings = _settings(config, given)
    reload = None
    at_terminal = sys.stdin is not None and sys.stdin.isatty()  # where that is closed, its programs end
    if config is not None and not at_terminal:
        reload = Reload(event_on(signal.SIGHUP), lambda: _settings(config, given))
    # What was named by hand must be there, a service waits for it; where nothing was, there is something to see.
    by_hand = config is None or source is not None
    fallback = "demo" if config is None and source is None else None
    stop = stop_on_signals()
    stats = run_service(settings, stop, duration, _say, required=by_hand, fallback=fallback, reload=reload)
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
    device: Device = None,
) -> None:
    """Find objects in pictures and videos; without --output and --jsonl, annotate into ./detections."""
    from contextlib import closing

    from edge_detector.runtime.batch import Batch
    from edge_detector.runtime.service import open_detector

    if output is None and jsonl is None:
        output = Path("detections")
    settings = _settings(None, {"model": _model(model, labels, threshold, threads, runtime, device)})
    interrupted = stop_on_signals()
    with closing(open_detector(settings.model, interrupted)) as detector, _progress() as progress:
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
def password() -> None:
    """Make the entry of a user for web.users in the settings, from a password that is asked for."""
    from edge_detector.passwords import hash_password

    if sys.stdin.isatty():
        given = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        given = sys.stdin.buffer.readline().decode(errors="replace").rstrip("\r\n")
    if not given or "\ufffd" in given:
        raise typer.BadParameter("give a password in UTF-8")
    print(f'"{hash_password(given)}"')


@app.command()
def check(
    config: Annotated[Path, typer.Argument(metavar="FILE", help="Settings.")] = SETTINGS,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of all settings instead.")] = False,
) -> None:
    """Check a file of settings, and say all that is wrong with it, with line numbers."""
    from edge_detector.config import Config
    from edge_detector.runtime.check import check_file

    if schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
        return
    if not logger.isEnabledFor(logging.DEBUG):
        logging.disable(logging.INFO)  # what the model says about itself
    try:
        summary, unchecked = check_file(config)
    except ConfigFileError as error:
        print("\n".join(error.lines), file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    for line in unchecked:
        print(line, file=sys.stderr)
    print(summary)


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
    device: Device = None,
    threads: Annotated[str | None, typer.Option(metavar="N[,N...]", help="Threads; several are compared.")] = None,
    frames: Annotated[int, typer.Option(min=2, help="Pictures of the demo clip to time each stage on.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Time each stage, and the running service against inference alone."""
    from contextlib import closing

    from edge_detector.runtime.bench import measure
    from edge_detector.runtime.service import open_detector

    reports = []
    with _progress() as progress:
        for number in _numbers(threads):
            settings = _settings(None, {"model": _model(model, labels, None, number, runtime, device)})
            bar = progress.add_task("measuring" if number is None else f"{number} threads", total=None)
            with closing(open_detector(settings.model)) as detector:
                on_progress = partial(_show_progress, progress, bar)
                reports.append(measure(detector, frames, on_progress))
    if as_json:
        print(json.dumps(reports[0].to_json() if len(reports) == 1 else [report.to_json() for report in reports]))
    else:
        print("\n\n".join(report.to_text() for report in reports))


def _numbers(text: str | None) -> list[int | None]:
    try:
        return [None] if text is None else [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: give numbers, such as 4 or 1,2,4", param_hint="--threads") from error


def _show_progress(progress: Progress, bar: TaskID, done: int, total: int) -> None:
    progress.update(bar, completed=done, total=total)


@app.command()
def cameras() -> None:
    """List the cameras that are connected, with the sizes and rates that they offer."""
    from edge_detector.sources.auto import list_cameras

    found = list_cameras()
    for camera in found:
        print(f"{camera.uri}  {camera.title}" + (f"  ({camera.problem})" if camera.problem else ""))
        for mode in camera.modes:
            print(f"    {mode}")
    if not found:
        _say("no camera found; a CSI camera needs python3-picamera2, a USB camera shows as /dev/videoN")


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option(help="YAML file; else the one of the service in /etc.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at all that can be wrong with this machine, and say how to put it right.

    The exit code is 1 if there are errors; warnings do not count.
    """
    from edge_detector.doctor.diagnosis import diagnose
    from edge_detector.doctor.report import Report

    report, output = Report(diagnose(config)), Console(soft_wrap=True, highlight=False)
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        for line in report.lines(output.width):
            output.print(line)
    raise typer.Exit(report.exit_code)


def main() -> None:
    """Run the command; every error of this package becomes one line and its exit code."""
    try:
        app()
    except EdgeDetectorError as error:
        logger.debug("", exc_info=error)
        if isinstance(error.__cause__, BrokenPipeError):
            _exit(BROKEN_PIPE)
        if logs.is_journal():
            for line in error.lines if isinstance(error, ConfigFileError) else [str(error)]:
                logger.error("%s", " ".join(line.split()))
        else:
            print(f"edge-detector: error: {' '.join(str(error).split())}", file=sys.stderr)
        _exit(error.exit_code)
    except SystemExit as end:
        _exit(end.code)
    except Exception:  # noqa: BLE001 - it is told, and nothing goes on
        with suppress(OSError):
            traceback.print_exc()
        _exit(1, at_once=True)


def _exit(code: str | int | None, *, at_once: bool = False) -> NoReturn:
    """End the program, at once if a thread hangs in a call: Python would wait for its libraries' clean-up."""
    from edge_detector.abandoned import count_abandoned

    if at_once or count_abandoned():
        logging.shutdown()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)
    sys.exit(code)


class _ConsoleHandler(logging.Handler):
    """Logs above the progress bar, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        _print(self.format(record))


def _say(line: str) -> None:
    if logs.is_journal():
        logger.info("%s", line)
    else:
        _print(line)


def _print(line: str) -> None:
    """Print a line on standard error; that nobody takes it, or its disk is full, must not end a service."""
    with suppress(OSError):
        console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _model(
    path: str | None,
    labels: str | None,
    threshold: float | None,
    threads: int | None,
    runtime: str | None,
    device: str | None,
) -> dict[str, Any]:
    return {
        "path": path,
        "labelmap_path": labels,
        "score_threshold": threshold,
        "num_threads": threads,
        "runtime": runtime,
        "device": device,
    }


def _settings(path: Path | None, given: dict[str, Any]) -> Config:
    from edge_detector.config_options import with_options

    return with_options(path, given)


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
