"""A simulated detector that looks at a scene at irregular intervals."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from tools.track.scenes import ASPECT, FPS, SIZE_WH, Scene

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectorModel:
    """What is wrong with the detector.

    Attributes:
        jitter: standard deviation of the box's centre and size, in shares of its width and height.
        miss: share of the objects that a single inference misses, besides the runs.
        miss_run_every_s: mean time between the starts of runs in which an object is not found at all.
        miss_run_s: mean length of such a run.
        false_positives: mean number in a frame; one lasts for `false_s` at most, in its place.
        false_s: longest life of a false positive.
        min_visible: less of an object is never detected, and not asked for by the metrics either.
        confidence_range: of an object's mean confidence; a detection's differs by `confidence_sigma`.
        confidence_sigma: standard deviation of the confidence around its mean.
        confidence_limits: lowest and highest that the detector gives out.
        interval_jitter: an interval is the nominal one times 1 - this to 1 + this.
        hiccup: share of the intervals that are two to three times as long.
    """

    jitter: float = 0.03
    miss: float = 0.10
    miss_run_every_s: float = 15.0
    miss_run_s: float = 0.6
    false_positives: float = 0.2
    false_s: float = 0.4
    min_visible: float = 0.4
    confidence_range: tuple[float, float] = (0.42, 0.75)
    confidence_sigma: float = 0.08
    confidence_limits: tuple[float, float] = (0.3, 0.85)
    interval_jitter: float = 0.4
    hiccup: float = 0.05


@dataclass(frozen=True, eq=False)
class Truth:
    """The K people in one frame.

    Attributes:
        at_s: when.
        ids: (K,) int64.
        xyxy: (K, 4) float64, pixels.
        scored: (K,) bool; False for those that nobody can be asked to see.
    """

    at_s: float
    ids: npt.NDArray[np.int64]
    xyxy: Floats
    scored: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Step:
    """One inference: what it found, what was there, and all frames from it on until before the next one."""

    at_s: float
    detections: Detections
    truth: Truth
    shown: tuple[Truth, ...]


def inference_frames(frames: int, rate_hz: float, rng: np.random.Generator, model: DetectorModel) -> list[int]:
    """Return the numbers of the frames that an inference at about `rate_hz` gets to see."""
    at, chosen = 0.0, [0]
    while True:
        interval_s = rng.uniform(1 - model.interval_jitter, 1 + model.interval_jitter) / rate_hz
        if rng.random() < model.hiccup:
            interval_s *= rng.uniform(2, 3)
        at = max(at + interval_s, (chosen[-1] + 1) / FPS)
        if round(at * FPS) >= frames:
            return chosen
        chosen.append(round(at * FPS))


def simulate(scene: Scene, rate_hz: float, seed: int, model: DetectorModel | None = None) -> Iterator[Step]:
    """Yield what a detector finds in a scene at about `rate_hz` inferences a second; a seed gives the same always."""
    model = model or DetectorModel()
    rng = np.random.default_rng([seed, zlib.crc32(scene.name.encode()), round(1000 * rate_hz)])
    frames, people = scene.visible.shape
    hidden = _runs(rng, (frames, people), model) | (scene.visible < model.min_visible)
    least, most = model.confidence_range
    mean_confidence: Floats = rng.uniform(least, most, (people,))
    false_boxes = _false_boxes(rng, frames, model)
    truths = [_truth(scene, frame, model) for frame in range(frames)]
    chosen = inference_frames(frames, rate_hz, rng, model)
    for frame, following in zip(chosen, [*chosen[1:], frames], strict=True):
        found = ~hidden[frame] & (rng.random(people) >= model.miss)
        xyxy = _jittered(scene.xyxy[frame][found], rng, model.jitter)
        false = _jittered(false_boxes[frame], rng, model.jitter)
        confidence = mean_confidence[found] + rng.normal(0, model.confidence_sigma, len(xyxy))
        false_confidence = rng.normal(0.42, model.confidence_sigma, len(false))
        confidence = np.clip(np.concatenate([confidence, false_confidence]), *model.confidence_limits)
        order = np.argsort(-confidence, kind="stable")
        detections = Detections(
            np.concatenate([xyxy, false])[order].astype(np.float32),
            confidence[order].astype(np.float32),
            np.zeros(len(order), np.int64),
        )
        yield Step(truths[frame].at_s, detections, truths[frame], tuple(truths[frame:following]))


def _truth(scene: Scene, frame: int, model: DetectorModel) -> Truth:
    ids = np.flatnonzero(~np.isnan(scene.xyxy[frame, :, 0]))
    return Truth(frame / FPS, ids, scene.xyxy[frame, ids], scene.visible[frame, ids] >= model.min_visible)


def _jittered(xyxy: Floats, rng: np.random.Generator, sigma: float) -> Floats:
    """Return boxes (N, 4) whose centres and sizes are off, cut at the picture's edges."""
    wh = xyxy[:, 2:] - xyxy[:, :2]
    centre = (xyxy[:, 2:] + xyxy[:, :2]) / 2 + rng.normal(0, sigma, wh.shape) * wh
    wh = wh * np.exp(rng.normal(0, sigma, wh.shape))
    return np.clip(np.concatenate([centre - wh / 2, centre + wh / 2], axis=1), 0, np.tile(SIZE_WH, 2))


def _runs(rng: np.random.Generator, shape: tuple[int, int], model: DetectorModel) -> npt.NDArray[np.bool_]:
    """Return (frames, people): True where the detector fails to find somebody for a while."""
    missed = np.zeros(shape, np.bool_)
    starts = rng.random(shape) < 1 / (model.miss_run_every_s * FPS)
    for frame, number in np.argwhere(starts):
        missed[frame : frame + 1 + round(rng.exponential(model.miss_run_s) * FPS), number] = True
    return missed


def _false_boxes(rng: np.random.Generator, frames: int, model: DetectorModel) -> list[Floats]:
    """Return the boxes per frame that are nothing."""
    boxes: list[list[Floats]] = [[] for _ in range(frames)]
    longest = max(1, round(model.false_s * FPS))
    for frame in range(1 - longest, frames):
        for _ in range(rng.poisson(2 * model.false_positives / (longest + 1))):
            height = rng.uniform(60, 250)
            x, y = rng.uniform(0, SIZE_WH[0] - ASPECT * height), rng.uniform(0, SIZE_WH[1] - height)
            box = np.array([x, y, x + ASPECT * height, y + height])
            for alive in range(max(frame, 0), min(frame + rng.integers(1, longest + 1), frames)):
                boxes[alive].append(box)
    return [np.array(found, np.float64).reshape(-1, 4) for found in boxes]
