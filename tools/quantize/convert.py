"""One conversion from source to file: read, export, calibrate, quantize, verify, and only then write."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

import edge_detector
from edge_detector.backends.tflite import default_threads
from edge_detector.errors import ConfigError, DelegateError, ModelError
from edge_detector.manifest import ModelManifest
from edge_detector.model_file import with_manifest
from edge_detector.preprocess.normalize import Normalizer, prepare
from tools.evaluate.annotations import load_annotations
from tools.quantize import verify
from tools.quantize.calibrate import choose_photos, collect, read_photos
from tools.quantize.edgetpu import edge_tpu_report
from tools.quantize.findings import Findings, LayerError, MixedStep, Parity, Scores
from tools.quantize.float_model import FloatModel
from tools.quantize.head import append_detection_op
from tools.quantize.layers import layer_errors
from tools.quantize.lookalike import warnings_about
from tools.quantize.mixed import mixed_steps
from tools.quantize.precision import Precision, activation_ranges, quantize
from tools.quantize.progress import StageProgress
from tools.quantize.ranges import RangeMethod
from tools.quantize.recipe import RECIPE_FILE, fingerprint, parity_figures, recipe_json, versions
from tools.quantize.sources import open_source
from tools.quantize.tflite_metadata import with_tflite_metadata

_RUNTIMES = ("litert", "tflite")
_SOURCE_PHOTOS = 3  # to compare with the source: a slow framework, and errors show on every photo
_LAYER_PHOTOS = 3

Photos = list[npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Options:
    """What the user asked for; the program explains each."""

    source: Path
    calibration: Path
    output: Path
    family: str = "auto"
    labels: Path | None = None
    pipeline_config: Path | None = None
    input_wh: tuple[int, int] | None = None
    input_changes: dict[str, str] = field(default_factory=dict)
    precision: Precision = Precision.INT8
    detection_op: bool = False
    ranges: RangeMethod = RangeMethod.MSE
    percentile: float = 99.99
    mixed: int = 0
    samples: int = 200
    held_out: int = 20
    score: float = 0.3
    annotations: Path | None = None
    images: Path | None = None
    verify_saved_model: bool = False
    limits: verify.Limits = field(default_factory=verify.Limits)
    command: str = ""


@dataclass(frozen=True)
class _Quantized:
    content: bytes
    layers: tuple[LayerError, ...] = ()
    mixed: tuple[MixedStep, ...] = ()


def convert(options: Options, progress: StageProgress) -> Findings:
    """Convert, and put the file in its place if it is fit; the result's `faults` say why if it is not.

    Raises:
        ConfigError: an option is wrong, or the file cannot be written.
        ModelError: the source or the photos are unusable.
        DelegateError: LiteRT does not work.
        SourceError: an annotated picture is missing.
    """
    for_calibration, for_verification = choose_photos(options.calibration, options.samples, options.held_out)
    temporary = options.output.with_name(f".new-{options.output.name}")
    with tempfile.TemporaryDirectory() as workdir:
        try:
            temporary.touch()
            return _convert(options, progress, for_calibration, for_verification, temporary, Path(workdir))
        except OSError as error:
            raise ConfigError(
                f"{options.output}: cannot be written: {error.strerror}; give another --output"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def _convert(
    options: Options,
    progress: StageProgress,
    for_calibration: Sequence[Path],
    for_verification: Sequence[Path],
    temporary: Path,
    workdir: Path,
) -> Findings:
    integer = options.precision in (Precision.INT8, Precision.INT16X8)
    with progress.stage("reading the source"):
        model = _read(options, workdir)
        photos = list(read_photos(for_verification))
    progress.say(f"{options.source.name}: {model.family}")
    if integer and model.int8_advice:
        raise ModelError(f"{options.source}: {model.int8_advice}")
    sources = tuple(
        verify.compare_with_source(
            model.content,
            model.manifest,
            progress.each(photos[:_SOURCE_PHOTOS], f"against {reference.name}"),
            reference,
        )
        for reference in model.references
    )
    warnings = warnings_about(read_photos(for_calibration)) if integer else ()
    for warning in warnings:
        progress.say(f"warning: {warning}")
    quantized = _quantize(model, options, for_calibration, photos, progress)
    manifest = _manifest(model.manifest, options, len(for_calibration))
    temporary.write_bytes(with_manifest(quantized.content, manifest))
    parities = _on_runtimes(temporary, model.content, photos, options, progress)
    scores = _scores(temporary, model.content, options, progress)
    faults: tuple[str, ...] = (
        *(fault for source in sources for fault in verify.source_faults(source, options.limits)),
        *(fault for parity in parities for fault in verify.faults(parity, options.limits)),
        *verify.score_faults(scores, options.limits),
    )
    recipe: dict[str, str | int | float] = {
        "command": options.command,
        "source": options.source.name,
        "source_sha256": manifest.weights_sha256 or "",
        "calibration_photos": len(for_calibration),
        "calibration_sha256": fingerprint(for_calibration),
        **versions(),
    }
    content = quantized.content
    if options.detection_op:
        content, described = append_detection_op(content, manifest)
        temporary.write_bytes(with_manifest(content, described))
        for runtime in _RUNTIMES[: len(parities)]:
            shown = progress.each(photos, f"verifying the operator on {runtime}")
            faults += tuple(
                verify.head_faults(
                    temporary, quantized.content, manifest, shown, runtime, options.score, options.limits
                )
            )
        manifest = described
    extra = {RECIPE_FILE: recipe_json(recipe, parity_figures(sources, parities, scores))}
    file = with_manifest(with_tflite_metadata(content, manifest), manifest, extra)
    if not faults:
        temporary.write_bytes(file)
        temporary.replace(options.output)
    edge_tpu = None
    if options.precision is Precision.INT8:
        edge_tpu = edge_tpu_report(file, None if faults else options.output)
    return Findings(
        name=manifest.name,
        source=options.source.name,
        family=model.family,
        notes=(*model.notes, *warnings),
        recipe=recipe,
        seconds=dict(progress.seconds),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        size_mb=len(file) / 1e6,
        float_size_mb=len(model.content) / 1e6,
        source_parities=sources,
        parities=parities,
        layers=quantized.layers,
        scores=scores,
        edge_tpu=edge_tpu,
        mixed=quantized.mixed,
        faults=faults,
        labels=manifest.labels,
        precision=options.precision.value,
        input_wh=(manifest.input.width, manifest.input.height),
        score=options.score,
    )


def _read(options: Options, workdir: Path) -> FloatModel:
    return open_source(
        options.source,
        options.output.stem,
        workdir,
        family=options.family,
        labels=options.labels,
        pipeline_config=options.pipeline_config,
        input_wh=options.input_wh,
        input_changes=options.input_changes,
        with_saved_model=options.verify_saved_model,
    )


def _quantize(
    model: FloatModel, options: Options, photo_files: Sequence[Path], photos: Photos, progress: StageProgress
) -> _Quantized:
    """Return the model in the wanted precision; `photos` are those to measure layers on."""
    if options.precision not in (Precision.INT8, Precision.INT16X8):
        return _Quantized(quantize(model.content, {}, options.precision))
    spec = model.manifest.input
    shown = progress.track(read_photos(photo_files), "calibrating", len(photo_files))
    histograms = collect(model.content, shown, spec, default_threads())
    with progress.stage("quantizing"):
        ranges = activation_ranges(
            histograms, spec, model.outputs, options.ranges, options.percentile, options.precision
        )
        content = quantize(model.content, ranges, options.precision)
    tensors = [prepare(photo, Normalizer(spec, None))[0] for photo in photos[:_LAYER_PHOTOS]]
    with progress.stage("finding the worst layers"):
        layers = layer_errors(model.content, content, tensors)
    if not options.mixed:
        return _Quantized(content, layers)
    with progress.stage("trying mixed precision"):
        content, steps = mixed_steps(model.content, ranges, layers, options.mixed, tensors)
    return _Quantized(content, layers, steps)


def _manifest(manifest: ModelManifest, options: Options, calibration_photos: int) -> ModelManifest:
    """Return the manifest with what it says about its origin; all the rest is in the recipe."""
    origin: dict[str, str | int | float] = {
        "tool": f"edge_detector tools/quantize {edge_detector.__version__}",
        "source": options.source.name,
        "precision": options.precision.value,
    }
    if options.precision in (Precision.INT8, Precision.INT16X8):
        origin |= {
            "calibration_photos": calibration_photos,
            "ranges": f"percentile {options.percentile:g}"
            if options.ranges is RangeMethod.PERCENTILE
            else options.ranges.value,
        }
    return manifest.model_copy(update={"weights_sha256": fingerprint([options.source]), "origin": origin})


def _on_runtimes(
    path: Path, float_model: bytes, photos: Photos, options: Options, progress: StageProgress
) -> tuple[Parity, ...]:
    """Compare the file at `path` with its float twin on every runtime that is installed; LiteRT has to be."""
    parities = []
    for runtime in _RUNTIMES:
        shown = progress.each(photos, f"verifying on {runtime}")
        try:
            parities.append(verify.compare(path, float_model, shown, runtime, options.score))
        except DelegateError:
            if runtime == "litert":
                raise
            progress.say(
                "tflite-runtime is not installed or does not work here, not verified on it: pip install '.[tflite]'"
            )
    return tuple(parities)


def _scores(path: Path, float_model: bytes, options: Options, progress: StageProgress) -> Scores | None:
    if options.annotations is None:
        return None
    from tools.quantize.accuracy import measure  # needs pycocotools

    annotations = load_annotations(options.annotations, options.images or options.annotations.parent / "images")
    return measure(path, float_model, annotations, progress.each)
