"""python tools/quantize: weights -> verified .tflite with its manifest inside."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow reports its own start-up
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as `python tools/quantize` from anywhere

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge_detector.backends.tflite import default_threads
from edge_detector.errors import ConfigError, DelegateError, EdgeDetectorError, ModelError
from edge_detector.model_file import with_manifest
from tools.network.architecture import Architecture
from tools.network.manifest import input_spec
from tools.network.weights import load_weights, sha256_of
from tools.quantize.calibrate import choose_photos, collect, read_photos
from tools.quantize.export import describe, export_float
from tools.quantize.flatbuffer import activations
from tools.quantize.int8 import activation_ranges, quantize
from tools.quantize.ranges import RangeMethod
from tools.quantize.verify import Limits, Parity, compare

console = Console(stderr=True)


class Precision(str, Enum):
    """Number format of the written model."""

    INT8 = "int8"
    FLOAT32 = "float32"


def calibrated(
    float_model: bytes, arch: Architecture, photos: list[Path], method: RangeMethod, percentile: float
) -> bytes:
    """Return the int8 twin of a float model, calibrated on photos."""
    shown = track(read_photos(photos), "calibrating", len(photos), console=console)
    histograms = collect(float_model, shown, input_spec(arch), default_threads())
    names = list(activations(float_model).values())
    outputs = tuple(name for name in names if name.startswith(("class_logits_p", "box_encodings_p")))
    with console.status("quantizing"):
        return quantize(float_model, activation_ranges(histograms, names[0], outputs, method, percentile))


def verified(path: Path, float_model: bytes, photos: list[npt.NDArray[np.uint8]], limits: Limits) -> None:
    """Compare the file at `path` with its float twin on every runtime that is installed, and print the tables.

    Raises:
        ModelError: parity is poor.
    """
    faults = []
    for runtime in ("litert", "tflite"):
        shown = track(photos, f"verifying on {runtime}", console=console)
        try:
            parity = compare(path, float_model, shown, runtime)
        except DelegateError:
            if runtime == "litert":
                raise
            console.print("tflite-runtime is not installed here or does not work: not verified on it")
            continue
        console.print(parity_table(parity, len(photos)))
        faults += parity.faults(limits)
    if faults:
        raise ModelError(f"parity is poor, nothing is written: {'; '.join(faults)}")


def parity_table(parity: Parity, photos: int) -> Table:
    """Return the figures as a table."""
    table = Table(
        "output", "cosine", "greatest error", "step", title=f"{parity.runtime} against float, {photos} photos"
    )
    for output in parity.outputs:
        table.add_row(output.name, f"{output.cosine:.4f}", f"{output.max_error:.3f}", f"{output.step:.4f}")
    table.add_section()
    table.add_row("detections confirmed", f"{parity.confirmed} of {parity.wanted}")
    table.add_row("detections invented", f"{parity.invented} of {parity.found}")
    table.add_row("scores", f"{parity.lowest:.3f} to {parity.highest:.3f}")
    return table


def main(
    weights: Annotated[Path, typer.Argument(help="weights.safetensors, as tools/train writes it.")],
    calibration: Annotated[Path, typer.Option(help="Folder of photos like those that the camera will see.")],
    output: Annotated[Path, typer.Option(help="The .tflite file to write.")],
    input_size: Annotated[
        int | None, typer.Option(min=32, help="Input side, a multiple of 32; default: as trained.")
    ] = None,
    precision: Annotated[Precision, typer.Option()] = Precision.INT8,
    samples: Annotated[int, typer.Option(min=100, help="Photos to calibrate on, at most.")] = 200,
    held_out: Annotated[int, typer.Option(min=1, help="Other photos to verify on.")] = 20,
    ranges: Annotated[RangeMethod, typer.Option(help="How activation ranges are chosen.")] = RangeMethod.MSE,
    percentile: Annotated[float, typer.Option(min=50, max=100, help="For --ranges percentile.")] = 99.99,
    min_cosine: Annotated[float, typer.Option(help="Least agreement of every output with float.")] = Limits.cosine,
    min_confirmed: Annotated[
        float, typer.Option(help="Least share of the float model's detections that are found.")
    ] = Limits.confirmed,
    max_invented: Annotated[
        float, typer.Option(help="Greatest share of detections that the float model does not have.")
    ] = Limits.invented,
) -> None:
    """Convert, compare with float on photos that calibration has not seen, and write the file if it is fit."""
    if output.suffix != ".tflite":
        raise ConfigError(f"--output {output}: must end in .tflite")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: no such folder; make it first")
    if input_size is not None and input_size % 32:
        raise ConfigError(f"--input-size {input_size} is not a multiple of 32")
    started = time.monotonic()
    arch, tensors, labels = load_weights(weights)
    arch = dataclasses.replace(arch, input_side=input_size or arch.input_side)
    for_calibration, for_verification = choose_photos(calibration, samples, held_out)
    origin: dict[str, str | int | float] = {"precision": precision.value}
    if precision is Precision.INT8:
        origin |= {
            "quantizer": f"litert-quantizer {version('litert-quantizer')}",
            "calibration_photos": len(for_calibration),
            "ranges": ranges.value if ranges is not RangeMethod.PERCENTILE else f"percentile {percentile:g}",
        }
    manifest = describe(output.stem, arch, labels, sha256_of(weights), origin)
    with console.status("exporting to TensorFlow Lite"):
        float_model = export_float(arch, tensors)
    content = float_model
    if precision is Precision.INT8:
        content = calibrated(float_model, arch, for_calibration, ranges, percentile)
    temporary = output.with_name(f".new-{output.name}")
    try:
        temporary.write_bytes(with_manifest(content, manifest))
        limits = Limits(min_cosine, min_confirmed, max_invented)
        verified(temporary, float_model, list(read_photos(for_verification)), limits)
        temporary.replace(output)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written: {error.strerror}; give another --output") from error
    finally:
        temporary.unlink(missing_ok=True)
    size = output.stat().st_size / 1e6
    console.print(
        f"written: {output}, {size:.1f} MB (float {len(float_model) / 1e6:.1f} MB), {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        typer.run(main)
    except EdgeDetectorError as error:
        console.print(f"quantize: error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
