"""What following, the motion gate and regions are worth on a video, by the detector's own results on every frame."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.config import Config
from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import EndOfStream
from edge_detector.frame import Frame
from edge_detector.sources import open_source
from edge_detector.tracking.association import iou_matrix
from edge_detector.tracking.follower import LEAVE, Follower, FollowerOptions

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shown:
    """Boxes on every frame against the reference's.

    Attributes:
        mean_iou: over all boxes of the reference; 0 for one that nothing is shown for.
        half: share of them with an IoU of 0.5 and more.
        boxes: shown per frame.
        ms: median per frame of what carries the boxes, without inference.
    """

    mean_iou: float
    half: float
    boxes: float
    ms: float


def read_frames(path: Path) -> list[Frame]:
    """Return all frames of a video."""
    source, frames = open_source(str(path)), []
    try:
        while True:
            frame = source.read(1.0)
            if frame is not None:
                frames.append(frame)
    except EndOfStream:
        return frames
    finally:
        source.close()


def search(detector: Detector, frames: Sequence[Frame]) -> list[Detections]:
    """Return what the detector finds on each frame, down to what continues an object."""
    threshold = detector.threshold
    detector.set_threshold(threshold * LEAVE)
    try:
        return [detector.detect(frame) for frame in frames]
    finally:
        detector.set_threshold(threshold)


def make_follower(detector: Detector, threshold: float, **blocks: Any) -> Follower:
    """Return a follower with default settings but for `blocks`."""
    (camera,) = Config.model_validate(blocks).feeds.values()
    canvas_wh = detector.manifest.input.width, detector.manifest.input.height
    return Follower("camera", camera, FollowerOptions(detector.manifest.labels, threshold, canvas_wh))


def reference_boxes(found: Detections, threshold: float) -> Boxes:
    """Return the boxes that count."""
    return found.xyxy[found.confidence >= threshold]


def show_stale(
    frames: Sequence[Frame], found: Sequence[Detections], threshold: float, every: int, late: int
) -> Iterator[Boxes]:
    """Yield the boxes of the newest search that is known, as they were."""
    for number in range(len(frames)):
        searched = (number - late) // every * every
        yield reference_boxes(found[searched], threshold) if searched >= 0 else np.zeros((0, 4), np.float32)


def show_followed(
    follower: Follower, frames: Sequence[Frame], found: Sequence[Detections], every: int, late: int, ms: list[float]
) -> Iterator[Boxes]:
    """Yield the boxes where the follower has carried them; append the time of each frame to `ms`."""
    for number, frame in enumerate(frames):
        start_s = time.perf_counter()
        follower.look(frame)
        searched = number - late
        if searched >= 0 and searched % every == 0:
            follower.found(found[searched], frames[searched])
        shown, _, _ = follower.objects(frame.size_wh)
        ms.append(1e3 * (time.perf_counter() - start_s))
        yield shown.xyxy


def agreement(shown: Iterator[Boxes], found: Sequence[Detections], threshold: float, ms: list[float]) -> Shown:
    """Return how far the boxes shown agree with those that were found."""
    ious, boxes = [], 0
    for own, detections in zip(shown, found, strict=True):
        boxes += len(own)
        ious.append(best_ious(own, reference_boxes(detections, threshold)))
    values = np.concatenate(ious)
    return Shown(
        float(values.mean()), float((values >= 0.5).mean()), boxes / len(found), float(np.median(ms)) if ms else 0.0
    )


def best_ious(own: Boxes, truth: Boxes) -> npt.NDArray[np.float64]:
    """Return the IoU of each box of `truth` with its own one of `own`, best first; 0 without one."""
    best = np.zeros(len(truth))
    table = iou_matrix(truth, own)
    while table.size and table.max() > 0:
        row, column = np.unravel_index(int(table.argmax()), table.shape)
        best[row] = table[row, column]
        table[row], table[:, column] = 0, 0
    return best


def still_stretch(frames: Sequence[Frame], kind: str, seconds: float, fps: float) -> list[Frame]:
    """Return the empty scene of a video, standing still for so long with noise, in light that changes as `kind` says.

    The kinds are "still", "exposure" (jumps by a third every 3 s), "ramp", "flicker", "rain", and "infrared" (another
    light every 15 s).
    """
    rng = np.random.default_rng(0)
    empty = empty_scene(frames)
    infrared = np.repeat((255 - empty.mean(axis=2, keepdims=True)) * 0.5 + 40, 3, axis=2)
    start = frames[-1]
    stretch = []
    for number in range(round(seconds * fps)):
        at_s = number / fps
        picture = infrared if kind == "infrared" and int(at_s / 15) % 2 else empty
        gains = {"exposure": 1.3 if int(at_s / 3) % 2 else 1.0, "ramp": 1 + 0.5 * np.sin(at_s / 2)}
        gains["flicker"] = 1 + 0.05 * np.sin(21 * at_s)
        picture = picture * gains.get(kind, 1.0)
        if kind == "rain":
            for x, y in rng.integers((0, 0), empty.shape[1::-1], (120, 2)).tolist():
                cv2.line(picture, (x, y), (x + 2, y + 30), (200, 200, 200), 1)
        noisy = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
        taken_s = start.captured_at + (number + 1) / fps
        stretch.append(Frame(noisy, start.frame_id + number + 1, taken_s, taken_s, start.source))
    return stretch


def empty_scene(frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
    """Return what is behind all that moves, (H, W, 3) 0 to 255: the median of every tenth frame."""
    return np.asarray(np.median(np.stack([frame.image for frame in frames[::10]]), axis=0), np.float32)


def appearances(
    detector: Detector, frames: Sequence[Frame], found: Sequence[Detections]
) -> list[tuple[int, dict[int, npt.NDArray[np.float32]]]]:
    """Return of each object in which frame it was found first, and its box (4,) by frame from when it counts."""
    follower, numbers = make_follower(detector, detector.threshold), {f.wall_time: n for n, f in enumerate(frames)}
    firsts: dict[int, int] = {}
    boxes: dict[int, dict[int, npt.NDArray[np.float32]]] = {}
    for number, frame in enumerate(frames):
        follower.look(frame)
        follower.found(found[number], frame)
        for event in follower.take_events():
            firsts.setdefault(event.object.track_id, numbers[event.object.start_ts])
        shown, _, _ = follower.objects(frame.size_wh)
        for track_id, box in zip(np.asarray(shown.tracker_id).tolist(), shown.xyxy, strict=True):
            boxes.setdefault(track_id, {})[number] = box
    return [(first, boxes[track_id]) for track_id, first in firsts.items() if track_id in boxes]


def wake_delay(
    follower: Follower,
    frames: Sequence[Frame],
    empty: npt.NDArray[np.float32],
    first: int,
    boxes: Mapping[int, npt.NDArray[np.float32]],
) -> float:
    """Return the seconds from an object's first detection, in frame `first`, until motion has it searched.

    The scene is `empty`, with noise, for 10 s; from a second before, the object's own part of the video is put into it.
    """
    period_s = frames[1].captured_at - frames[0].captured_at
    begin = max(0, first - round(1 / period_s))
    noise = np.random.default_rng(0).normal(0, 3, (7, *empty.shape)).astype(np.float32)
    for number in range(begin - round(10 / period_s), len(frames)):
        picture = empty + noise[number % len(noise)]
        if number >= begin:
            box = boxes[min(boxes, key=lambda known: abs(known - number))]
            x1, y1, x2, y2 = box + np.array([-1, -1, 1, 1]) * (8 + 0.2 * (box[2:] - box[:2]).max())
            part = np.s_[max(0, int(y1)) : int(y2), max(0, int(x1)) : int(x2)]
            picture[part] = frames[number].image[part]
        at_s = number * period_s
        follower.look(Frame(np.clip(picture, 0, 255).astype(np.uint8), number, at_s, at_s, "appearance"))
        if follower.wants_search() and number >= begin and not follower.still:
            return max(0.0, (number - first) * period_s)
    return np.inf


def later(frames: Sequence[Frame], by_s: float) -> list[Frame]:
    """Return the frames as if they were taken later."""
    return [
        Frame(frame.image, frame.frame_id, frame.captured_at + by_s, frame.wall_time + by_s, frame.source)
        for frame in frames
    ]


def count_searches(follower: Follower, frames: Sequence[Frame], detector: Detector | None, ms: list[float]) -> int:
    """Return how many frames the follower wants searched, with nothing found unless a detector is given."""
    wanted = 0
    for frame in frames:
        start_s = time.perf_counter()
        follower.look(frame)
        wants = follower.wants_search()
        ms.append(1e3 * (time.perf_counter() - start_s))
        if wants:
            wanted += 1
            follower.found(Detections.empty() if detector is None else detector.detect(frame), frame)
    return wanted


def recall(
    detector: Detector,
    frames: Sequence[Frame],
    truth: Sequence[Boxes],
    every: int,
    **blocks: Any,
) -> tuple[float, float, float, float]:
    """Search every so many frames, following between them.

    Returns:
        The share of the reference's boxes that are shown with an IoU of 0.5 and more, that share for those less than
        60 pixels high, boxes shown per frame, and the median of milliseconds per search.
    """
    threshold = detector.threshold
    follower = make_follower(detector, threshold, motion={"enabled": True}, **blocks)
    detector.set_threshold(follower.lowest_score)
    hits: list[npt.NDArray[np.bool_]] = []
    small: list[npt.NDArray[np.bool_]] = []
    ms, boxes = [], 0
    for number, frame in enumerate(frames):
        follower.look(frame)
        if number % every == 0:
            region = follower.propose_region(frame.size_wh)
            follower.searching(frame, region)
            start_s = time.perf_counter()
            found, _ = detector.detect_timed(frame, region)
            ms.append(1e3 * (time.perf_counter() - start_s))
            follower.found(found, frame, region)
        shown, _, _ = follower.objects(frame.size_wh)
        boxes += len(shown)
        hits.append(best_ious(shown.xyxy, truth[number]) >= 0.5)
        small.append(truth[number][:, 3] - truth[number][:, 1] < 60)
    detector.set_threshold(threshold)
    hit, is_small = np.concatenate(hits), np.concatenate(small)
    return float(hit.mean()), float(hit[is_small].mean()), boxes / len(frames), float(np.median(ms))
