"""Detector: stages 2 to 4, from a frame to detections in its own pixels, behind one method."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Protocol

import numpy as np

from edge_detector.backends import Backend, DeviceOptions
from edge_detector.detections import Detections
from edge_detector.errors import ConfigError, EdgeDetectorError, ModelError
from edge_detector.frame import Frame
from edge_detector.loader import load_model
from edge_detector.manifest import ModelManifest, SsdRawOutputs
from edge_detector.postprocess.detection_op import DetectionOpDecoder
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.quantization import RawOutputs
from edge_detector.registry import resolve_model
from edge_detector.runtime.metrics import DetectorStatus


class _Decoder(Protocol):
    def decode(self, raw: RawOutputs) -> Detections: ...


class Detector:
    """A loaded model with all that it needs before and behind it. Used by one thread only.

    Attributes:
        manifest: what the model is, its labels among it.
        backend: what runs it; the detector owns it.
        threshold: confidence that a detection has at least.
    """

    def __init__(self, manifest: ModelManifest, backend: Backend, threshold: float | None = None) -> None:
        """Join a model and its manifest; `threshold` replaces the manifest's own.

        Raises:
            ConfigError: the threshold is outside 0..1.
            ModelError: manifest and model contradict each other.
        """
        self.manifest = manifest
        self.backend = backend
        self.threshold = manifest.nms.score_threshold if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold {self.threshold:g} is out of range; give a number from 0 to 1")
        if backend.input_shape[1:3] != (manifest.input.height, manifest.input.width):
            raise ModelError(
                f"{manifest.name}: the manifest says {manifest.input.width}x{manifest.input.height}, but the model "
                f"takes {backend.input_shape[2]}x{backend.input_shape[1]}; give the manifest that belongs to it"
            )
        self._opened_s = time.monotonic()
        self._normalizer = Normalizer(manifest.input, backend.input_params)
        self._decoder = _build_decoder(manifest, self.threshold)

    @classmethod
    def open(
        cls,
        model: str,
        labels: Path | None = None,
        num_threads: int | None = None,
        runtime: str = "auto",
        threshold: float | None = None,
        *,
        device: DeviceOptions | None = None,
        stop: threading.Event | None = None,
    ) -> Detector:
        """Load a model by path or name; see `resolve_model` and `load_model`.

        Raises:
            ModelError: there is no such model, or it cannot be used.
            DelegateError: the runtime is not installed or does not work.
            ConfigError: `num_threads`, `runtime` or `threshold` is out of range.
        """
        loaded = load_model(resolve_model(model), labels, num_threads, runtime, device, stop)
        try:
            return cls(loaded.manifest, loaded.backend, threshold)
        except EdgeDetectorError:
            loaded.backend.close()
            raise

    def set_threshold(self, threshold: float) -> None:
        """Return detections from this confidence on, 0 to 1, from now on."""
        if threshold != self.threshold:
            self.threshold = threshold
            self._decoder = _build_decoder(self.manifest, threshold)

    def detect(self, frame: Frame) -> Detections:
        """Return what is in the frame, in its pixels, clipped to it, best first."""
        return self.detect_timed(frame)[0]

    def detect_timed(
        self, frame: Frame, region: tuple[int, int, int, int] | None = None
    ) -> tuple[Detections, dict[str, float]]:
        """Return the detections, and the seconds of "preprocess", "inference" and "postprocess".

        With a `region`, x1, y1, x2, y2 in pixels of the frame, only this part is searched, and all of the model's
        canvas is for it; the detections are in pixels of the frame all the same.
        """
        start_s = time.perf_counter()
        x1, y1, x2, y2 = region or (0, 0, *frame.size_wh)
        tensor, transform = prepare(frame.image[y1:y2, x1:x2], self._normalizer)
        prepared_s = time.perf_counter()
        raw = self.backend.infer(tensor)
        inferred_s = time.perf_counter()
        found = self._decoder.decode(raw)
        xyxy = transform.to_source(found.xyxy)
        inside = np.all(xyxy[:, 2:] > xyxy[:, :2], axis=1)  # nothing remains of a box in the letterbox's bars
        xyxy += np.array([x1, y1, x1, y1], np.float32)
        detections = Detections(xyxy, found.confidence, found.class_id)[inside]
        timings_s = {
            "preprocess": prepared_s - start_s,
            "inference": inferred_s - prepared_s,
            "postprocess": time.perf_counter() - inferred_s,
        }
        return detections, timings_s

    def warm_up(self) -> None:
        """Run the model once, on a black picture: the first inference takes longer than those after it."""
        size = self.manifest.input
        self.detect(Frame(np.zeros((size.height, size.width, 3), np.uint8), 0, 0.0, 0.0, "black"))

    @property
    def device(self) -> str:
        """What the backend runs on now, such as "cpu" or "edgetpu:usb:0"."""
        return self.status().device

    def status(self) -> DetectorStatus:
        """Return how inference is; from any thread."""
        health = self.backend.health
        return DetectorStatus(
            model=self.manifest.name,
            backend=self.backend.name,
            wanted=health.wanted,
            device=health.running,
            state=health.state,
            state_s=time.monotonic() - max(health.since, self._opened_s),
            failures=health.failures,
            error=health.error,
            causes=health.causes,
        )

    def close(self) -> None:
        """Release the model; safe to call twice."""
        self.backend.close()


def _build_decoder(manifest: ModelManifest, threshold: float) -> _Decoder:
    outputs, labels = manifest.outputs, len(manifest.labels)
    if isinstance(outputs, SsdRawOutputs):
        return SsdDecoder(outputs, (manifest.input.width, manifest.input.height), manifest.nms, labels, threshold)
    return DetectionOpDecoder(outputs, manifest.input, labels, threshold)
