"""COCO average precision of a model file and of its float twin, through the runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from edge_detector.backends import Backend
from edge_detector.backends.tflite import TfliteBackend
from edge_detector.detector import Detector
from edge_detector.loader import load_manifest
from edge_detector.manifest import ModelManifest
from tools.evaluate.annotations import Annotations, Picture, match_labels, read_frame
from tools.evaluate.score import MAX_DETECTIONS, Figures, score
from tools.quantize.findings import Scores

_THRESHOLD = 0.01

Progress = Callable[[tuple[Picture, ...], str], Iterable[Picture]]


def measure(path: Path, float_model: bytes, annotations: Annotations, progress: Progress) -> Scores:
    """Score the model file `path` and its float twin on annotated pictures; `progress` shows the way through them.

    Raises:
        ModelError: no label is a category of the annotations, or the file cannot be run.
        SourceError: a picture cannot be read.
    """
    manifest = load_manifest(path)
    twin = _figures(manifest, TfliteBackend(float_model), annotations, progress, "scoring float")
    ours = _figures(manifest, TfliteBackend(path), annotations, progress, "scoring")
    figures = (twin.ap, twin.ap50, ours.ap, ours.ap50)
    return Scores(len(annotations.pictures), *(None if value is None else 100 * value for value in figures))


def _figures(
    manifest: ModelManifest, backend: Backend, annotations: Annotations, progress: Progress, title: str
) -> Figures:
    nms = manifest.nms.model_copy(update={"max_detections": MAX_DETECTIONS})
    match = match_labels(manifest.labels, annotations)
    with contextlib.closing(Detector(manifest.model_copy(update={"nms": nms}), backend, _THRESHOLD)) as detector:
        found = {
            picture.image_id: detector.detect(read_frame(picture)) for picture in progress(annotations.pictures, title)
        }
    return score(annotations, match, found).overall
