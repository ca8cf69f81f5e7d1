"""Times the stages of our own pipeline under one runtime when asked: python -m tools.bench.stage_worker."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.detector import Detector
from edge_detector.frame import Frame, FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.overlay import OverlayRenderer
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.runtime.bench import COCO_CLASSES, COCO_SIDE, coco_outputs, demo_pictures
from edge_detector.runtime.process import share_heaps, share_processors
from tools.bench.child import serve

SIZES_WH = ((1280, 720), (1920, 1080))
_PACKAGES = ("numpy", "opencv-python-headless", "ai-edge-litert", "tflite-runtime", "edge-detector")
_AT_LEAST, _AT_MOST = 2, 50  # repeats of a turn


def stages(detector: Detector) -> dict[str, Callable[[], Any]]:
    """Return what can be timed, by name, on the first picture of the demo clip, enlarged to what cameras give."""
    (clip,) = demo_pictures(1)
    frames = {"{}x{}".format(*wh): Frame(_enlarged(clip.image, wh), 0, 0.0, 0.0, "demo") for wh in SIZES_WH}
    shown = frames["1280x720"]
    manifest = detector.manifest
    normalizer = Normalizer(manifest.input, detector.backend.input_params)
    tensor, _ = prepare(shown.image, normalizer)
    found = detector.detect(shown)
    drawn = FrameResult(shown, found, 0.0, {"inference": 0.1}, {"capture": 30.0, "inference": 10.0})
    canvas_wh = manifest.input.width, manifest.input.height
    table: dict[str, Callable[[], Any]] = {
        "invoke": partial(detector.backend.infer, tensor),
        "decode + NMS": partial(detector._decoder.decode, detector.backend.infer(tensor)),  # a stage of it
        "detect": partial(detector.detect, shown),
        "overlay 1280x720": partial(OverlayRenderer(manifest.labels).draw, drawn),
        "JPEG 1280x720": partial(encode_jpeg, shown.image),
    }
    for name, frame in frames.items():
        table[f"letterbox + quantize {name}"] = partial(prepare, frame.image, normalizer)
        table[f"cv2.resize bilinear {name}"] = partial(
            cv2.resize, frame.image, canvas_wh, interpolation=cv2.INTER_LINEAR
        )
        content_wh = _content_wh(frame, normalizer)
        area = partial(cv2.resize, frame.image, content_wh, interpolation=cv2.INTER_AREA)
        table[f"cv2.resize by area {name}"] = area
    if (len(manifest.labels), canvas_wh[0]) == (COCO_CLASSES, COCO_SIDE):
        decoder, raw = coco_outputs()
        table["decode + NMS, synthetic"] = partial(decoder.decode, raw)
    return table


def _enlarged(image: npt.NDArray[np.uint8], size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, size_wh), np.uint8)


def _content_wh(frame: Frame, normalizer: Normalizer) -> tuple[int, int]:
    """Return the size of a picture on the canvas."""
    scale_xy = prepare(frame.image, normalizer)[1].scale_xy
    return round(frame.size_wh[0] * scale_xy[0]), round(frame.size_wh[1] * scale_xy[1])


def take_turn(stage: Callable[[], Any], budget_s: float) -> dict[str, Any]:
    """Return the seconds of repeats within the budget, and the processor's of this thread in all of them.

    One more goes before, as others ran meanwhile.
    """
    stage()
    times: list[float] = []
    end_s, cpu_s = time.perf_counter() + budget_s, time.thread_time()
    while len(times) < _AT_LEAST or (len(times) < _AT_MOST and time.perf_counter() < end_s):
        start_s = time.perf_counter()
        stage()
        times.append(time.perf_counter() - start_s)
    return {"times_s": times, "cpu_s": time.thread_time() - cpu_s}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed, by name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def memory_mb() -> dict[str, float]:
    """Return the resident memory of this process, now and at most, in 10^6 bytes."""
    status = Path("/proc/self/status").read_text(
        encoding="utf-8"
    )  # getrusage tells the parent's peak where it is higher
    kilobytes = {name: int(value) for name, value in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status)}
    return {"rss_mb": kilobytes["VmRSS"] * 1024 / 1e6, "peak_mb": kilobytes["VmHWM"] * 1024 / 1e6}


def main() -> None:
    """Load a model, warm it up, and time its stages when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    share_heaps()  # as the service does
    share_processors()
    detector = Detector.open(str(arguments.model), num_threads=arguments.threads, runtime=arguments.runtime)
    detector.warm_up()
    memory = memory_mb()  # before the pictures for the stages
    table = stages(detector)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        return take_turn(table[question["stage"]], question["budget_s"])

    serve({"title": detector.backend.name, "stages": list(table), "versions": versions(), **memory}, answer)


if __name__ == "__main__":
    main()
