"""Times each stage, the decoder at the size of a COCO model, and the running service against inference alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_detector.assets import DEMO_CLIP
from edge_detector.detector import Detector
from edge_detector.errors import EndOfStream
from edge_detector.frame import Frame
from edge_detector.manifest import LevelOutputs, NmsSpec, SsdRawOutputs
from edge_detector.overlay import OverlayRenderer
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.preprocess.letterbox import letterbox
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.publishers import open_publisher
from edge_detector.quantization import QuantizationParams, QuantizedTensor, RawOutputs
from edge_detector.runtime.feed import Feed
from edge_detector.runtime.metrics import LatencyMeter
from edge_detector.runtime.pipeline import LivePipeline
from edge_detector.runtime.process import share_processors
from edge_detector.sources import open_source
from edge_detector.sources.synthetic import SyntheticSource

STAGES = ("letterbox", "normalize", "invoke", "decode + NMS")
COCO_ANCHORS, COCO_CLASSES, COCO_SIDE = 51150, 90, 640
_WARM_UP = 3
_DECODER_REPEATS = 50
_ROUNDS = 3  # of the comparison with inference alone, which takes turns with the service
_ROUND_INFERENCES = 10
_ROUND_AT_LEAST_S = 3.0
_CAMERA_FPS = 30.0, 240.0  # at least, at most; between, twice what the model can do


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured; times in milliseconds, rates per second.

    Attributes:
        model: name of the model.
        backend: what ran it.
        machine: processor architecture and number of cores.
        stages_ms: p50, p95 and min per stage, and of the total.
        overhead_share: of the median total time, what is not inference, 0..1.
        coco_decode_ms: p50, p95 and min of decoding a synthetic int8 output of 51150 anchors and 90 classes.
        invoke_fps: inferences per second of a bare loop, best of the rounds.
        service_fps: the same of the live pipeline without viewers, best of the rounds.
        service_share: median over the rounds of service_fps / invoke_fps.
        viewed_fps, viewed_share: the same while one viewer watches the live page.
        latency_ms: "p50" and "p95" from taking a frame to publishing what was found in it, without viewers.
        viewed_latency_ms: the same with one viewer.
    """

    model: str
    backend: str
    machine: str
    stages_ms: Mapping[str, Mapping[str, float]]
    overhead_share: float
    coco_decode_ms: Mapping[str, float]
    invoke_fps: float
    service_fps: float
    service_share: float
    viewed_fps: float
    viewed_share: float
    latency_ms: Mapping[str, float]
    viewed_latency_ms: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)

    def to_text(self) -> str:
        """Return a table and the rates, for people."""
        rows = {**self.stages_ms, f"decode + NMS of {COCO_ANCHORS} x {COCO_CLASSES}": self.coco_decode_ms}
        lines = [
            f"{self.model} on {self.backend}, {self.machine}",
            f"{'ms':32}{'p50':>9}{'p95':>9}{'min':>9}",
            *(f"{name:32}{row['p50']:9.2f}{row['p95']:9.2f}{row['min']:9.2f}" for name, row in rows.items()),
            f"not inference: {self.overhead_share:.1%} of the total",
            f"bare invoke loop: {self.invoke_fps:.2f} fps",
            f"service without viewers: {self.service_fps:.2f} fps, ratio {self.service_share:.3f}; "
            f"frame to detection p50 {self.latency_ms['p50']:.0f} ms, p95 {self.latency_ms['p95']:.0f} ms",
            f"service with one viewer: {self.viewed_fps:.2f} fps, ratio {self.viewed_share:.3f}; "
            f"frame to detection p50 {self.viewed_latency_ms['p50']:.0f} ms, "
            f"p95 {self.viewed_latency_ms['p95']:.0f} ms",
        ]
        return "\n".join(lines)


def measure(detector: Detector, frames: int, on_progress: Callable[[int, int], None]) -> BenchReport:
    """Measure `detector` on `frames` pictures of the demo clip; `on_progress(done, total)` counts the steps.

    Raises:
        SourceError: the demo clip is missing.
        ModelError: the model failed.
    """
    share_processors()  # as the service does
    total = frames + 3 * _ROUNDS
    pictures = demo_pictures(frames)
    for frame in pictures[:_WARM_UP]:
        detector.detect(frame)
    normalizer = Normalizer(detector.manifest.input, detector.backend.input_params)
    times_s: list[tuple[float, ...]] = []
    for done, frame in enumerate(pictures, start=1):
        times_s.append(_stages_s(detector, normalizer, frame))
        on_progress(done, total)
    columns = np.array(times_s)
    totals = columns.sum(axis=1)
    stages_ms = {name: _summary_ms(columns[:, index]) for index, name in enumerate(STAGES)}
    invoke: list[float] = []
    alone: list[_ServiceRun] = []
    viewed: list[_ServiceRun] = []
    for number in range(_ROUNDS):
        round_s = max(_ROUND_AT_LEAST_S, _ROUND_INFERENCES * float(np.median(totals)))
        invoke.append(_invoke_fps(detector, normalizer, pictures[0], round_s))
        on_progress(frames + 3 * number + 1, total)
        alone.append(_run_service(detector, round_s, invoke[-1], viewers=0))
        on_progress(frames + 3 * number + 2, total)
        viewed.append(_run_service(detector, round_s, invoke[-1], viewers=1))
        on_progress(frames + 3 * number + 3, total)
    return BenchReport(
        model=detector.manifest.name,
        backend=detector.backend.name,
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        stages_ms={**stages_ms, "total": _summary_ms(totals)},
        overhead_share=1 - float(np.median(columns[:, STAGES.index("invoke")]) / np.median(totals)),
        coco_decode_ms=_summary_ms(np.array(_coco_decode_s())),
        invoke_fps=max(invoke),
        service_fps=max(run.fps for run in alone),
        service_share=_share(alone, invoke),
        viewed_fps=max(run.fps for run in viewed),
        viewed_share=_share(viewed, invoke),
        latency_ms=_latency_ms(alone),
        viewed_latency_ms=_latency_ms(viewed),
    )


def demo_pictures(wanted: int) -> list[Frame]:
    """Return so many pictures of the demo clip; from its beginning again where it is shorter."""
    pictures: list[Frame] = []
    with closing(open_source(str(DEMO_CLIP))) as clip, suppress(EndOfStream):
        while len(pictures) < wanted:
            frame = clip.read(1.0)
            if frame is not None:
                pictures.append(frame)
    return [pictures[index % len(pictures)] for index in range(wanted)]


def _stages_s(detector: Detector, normalizer: Normalizer, frame: Frame) -> tuple[float, ...]:
    """Return the seconds of each of `STAGES` for one picture."""
    start_s = time.perf_counter()
    canvas, _ = letterbox(frame.image, normalizer.spec)
    letterboxed_s = time.perf_counter()
    normalizer(canvas)
    normalized_s = time.perf_counter()
    timings_s = detector.detect_timed(frame)[1]
    return letterboxed_s - start_s, normalized_s - letterboxed_s, timings_s["inference"], timings_s["postprocess"]


def _summary_ms(times_s: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    p50, p95 = np.percentile(times_s, (50, 95)) * 1e3
    return {"p50": float(p50), "p95": float(p95), "min": float(times_s.min() * 1e3)}


def _invoke_fps(detector: Detector, normalizer: Normalizer, frame: Frame, duration_s: float) -> float:
    tensor, _ = prepare(frame.image, normalizer)
    start_s = time.perf_counter()
    count = 0
    while time.perf_counter() - start_s < duration_s:
        detector.backend.infer(tensor)
        count += 1
    return count / (time.perf_counter() - start_s)


@dataclass(frozen=True, slots=True)
class _ServiceRun:
    fps: float
    p50_s: float
    p95_s: float


# Reads the live stream as fast as it comes, in a process of its own as a browser would, and says when it has begun.
_VIEWER = """
import sys, urllib.request
stream = urllib.request.urlopen(sys.argv[1])
stream.read(1)
print("watching", flush=True)
while stream.read(65536):
    pass
"""


def _run_service(detector: Detector, duration_s: float, invoke_fps: float, viewers: int) -> _ServiceRun:
    """Do what `edge-detector run` does, its web page open, with so many viewers."""
    labels, name = detector.manifest.labels, detector.manifest.name
    with ExitStack() as stack:
        web = open_publisher("web", overlay=OverlayRenderer(labels), labels=labels, model_name=name, port=0)
        stack.enter_context(closing(web))
        source = SyntheticSource(1280, 720, fps=float(np.clip(2 * invoke_fps, *_CAMERA_FPS)))
        stack.enter_context(closing(source))
        feed = Feed("camera", source, [web])
        pipeline = LivePipeline([feed], detector, stop := threading.Event())
        running = threading.Thread(target=pipeline.run)
        running.start()
        stack.callback(running.join)
        stack.callback(stop.set)
        for _ in range(viewers):
            stack.enter_context(_viewer(f"{web.name}stream.mjpg"))
        feed.latency = LatencyMeter()  # what went before does not count
        first, start_s = _next_inference(feed)
        time.sleep(duration_s)
        last, end_s = _next_inference(feed)
        fps = (last - first) / (end_s - start_s)
    return _ServiceRun(fps, feed.latency.percentile(50) or 0.0, feed.latency.percentile(95) or 0.0)


def _next_inference(feed: Feed) -> tuple[int, float]:
    """Wait for the next inference to end; return its number and when that was."""
    number = feed.stats.inferred
    while feed.stats.inferred == number:
        time.sleep(0.0005)
    return number + 1, time.perf_counter()


@contextmanager
def _viewer(url: str) -> Iterator[None]:
    viewer = subprocess.Popen([sys.executable, "-c", _VIEWER, url], stdout=subprocess.PIPE)
    try:
        viewer.stdout.readline()  # type: ignore[union-attr]  # it is a pipe
        yield
    finally:
        viewer.kill()
        viewer.communicate()


def _share(runs: Sequence[_ServiceRun], invoke_fps: Sequence[float]) -> float:
    return float(np.median([run.fps / bare for run, bare in zip(runs, invoke_fps, strict=True)]))


def _latency_ms(runs: Sequence[_ServiceRun]) -> dict[str, float]:
    p50_s, p95_s = (np.median([getattr(run, name) for run in runs]) for name in ("p50_s", "p95_s"))
    return {"p50": float(p50_s) * 1e3, "p95": float(p95_s) * 1e3}


def _coco_decode_s() -> list[float]:
    """Return the seconds of each decoding of `coco_outputs`."""
    decoder, raw = coco_outputs()
    times_s = []
    for _ in range(_WARM_UP + _DECODER_REPEATS):
        start_s = time.perf_counter()
        decoder.decode(raw)
        times_s.append(time.perf_counter() - start_s)
    return times_s[_WARM_UP:]


def coco_outputs() -> tuple[SsdDecoder, RawOutputs]:
    """Return a decoder, and seeded int8 outputs like a COCO model's: a noise floor, 20 objects with 40 hits each."""
    random = np.random.default_rng(0)
    logits = random.normal(-6.0, 0.8, (1, COCO_ANCHORS, COCO_CLASSES))
    for first in random.integers(0, COCO_ANCHORS - 40, 20):
        logits[0, first : first + 40, random.integers(COCO_CLASSES)] = random.uniform(-1, 3, 40)
    boxes = random.normal(0.0, 0.5, (1, COCO_ANCHORS, 4))
    raw = {}
    for name, values, scale in (("logits", logits, 0.08), ("boxes", boxes, 0.03)):
        params = QuantizationParams(scale, 20, np.dtype(np.int8))
        raw[name] = QuantizedTensor(params.quantize(values), params)
    outputs = SsdRawOutputs(levels=(LevelOutputs(class_logits="logits", box_encodings="boxes"),))
    return SsdDecoder(outputs, (COCO_SIDE, COCO_SIDE), NmsSpec(), COCO_CLASSES), raw
