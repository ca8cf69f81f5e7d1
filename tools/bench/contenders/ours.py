"""edge_detector as its service calls it, and its decoder alone."""

from __future__ import annotations

from typing import Any

from edge_detector.detector import Detector
from edge_detector.frame import Frame
from edge_detector.loader import load_manifest
from edge_detector.manifest import SsdRawOutputs
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.quantization import QuantizationParams, QuantizedTensor
from edge_detector.runtime.process import share_heaps, share_processors
from tools.bench.contenders import Found, Laps
from tools.bench.kit import Kit


class Ours:
    """The whole way."""

    def __init__(self, kit: Kit) -> None:
        share_heaps()
        share_processors()
        self._detector = Detector.open(kit.model("raw.tflite"), num_threads=kit.threads, threshold=kit.threshold)

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        found, seconds = self._detector.detect_timed(Frame(given, 0, 0.0, 0.0, "bench"))
        laps.seconds |= {
            "preprocess": seconds["preprocess"],
            "invoke": seconds["inference"],
            "postprocess": seconds["postprocess"],
        }
        return Found(found.xyxy, found.confidence, found.class_id)


class OursDecoder:
    """Stored outputs to detections."""

    def __init__(self, kit: Kit) -> None:
        manifest = load_manifest(kit.folder / "raw.tflite")
        if not isinstance(manifest.outputs, SsdRawOutputs):
            raise TypeError("raw.tflite has no raw outputs")
        self._decoder = SsdDecoder(
            manifest.outputs, (kit.side, kit.side), manifest.nms, len(manifest.labels), kit.threshold
        )
        self._params = kit.params

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        raw = {}
        for name, values in given.items():
            scale, zero_point = self._params[name]
            raw[name] = QuantizedTensor(values, QuantizationParams(scale, zero_point, values.dtype))
        found = self._decoder.decode(raw)
        laps("postprocess")
        return Found(found.xyxy, found.confidence, found.class_id)
