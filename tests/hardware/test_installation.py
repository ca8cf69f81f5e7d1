"""The installation of this machine: what runs, and that it finds on one picture what it found on x86.

The reference was measured with LiteRT 2.3.0 on x86-64: `python tests/hardware/test_installation.py` measures it anew.
Runtimes and processors compute int8 a little differently; what was seen is in the report.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.frame import Frame
from edge_detector.postprocess.boxes import pairwise_iou
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.registry import list_models

Figure = Callable[[str, object], None]
REFERENCE = Path(__file__).with_name("reference.json")
MODELS = os.environ.get("EDGE_DETECTOR_ACCEPTANCE_MODELS", "").split() or sorted(list_models())
SURE = 0.5  # what is less sure may be there on one machine and not on the other
LOWEST = 0.3
IOU_AT_LEAST = 0.7  # so, too, of boxes; the report says how much it was
SCORE_DIFFERENCE_AT_MOST = 0.1  # int8 kernels of different runtimes differ by up to 19 steps
REPEATS = int(os.environ.get("EDGE_DETECTOR_ACCEPTANCE_REPEATS", "10"))


def test_command_lists_all_models() -> None:
    result = subprocess.run([sys.executable, "-m", "edge_detector", "models"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    listed = {line.split()[0] for line in result.stdout.splitlines()[1:]}
    assert listed == set(list_models())


@pytest.mark.parametrize("name", MODELS)
def test_same_boxes_as_on_x86(name: str, photo: Frame, figure: Figure) -> None:
    reference = json.loads(REFERENCE.read_text())
    wanted_digests, rows = reference[name]["sha256"], reference[name]["detections"]
    with closing(Detector.open(name, threshold=LOWEST)) as detector:
        found = detector.detect(photo)
        figure("runtime", detector.backend.name)
        for part, digest in digests(detector, photo).items():
            figure(f"{part}, bytes", "as on x86" if digest == wanted_digests[part] else f"other ({digest})")
    table = np.array(rows, np.float32)
    wanted = Detections(table[:, :4], table[:, 4], np.zeros(len(table), np.int64))
    figure("detections", f"{len(found)}, on x86 {len(wanted)}")
    overlap = pairwise_iou(wanted.xyxy, found.xyxy)
    best = overlap.argmax(axis=1) if len(found) else np.zeros(0, np.int64)
    alike = overlap.max(axis=1, initial=0) >= IOU_AT_LEAST
    figure("largest difference of a corner", f"{_largest(wanted.xyxy[alike], found.xyxy[best[alike]]):.2f} px")
    figure("least IoU", f"{overlap.max(axis=1)[alike].min():.4f}" if alike.any() else "none alike")
    scores = _largest(wanted.confidence[alike], found.confidence[best[alike]])
    figure("largest difference of a score", f"{scores:.4f}")
    missed = int((~alike & (wanted.confidence >= SURE)).sum())
    invented = int(((overlap.max(axis=0, initial=0) < IOU_AT_LEAST) & (found.confidence >= SURE)).sum())
    assert (missed, invented) == (0, 0), "people missed, and invented"
    assert scores <= SCORE_DIFFERENCE_AT_MOST


@pytest.mark.parametrize("name", MODELS)
def test_time_per_stage(name: str, photo: Frame, figure: Figure) -> None:
    with closing(Detector.open(name)) as detector:
        detector.detect(photo)  # the first one prepares the weights
        start_s = time.perf_counter()
        runs = [detector.detect_timed(photo)[1] for _ in range(REPEATS)]
        total_s = time.perf_counter() - start_s
    for stage in ("preprocess", "inference", "postprocess"):
        times_ms = np.array([run[stage] for run in runs]) * 1e3
        figure(stage, f"{np.median(times_ms):.1f} ms (p95 {np.percentile(times_ms, 95):.1f})")
    figure("in a row", f"{REPEATS / total_s:.2f} per second")
    assert all(run["inference"] > 0 for run in runs)


def digests(detector: Detector, frame: Frame) -> dict[str, str]:
    """Return the beginning of a checksum of the decoded picture, of the tensor, and of the raw outputs."""
    tensor, _ = prepare(frame.image, Normalizer(detector.manifest.input, detector.backend.input_params))
    raw = detector.backend.infer(tensor)
    outputs = b"".join(raw[name].values.tobytes() for name in sorted(raw))
    parts = {"picture": frame.image.tobytes(), "tensor": tensor.tobytes(), "raw outputs": outputs}
    return {part: hashlib.sha256(content).hexdigest()[:12] for part, content in parts.items()}


def _largest(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(wanted - found).max(initial=0))


def write_reference(frame: Frame) -> None:
    """Measure on this machine; run it on x86 only."""
    reference = {}
    for name in sorted(list_models()):
        with closing(Detector.open(name, threshold=LOWEST)) as detector:
            found = detector.detect(frame)
            rows = np.column_stack([found.xyxy.round(3), found.confidence.round(5)]).astype(float)
            reference[name] = {
                "runtime": detector.backend.name,
                "sha256": digests(detector, frame),
                "detections": [[round(value, 5) for value in row] for row in rows.tolist()],
            }
    REFERENCE.write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    from conftest import read_photo

    write_reference(read_photo())
