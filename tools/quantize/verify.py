"""Verification: the float .tflite against its source, and the finished file against the float .tflite."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import ModelError
from edge_detector.frame import Frame
from edge_detector.loader import load_manifest
from edge_detector.manifest import ModelManifest, SsdRawOutputs
from edge_detector.postprocess.boxes import pairwise_iou
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.quantization import QuantizedTensor
from tools.quantize.findings import OutputParity, Parity, Sample, Scores, SourceParity
from tools.quantize.float_model import SourceReference
from tools.quantize.isolated import IsolatedBackend

_MARGIN = 0.1  # by which the score of a confirming detection may lie below
_IOU = 0.5
_BINS = 80
_NEGLIGIBLE = 0.02  # error as a share of an output's greatest value
_MAX_DETECTIONS = 1000  # where a list ends must not decide whether a detection is confirmed
_SAMPLES = 4


@dataclass(frozen=True)
class Limits:
    """What a model must reach.

    Attributes:
        source_error: greatest difference of the float .tflite from its source, as a share of the output's spread.
        cosine: least, of every output.
        confirmed: least share of the float twin's detections that the model finds too.
        invented: greatest share of the model's detections that the float twin does not have.
        score_range: least difference between its lowest and its highest score.
        ap_loss: greatest loss of COCO AP in points, where annotations are given.
    """

    source_error: float = 0.01
    cosine: float = 0.95
    confirmed: float = 0.9
    invented: float = 0.1
    score_range: float = 0.01
    ap_loss: float = 2.0


class OutputSums:
    """Sums over one output of all photos, per channel."""

    def __init__(self, name: str, step: float, low: float, high: float, channels: int) -> None:
        self.name = name
        self.step = step
        self.edges = np.linspace(low, high, _BINS + 1)
        self.counts = np.zeros((2, _BINS), np.int64)
        self.max_error = self.greatest = 0.0
        self._cells = 0
        self._sums = np.zeros((5, channels))

    def add(self, wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> None:
        """Take the output (..., C) for one photo into account."""
        a, b = (values.reshape(-1, values.shape[-1]).astype(np.float64) for values in (wanted, got))
        self.max_error = max(self.max_error, float(np.abs(a - b).max()))
        self.greatest = max(self.greatest, float(np.abs(a).max()))
        self._sums += [a.sum(0), b.sum(0), (a * a).sum(0), (b * b).sum(0), (a * b).sum(0)]
        self._cells += len(a)
        for counts, values in zip(self.counts, (a, b), strict=True):
            counts += np.histogram(np.clip(values, self.edges[0], self.edges[-1]), self.edges)[0]

    def parity(self) -> OutputParity:
        """Return what was found; a channel that varies by less than a step cannot be the worst."""
        means = self._sums / self._cells
        channels = np.where(means[2] - means[0] ** 2 > self.step**2, _cosine(means), 1.0)
        worst = int(channels.argmin())
        together = _cosine(means.mean(1, keepdims=True))
        return OutputParity(
            self.name,
            self.step,
            float(together[0]),
            self.max_error,
            self.greatest,
            worst,
            float(channels[worst]),
            self.edges,
            self.counts[0],
            self.counts[1],
        )


def _cosine(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the cosine of deviations from a's mean, given the means of a, b, aa, bb, ab; 0 where one is constant."""
    a, b, aa, bb, ab = means
    norm = np.sqrt(np.maximum(aa - a * a, 0) * np.maximum(bb - 2 * a * b + a * a, 0))
    cosine: npt.NDArray[np.float64] = np.divide(ab - a * b, norm, out=np.zeros_like(norm), where=norm > 0)
    return cosine


def faults(parity: Parity, limits: Limits) -> list[str]:
    """Return what keeps a model from being used, in words; nothing if it is fit."""
    found = [
        f"{output.name}: cosine {output.cosine:.3f} < {limits.cosine:g}"
        for output in parity.outputs
        # An output that hardly varies beside its offset has no cosine to speak of.
        if output.cosine < limits.cosine and output.max_error > _NEGLIGIBLE * output.greatest
    ]
    if parity.wanted and parity.confirmed < limits.confirmed * parity.wanted:
        found.append(f"{parity.confirmed} of {parity.wanted} detections confirmed, wanted {limits.confirmed:.0%}")
    if parity.invented > limits.invented * parity.found:
        found.append(f"{parity.invented} of {parity.found} detections invented, allowed {limits.invented:.0%}")
    if parity.highest - parity.lowest < limits.score_range:
        found.append(f"all scores lie between {parity.lowest:.3f} and {parity.highest:.3f}")
    return [f"{parity.runtime}: {fault}" for fault in found]


def source_faults(parity: SourceParity, limits: Limits) -> list[str]:
    """Return what keeps a float .tflite from being taken for its source; nothing if it computes the same."""
    return [
        f"float against {parity.reference}: {name} differs by {error:.4g} at a spread of {parity.spread[name]:.4g}"
        for name, error in parity.max_error.items()
        if not error <= limits.source_error * parity.spread[name]
    ]


def score_faults(scores: Scores | None, limits: Limits) -> list[str]:
    """Return what keeps a model with these COCO figures from being used; nothing if it is fit or was not scored."""
    if scores is None or scores.float_ap is None or scores.ap is None:
        return []
    if scores.float_ap - scores.ap <= limits.ap_loss:
        return []
    return [f"AP {scores.ap:.1f} against {scores.float_ap:.1f} in float, allowed are {limits.ap_loss:g} points less"]


def compare_with_source(
    content: bytes, manifest: ModelManifest, photos: Iterable[npt.NDArray[np.uint8]], source: SourceReference
) -> SourceParity:
    """Run the float .tflite `content` and its source on photos (H, W, 3) RGB.

    Raises:
        ModelError: the source puts out something else.
    """
    normalizer = Normalizer(manifest.input, None)
    values: dict[str, list[npt.NDArray[np.float32]]] = {}
    errors: dict[str, float] = {}
    with contextlib.closing(TfliteBackend(content)) as backend:
        for photo in photos:
            tensor = prepare(photo, normalizer)[0]
            outputs = source.project({name: output.values for name, output in backend.infer(tensor).items()})
            for name, wanted in source.run(tensor).items():
                if outputs[name].size != wanted.size:
                    raise ModelError(f"{source.name}: {name} is {wanted.shape}, in the .tflite {outputs[name].shape}")
                error = np.abs(outputs[name].ravel() - wanted.ravel()).max()
                errors[name] = max(errors.get(name, 0.0), float(error))
                values.setdefault(name, []).append(wanted)
    return SourceParity(source.name, errors, {name: float(np.std(wanted)) for name, wanted in values.items()})


def compare(
    path: Path,
    float_model: bytes,
    photos: Iterable[npt.NDArray[np.uint8]],
    runtime: str,
    score: float,
    num_threads: int | None = None,
) -> Parity:
    """Run the finished model file `path` with raw outputs and its float twin on photos (H, W, 3) RGB.

    `score` is the confidence from which on detections have to be confirmed.

    Raises:
        ModelError: the file cannot be loaded or run, or contradicts its manifest.
        DelegateError: the runtime is not installed or does not work.
    """
    manifest = load_manifest(path)
    if not isinstance(manifest.outputs, SsdRawOutputs):
        raise ModelError(f"{path}: its manifest describes no raw outputs")
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(contextlib.closing(IsolatedBackend(path, runtime, num_threads)))
        reference = stack.enter_context(contextlib.closing(TfliteBackend(float_model)))
        return _Comparison(manifest, manifest.outputs, backend, reference, score).run(photos)


def head_faults(
    path: Path,
    raw_content: bytes,
    raw: ModelManifest,
    photos: Iterable[npt.NDArray[np.uint8]],
    runtime: str,
    score: float,
    limits: Limits,
) -> list[str]:
    """Compare a file that ends in TFLite_Detection_PostProcess with the same model before that was appended.

    `score` is the confidence from which on detections count: both lists end somewhere among weak ones.

    Raises:
        ModelError: the file cannot be loaded or run.
        DelegateError: the runtime is not installed or does not work.
    """
    manifest = load_manifest(path)
    raw = raw.model_copy(update={"nms": manifest.nms})  # the operator's: without voting
    with contextlib.ExitStack() as stack:
        detectors = [
            stack.enter_context(contextlib.closing(Detector(described, backend, score)))
            for described, backend in (
                (raw, IsolatedBackend(raw_content, runtime)),
                (manifest, IsolatedBackend(path, runtime)),
            )
        ]
        wanted = confirmed = found = known = 0
        for number, photo in enumerate(photos):
            before, after = (detector.detect(Frame(photo, number, 0.0, 0.0, "photo")) for detector in detectors)
            wanted, confirmed = wanted + len(before), confirmed + _confirmed(before, after)
            found, known = found + len(after), known + _confirmed(after, before)
    if confirmed >= limits.confirmed * wanted and known >= limits.confirmed * found:
        return []
    return [f"{runtime}: the appended operator keeps {confirmed} of {wanted} detections and has {found - known} others"]


class _Comparison:
    def __init__(
        self,
        manifest: ModelManifest,
        outputs: SsdRawOutputs,
        backend: IsolatedBackend,
        reference: TfliteBackend,
        score: float,
    ) -> None:
        self.backend, self.reference, self.outputs, self.score = backend, reference, outputs, score
        self.normalizers = Normalizer(manifest.input, backend.input_params), Normalizer(manifest.input, None)
        size_wh = manifest.input.width, manifest.input.height
        lenient = max(score - _MARGIN, score / 2)
        nms = manifest.nms.model_copy(update={"max_detections": _MAX_DETECTIONS})
        self.decoder, self.float_decoder = (
            SsdDecoder(outputs, size_wh, nms, len(manifest.labels), lenient) for _ in range(2)
        )
        self.sums: dict[str, OutputSums] = {}

    def run(self, photos: Iterable[npt.NDArray[np.uint8]]) -> Parity:
        count = wanted = confirmed = found = invented = 0
        lowest, highest = 1.0, 0.0
        pairs: list[npt.NDArray[np.float32]] = []
        samples: list[Sample] = []
        for photo in photos:
            tensor, transform = prepare(photo, self.normalizers[0])
            got, expected = self.backend.infer(tensor), self.reference.infer(prepare(photo, self.normalizers[1])[0])
            for name, output in got.items():
                if name not in self.sums:
                    values = output.dequantized()
                    self.sums[name] = OutputSums(name, *_scale(output, expected[name]), values.shape[-1])
                self.sums[name].add(expected[name].dequantized(), output.dequantized())
            for level in self.outputs.levels:
                logits = got[level.class_logits].dequantized()
                lowest = min(lowest, self.confidence(float(logits.min())))
                highest = max(highest, self.confidence(float(logits.max())))
            ours, floats = self.decoder.decode(got), self.float_decoder.decode(expected)
            sure, float_sure = ours[ours.confidence >= self.score], floats[floats.confidence >= self.score]
            wanted, confirmed = wanted + len(float_sure), confirmed + _confirmed(float_sure, ours)
            found, invented = found + len(sure), invented + len(sure) - _confirmed(sure, floats)
            pairs.append(match_scores(floats, ours))
            if len(samples) < _SAMPLES and (len(sure) or len(float_sure)):
                moved = (
                    Detections(transform.to_source(some.xyxy), some.confidence, some.class_id)
                    for some in (float_sure, sure)
                )
                samples.append(Sample(photo, *moved))
            count += 1
        if count == 0:
            raise ModelError("no photo to verify on could be read; give JPEG or PNG files that can be opened")
        return Parity(
            self.backend.name,
            count,
            tuple(self.sums[name].parity() for name in sorted(self.sums)),
            wanted,
            confirmed,
            found,
            invented,
            lowest,
            highest,
            np.concatenate(pairs),
            1000 * statistics.median(self.backend.seconds),
            tuple(samples),
        )

    def confidence(self, stored: float) -> float:
        """Return the score that a class output stands for."""
        return stored if self.outputs.scores == "identity" else float(1 / (1 + np.exp(-stored)))


def _scale(output: QuantizedTensor, wanted: QuantizedTensor) -> tuple[float, float, float]:
    """Return step, lowest and highest value of an output; of a float one as its twin has them on the first photo."""
    if output.params is None:
        values = wanted.dequantized()
        low, high = float(values.min()), float(values.max())
        return 0.0, low, max(high, low + 1e-6)
    limits = np.iinfo(output.params.dtype)
    low, high = output.params.dequantize(np.array([limits.min, limits.max])).tolist()
    return output.params.scale, low, high


def _confirmed(detections: Detections, others: Detections) -> int:
    """Return how many of `detections` overlap with one of `others` of the same class."""
    return int((_overlaps(detections, others) >= _IOU).any(axis=1).sum())


def match_scores(floats: Detections, ours: Detections) -> npt.NDArray[np.float32]:
    """Return (K, 2): confidence in the float twin and in the model; best overlaps first, 0 where one is alone."""
    overlaps = _overlaps(floats, ours)
    pairs: list[tuple[float, float]] = []
    free, free_ours = set(range(len(floats))), set(range(len(ours)))
    for place in np.argsort(-overlaps, axis=None, kind="stable"):
        first, second = np.unravel_index(place, overlaps.shape)
        if overlaps[first, second] < _IOU:
            break
        if first in free and second in free_ours:
            free.discard(int(first))
            free_ours.discard(int(second))
            pairs.append((float(floats.confidence[first]), float(ours.confidence[second])))
    pairs += [(float(floats.confidence[index]), 0.0) for index in sorted(free)]
    pairs += [(0.0, float(ours.confidence[index])) for index in sorted(free_ours)]
    return np.array(pairs, np.float32).reshape(-1, 2)


def _overlaps(detections: Detections, others: Detections) -> npt.NDArray[np.float32]:
    """Return the IoU (N, M) of detections; 0 for those of different classes."""
    if not len(detections) or not len(others):
        return np.zeros((len(detections), len(others)), np.float32)
    return pairwise_iou(detections.xyxy, others.xyxy) * (detections.class_id[:, None] == others.class_id)
