"""python tools/quantize: any SSD-ResNet50-FPN -> verified .tflite with its manifest inside."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow reports its own start-up
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as `python tools/quantize` from anywhere

import typer
from rich.console import Console

from edge_detector.errors import ConfigError, EdgeDetectorError, ModelError
from tools.quantize.convert import Options, convert
from tools.quantize.findings import Findings
from tools.quantize.precision import Precision
from tools.quantize.progress import StageProgress
from tools.quantize.ranges import RangeMethod
from tools.quantize.report import console_summary, write_report
from tools.quantize.sources import FAMILIES
from tools.quantize.verify import Limits

console = Console(stderr=True)

Family = Enum("Family", {name: name for name in ("auto", *FAMILIES)}, type=str)  # type: ignore[misc] # built from a table


class Head(str, Enum):
    """What the model puts out."""

    RAW = "raw"
    POSTPROCESS_OP = "postprocess-op"


class Resize(str, Enum):
    """How a picture gets onto the canvas."""

    SOURCE = "source"
    LETTERBOX = "letterbox"
    STRETCH = "stretch"


class Interpolation(str, Enum):
    """How pixels are resampled."""

    SOURCE = "source"
    BILINEAR = "bilinear"
    BILINEAR_LEGACY = "bilinear_legacy"


def main(
    source: Annotated[
        Path, typer.Argument(help="Checkpoint, archive, folder, SavedModel or float .tflite, as downloaded or trained.")
    ],
    calibration: Annotated[Path, typer.Option(help="Folder of photos like those that the camera will see.")],
    output: Annotated[Path, typer.Option(help="The .tflite file to write; its report goes beside it.")],
    family: Annotated[Family, typer.Option("--from", help="What the source is.")] = Family.auto,  # type: ignore[attr-defined]
    labels: Annotated[Path | None, typer.Option(help="Label file, in place of the source's.")] = None,
    pipeline_config: Annotated[
        Path | None, typer.Option(help="Of an Object Detection API checkpoint, if it does not lie beside it.")
    ] = None,
    input_size: Annotated[
        str | None, typer.Option(help="SIDE or WIDTHxHEIGHT, multiples of 32; default: as trained.")
    ] = None,
    resize: Annotated[Resize, typer.Option(help="How pictures get onto the canvas.")] = Resize.SOURCE,
    interpolation: Annotated[
        Interpolation, typer.Option(help="bilinear_legacy is what the TF Object Detection API scores with.")
    ] = Interpolation.SOURCE,
    precision: Annotated[Precision, typer.Option(help="Number format of the written model.")] = Precision.INT8,
    head: Annotated[
        Head, typer.Option(help="raw for this runtime; postprocess-op ends in TFLite_Detection_PostProcess for others.")
    ] = Head.RAW,
    samples: Annotated[int, typer.Option(min=1, help="Photos to calibrate on, at most.")] = 200,
    held_out: Annotated[int, typer.Option(min=1, help="Other photos to verify on.")] = 20,
    ranges: Annotated[RangeMethod, typer.Option(help="How activation ranges are chosen.")] = RangeMethod.MSE,
    percentile: Annotated[float, typer.Option(min=50, max=100, help="For --ranges percentile.")] = 99.99,
    mixed: Annotated[int, typer.Option(min=0, help="Keep so many of the worst layers out of int8.")] = 0,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO-format instances file, to compare AP with float too.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of its pictures; default: images/ beside it.")] = None,
    verify_saved_model: Annotated[
        bool, typer.Option("--verify-saved-model", help="Compare with the saved_model in a zoo archive, too.")
    ] = False,
    score: Annotated[float, typer.Option(min=0.01, max=1, help="Confidence of detections to be confirmed.")] = 0.3,
    max_source_error: Annotated[
        float, typer.Option(help="Greatest difference of float .tflite and source, as a share of an output's spread.")
    ] = Limits.source_error,
    min_cosine: Annotated[float, typer.Option(help="Least agreement of every output with float.")] = Limits.cosine,
    min_confirmed: Annotated[
        float, typer.Option(help="Least share of the float model's detections that are found.")
    ] = Limits.confirmed,
    max_invented: Annotated[
        float, typer.Option(help="Greatest share of detections that the float model does not have.")
    ] = Limits.invented,
    max_ap_loss: Annotated[
        float, typer.Option(help="Greatest loss of AP in points, with --annotations.")
    ] = Limits.ap_loss,
    report: Annotated[
        Path | None, typer.Option(help="Folder for the report, written even if the model is refused.")
    ] = None,
) -> None:
    """Convert, compare with source and float on photos that calibration has not seen, write the file if it is fit."""
    if output.suffix != ".tflite":
        raise ConfigError(f"--output {output}: must end in .tflite")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: no such folder; make it first")
    if output.resolve() == source.resolve():
        raise ConfigError(f"--output {output}: is the source itself; give another name")
    if mixed and precision is not Precision.INT8:
        raise ConfigError("--mixed keeps layers out of int8: leave out --precision")
    changes = {"resize": resize.value, "interpolation": interpolation.value}
    options = Options(
        source=source,
        calibration=calibration,
        output=output,
        family=family.value,
        labels=labels,
        pipeline_config=pipeline_config,
        input_wh=None if input_size is None else parse_size(input_size),
        input_changes={name: value for name, value in changes.items() if value != "source"},
        precision=precision,
        detection_op=head is Head.POSTPROCESS_OP,
        ranges=ranges,
        percentile=percentile,
        mixed=mixed,
        samples=samples,
        held_out=held_out,
        score=score,
        annotations=annotations,
        images=images,
        verify_saved_model=verify_saved_model,
        limits=Limits(
            source_error=max_source_error,
            cosine=min_cosine,
            confirmed=min_confirmed,
            invented=max_invented,
            ap_loss=max_ap_loss,
        ),
        command=command_line(),
    )
    try:
        with StageProgress(console) as progress:
            findings = convert(options, progress)
    except KeyboardInterrupt:
        console.print("quantize: stopped, nothing is written")
        raise typer.Exit(130) from None
    finish(findings, options, report)


def finish(findings: Findings, options: Options, report: Path | None) -> None:
    """Print and write what was found.

    Raises:
        ModelError: the model was refused.
    """
    for shown in console_summary(findings):
        console.print(shown)
    folder = report or options.output.with_suffix(".report")
    if not findings.faults or report is not None:
        write_report(findings, folder)
        console.print(f"report: {folder / 'report.md'}", highlight=False, soft_wrap=True)
    if findings.faults:
        raise ModelError(f"{options.output}: parity is poor, nothing is written: {'; '.join(findings.faults)}")
    console.print(f"written: {options.output}, {findings.size_mb:.1f} MB", highlight=False, soft_wrap=True)


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) in pixels from SIDE or WIDTHxHEIGHT.

    Raises:
        ConfigError: it is neither, or no multiple of 32.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(side and side % 32 == 0 for side in size):
        raise ConfigError(f"--input-size {text} is not SIDE or WIDTHxHEIGHT in multiples of 32, such as 640 or 640x384")
    return size


def command_line() -> str:
    """Return how the program was called, paths without their folders."""
    words = (Path(word).name if os.sep in word else word for word in sys.argv[1:])
    return shlex.join(["python", "tools/quantize", *words])


def silence_native_libraries() -> None:
    """Keep what TensorFlow and LiteRT write past Python, pages of start-up remarks, away from the terminal."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    silence_native_libraries()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of stopping clean up
    try:
        typer.run(main)
    except EdgeDetectorError as error:
        console.print(f"quantize: error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
