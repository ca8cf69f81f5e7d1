"""Parity: what a finished model file says about held-out photos, against its float twin."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.detections import Detections
from edge_detector.errors import ModelError
from edge_detector.loader import load_model
from edge_detector.manifest import SsdRawOutputs
from edge_detector.postprocess.boxes import pairwise_iou
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.preprocess.normalize import Normalizer, prepare

_SCORE = 0.3  # of detections that have to be confirmed
_MARGIN = 0.1  # by which the score of a confirming detection may lie below
_IOU = 0.5


@dataclass(frozen=True)
class Limits:
    """What a model must reach.

    Attributes:
        cosine: least, of every output.
        confirmed: least share of the float twin's detections that the model finds too.
        invented: greatest share of the model's detections that the float twin does not have.
        score_range: least difference between its lowest and its highest score.
    """

    cosine: float = 0.95
    confirmed: float = 0.9
    invented: float = 0.1
    score_range: float = 0.01


@dataclass(slots=True)
class OutputParity:
    """One output over all photos.

    `cosine` is that of the deviations from the float output's mean, so that a constant offset does not hide errors.
    """

    name: str
    step: float  # of its integers; 0 where the output is float
    max_error: float = 0.0
    _count: int = 0
    _sums: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))

    def add(self, wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> None:
        """Take the output for one photo into account."""
        a, b = wanted.ravel().astype(np.float64), got.ravel().astype(np.float64)
        self.max_error = max(self.max_error, float(np.abs(a - b).max()))
        self._sums += [a.sum(), b.sum(), a @ a, b @ b, a @ b]
        self._count += a.size

    @property
    def cosine(self) -> float:
        """1 where both agree up to a factor, 0 where they have nothing in common or one of them is constant."""
        a, b, aa, bb, ab = self._sums / self._count
        norm = np.sqrt(max(aa - a * a, 0.0) * max(bb - 2 * a * b + a * a, 0.0))
        return float((ab - a * b) / norm) if norm > 0 else 0.0


@dataclass(slots=True)
class Parity:
    """How a model file compares with its float twin on one runtime.

    Attributes:
        runtime: the runtime's name and version.
        outputs: per output tensor.
        wanted, confirmed: detections of the float twin, and those of them that the model finds too.
        found, invented: detections of the model, and those of them that the float twin does not have.
        lowest, highest: score of all anchors and photos.
    """

    runtime: str
    outputs: list[OutputParity]
    wanted: int = 0
    confirmed: int = 0
    found: int = 0
    invented: int = 0
    lowest: float = 1.0
    highest: float = 0.0

    def faults(self, limits: Limits) -> list[str]:
        """Return what keeps the model from being used, in words; nothing if it is fit."""
        found = [
            f"{output.name}: cosine {output.cosine:.3f} < {limits.cosine:g}"
            for output in self.outputs
            if output.cosine < limits.cosine
        ]
        if self.wanted and self.confirmed < limits.confirmed * self.wanted:
            found.append(f"{self.confirmed} of {self.wanted} detections confirmed, wanted {limits.confirmed:.0%}")
        if self.invented > limits.invented * self.found:
            found.append(f"{self.invented} of {self.found} detections invented, allowed {limits.invented:.0%}")
        if self.highest - self.lowest < limits.score_range:
            found.append(f"all scores lie between {self.lowest:.3f} and {self.highest:.3f}")
        return [f"{self.runtime}: {fault}" for fault in found]


def compare(path: Path, float_model: bytes, photos: Iterable[npt.NDArray[np.uint8]], runtime: str) -> Parity:
    """Run the finished model file `path` and its float twin on photos (H, W, 3) RGB.

    Raises:
        ModelError: the file cannot be loaded or run, or contradicts its manifest.
        DelegateError: the runtime is not installed or does not work.
    """
    loaded = load_model(path, runtime=runtime)
    manifest, backend = loaded.manifest, loaded.backend
    if not isinstance(manifest.outputs, SsdRawOutputs):
        raise ModelError(f"{path}: its manifest describes no raw outputs")
    reference = TfliteBackend(float_model)
    normalizer, float_normalizer = Normalizer(manifest.input, backend.input_params), Normalizer(manifest.input, None)
    size_wh, labels = (manifest.input.width, manifest.input.height), len(manifest.labels)
    decoder, lenient, float_decoder, float_lenient = (
        SsdDecoder(manifest.outputs, size_wh, manifest.nms, labels, score)
        for score in (_SCORE, _SCORE - _MARGIN, _SCORE, _SCORE - _MARGIN)
    )
    result = Parity(backend.name, [])
    outputs: dict[str, OutputParity] = {}
    for photo in photos:
        got = backend.infer(prepare(photo, normalizer)[0])
        wanted = reference.infer(prepare(photo, float_normalizer)[0])
        for name, tensor in got.items():
            parity = outputs.setdefault(name, OutputParity(name, tensor.params.scale if tensor.params else 0.0))
            parity.add(wanted[name].dequantized(), tensor.dequantized())
        for level in manifest.outputs.levels:
            logits = got[level.class_logits].dequantized()
            result.lowest = min(result.lowest, _sigmoid(float(logits.min())))
            result.highest = max(result.highest, _sigmoid(float(logits.max())))
        found, float_found = decoder.decode(got), float_decoder.decode(wanted)
        result.wanted += len(float_found)
        result.confirmed += _confirmed(float_found, lenient.decode(got))
        result.found += len(found)
        result.invented += len(found) - _confirmed(found, float_lenient.decode(wanted))
    backend.close()
    reference.close()
    result.outputs = [outputs[name] for name in sorted(outputs)]
    return result


def _confirmed(detections: Detections, others: Detections) -> int:
    """Return how many of `detections` overlap with one of `others` of the same class."""
    if not len(detections) or not len(others):
        return 0
    overlaps = pairwise_iou(detections.xyxy, others.xyxy) >= _IOU
    return int((overlaps & (detections.class_id[:, None] == others.class_id)).any(axis=1).sum())


def _sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
