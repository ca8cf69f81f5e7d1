"""python tools/evaluate: COCO average precision of a .tflite file, or of PyTorch weights, through the runtime."""

from __future__ import annotations

import contextlib
import statistics
import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as `python tools/evaluate` from anywhere

import typer
from rich.console import Console
from rich.progress import track

from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, EdgeDetectorError
from edge_detector.frame import FrameResult
from edge_detector.loader import load_model
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.pictures import open_pictures
from tools.evaluate.annotations import Annotations, load_annotations, match_labels, read_frame
from tools.evaluate.report import Report, check_target
from tools.evaluate.score import MAX_DETECTIONS, score

console = Console(stderr=True)


def open_detector(
    model: Path | None, weights: Path | None, side: int | None, runtime: str, threads: int | None, threshold: float
) -> Detector:
    """Return the runtime's detector for a .tflite file or for PyTorch weights, with COCO's number of detections.

    Raises:
        ConfigError: not exactly one of the two is given, `side` with a .tflite file, or no multiple of 32.
    """
    if side is not None and side % 32:
        raise ConfigError(f"--side {side} is not a multiple of 32")
    if model is not None and weights is None:
        if side is not None:
            raise ConfigError("--side goes with --weights; the input size of a .tflite file is fixed")
        loaded = load_model(model, num_threads=threads, runtime=runtime)
        manifest, backend = loaded.manifest, loaded.backend
    elif weights is not None and model is None:
        from tools.evaluate.torch_backend import load_torch_model  # a .tflite file is scored without PyTorch

        manifest, backend = load_torch_model(weights, side, threads)
    else:
        raise ConfigError("give either --model FILE.tflite or --weights FILE.safetensors")
    nms = manifest.nms.model_copy(update={"max_detections": MAX_DETECTIONS})
    return Detector(manifest.model_copy(update={"nms": nms}), backend, threshold)


def detect_all(
    detector: Detector, annotations: Annotations, save: tuple[Path, int] | None
) -> tuple[dict[int, Detections], dict[str, float]]:
    """Return detections by image id and the median milliseconds per stage; the first pictures are saved annotated."""
    found: dict[int, Detections] = {}
    timings: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        folder, count = save or (Path(), 0)
        album = open_pictures(folder, OverlayRenderer(detector.manifest.labels), lossless=True) if count else None
        if album is not None:
            stack.callback(album.close)
        for picture in track(annotations.pictures, "scoring", console=console):
            frame = read_frame(picture)
            detections, timings_s = detector.detect_timed(frame)
            found[picture.image_id] = detections
            timings.append(timings_s | {"total": sum(timings_s.values())})
            if album is not None and len(found) <= count:
                shown = detections[detections.confidence >= detector.manifest.nms.score_threshold]
                album.publish(FrameResult(frame, shown, frame.captured_at))
    return found, {stage: 1000 * statistics.median(t[stage] for t in timings) for stage in timings[0]}


def main(
    annotations: Annotated[Path, typer.Option(help="COCO-format instances file.")],
    images: Annotated[Path, typer.Option(help="Folder of its pictures.")],
    model: Annotated[Path | None, typer.Option(help=".tflite file to score.")] = None,
    weights: Annotated[Path | None, typer.Option(help="weights.safetensors to score instead, in PyTorch.")] = None,
    side: Annotated[int | None, typer.Option(min=32, help="Input side for --weights, a multiple of 32.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file too.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, litert or tflite.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of one inference; default: as the runtime.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first so many pictures.")] = None,
    threshold: Annotated[float, typer.Option("--score", help="Least confidence of detections that count.")] = 0.01,
    save_pictures: Annotated[
        tuple[Path, int] | None, typer.Option(metavar="DIR N", help="Write the first N pictures, annotated, to DIR.")
    ] = None,
) -> None:
    """Print COCO's average precision per class, and the time per picture."""
    if json is not None:
        given = [path for path in (model, weights) if path is not None]
        check_target(json, [annotations, *given, *(path.with_suffix(".json") for path in given)])
    truth = load_annotations(annotations, images, limit)
    detector = open_detector(model, weights, side, runtime, threads, threshold)
    try:
        match = match_labels(detector.manifest.labels, truth)
        found, median_ms = detect_all(detector, truth, save_pictures)
    finally:
        detector.close()
    report = Report(
        model=detector.manifest.name,
        backend=detector.backend.name,
        input_wh=(detector.manifest.input.width, detector.manifest.input.height),
        pictures=len(found),
        threshold=threshold,
        median_ms=median_ms,
        match=match,
        score=score(truth, match, found),
    )
    Console().print(report.table())
    for line in report.notes():
        Console().print(line, highlight=False, soft_wrap=True)
    if json is not None:
        report.write(json)


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgeDetectorError as error:
        console.print(f"evaluate: error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
