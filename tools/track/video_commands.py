"""Commands that measure on a video: boxes between inferences, the motion gate, regions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from edge_detector.detector import Detector
from edge_detector.errors import ConfigError
from edge_detector.frame import Frame
from edge_detector.tracking.flow import to_luma
from edge_detector.tracking.motion_gate import MotionGate
from tools.track.flicker import lasting
from tools.track.video import (
    agreement,
    appearances,
    count_searches,
    empty_scene,
    later,
    make_follower,
    read_frames,
    recall,
    search,
    show_followed,
    show_stale,
    still_stretch,
    wake_delay,
)

Video = Annotated[Path, typer.Argument(help="A video of a camera that stands still.")]
Model = Annotated[str, typer.Option(help="A shipped model's name, or a .tflite file.")]


def follow(
    video: Video,
    model: Model = "ssd_resnet50_fpn_person_640_int8",
    rates: Annotated[str, typer.Option(help="Inferences per second, separated by commas.")] = "1,2,5",
) -> None:
    """Print how well boxes agree with those of an inference on every frame: stale, by motion model, with flow."""
    frames, detector = read_frames(video), Detector.open(model)
    found, fps = search(detector, frames), frame_rate(frames)
    truth = lasting(found, detector.threshold)
    rows = ["| inferences/s | told | boxes | mean IoU | IoU >= 0.5 | shown per frame | ms per frame |", _RULE * 7 + "|"]
    for rate in parse_rates(rates):
        every = max(1, round(fps / rate))
        for told, late in (("at once", 0), ("one period late", every)):
            for name, blocks in _WAYS.items():
                ms: list[float] = []
                if blocks is None:
                    shown = show_stale(frames, found, detector.threshold, every, late)
                else:
                    follower = make_follower(detector, detector.threshold, **blocks)
                    shown = show_followed(follower, frames, found, every, late, ms)
                got = agreement(shown, truth, detector.threshold, ms)
                rows.append(
                    f"| {fps / every:g} | {told} | {name} | {got.mean_iou:.3f} | {got.half:.3f} | {got.boxes:.1f} "
                    f"| {got.ms:.2f} |"
                )
    large = [dataclasses.replace(frame, image=_resized(frame.image, (1280, 720))) for frame in frames[:200]]
    ms = []
    scale = np.tile(np.divide((1280, 720), frames[0].size_wh), 2).astype(np.float32)
    wide = [dataclasses.replace(one, xyxy=one.xyxy * scale) for one in found[:200]]
    follower = make_follower(detector, detector.threshold)
    boxes = [len(one) for one in show_followed(follower, large, wide, max(1, round(fps / 2)), 0, ms)]
    print("\n".join(rows))
    print(
        f"\nAt 1280x720, all of it (small picture, gate, flow, tracker), {np.mean(boxes):.1f} objects: "
        f"{np.median(ms):.2f} ms per frame, p95 {np.percentile(ms, 95):.2f}"
    )


def gate(video: Video, model: Model = "ssd_resnet50_fpn_person_640_int8") -> None:
    """Print what the motion gate saves on a still scene in changing light, what it costs, and when it wakes."""
    frames, detector = read_frames(video), Detector.open(model)
    fps, seconds = frame_rate(frames), 60.0
    print("| still scene of 60 s | searched | saved |\n|---|---|---|")
    for kind in ("still", "exposure", "ramp", "flicker", "rain", "infrared"):
        follower = make_follower(detector, detector.threshold)
        ms: list[float] = []
        count_searches(follower, frames[:100], None, ms)
        stretch = still_stretch(frames[:100], kind, seconds, fps)
        wanted = count_searches(follower, stretch, None, ms)
        print(f"| {kind} | {wanted} of {len(stretch)} | {1 - wanted / len(stretch):.1%} |")
    # People stop for 20 s (a frame repeated, with noise), then go on.
    follower, total, still = make_follower(detector, detector.threshold), 0, 0
    rng, by_s, out = np.random.default_rng(0), 0.0, []
    for start in range(0, len(frames) - 100, 200):
        out += later(frames[start : start + 100], by_s)
        for number in range(round(20 * fps)):
            frozen = frames[start + 99]
            image = np.clip(frozen.image + rng.normal(0, 2, frozen.image.shape), 0, 255).astype(np.uint8)
            at_s = frozen.captured_at + by_s + (number + 1) / fps
            out.append(Frame(image, 0, at_s, at_s, frozen.source))
        by_s += 20
    for number, frame in enumerate(out):
        wanted = count_searches(follower, [frame], detector, [])
        if number % (100 + round(20 * fps)) >= 100:
            total, still = total + 1, still + wanted
    print(f"| people who stop for 20 s, four times | {still} of {total} | {1 - still / total:.1%} |")
    empty, appeared = empty_scene(frames[:100]), appearances(detector, frames, search(detector, frames))
    delays_s = np.array(
        [
            wake_delay(make_follower(detector, detector.threshold), frames, empty, first, boxes)
            for first, boxes in appeared
        ]
    )
    print(
        f"\n{len(delays_s)} objects appear in the still scene, each alone. Motion has them searched at their first "
        f"detection or before: {(delays_s == 0).sum()}; within 0.5 s: {(delays_s <= 0.5).sum()}; in the end: "
        f"{np.isfinite(delays_s).sum()}, after {delays_s[np.isfinite(delays_s)].max():.1f} s at most"
    )
    ms = []
    motion_gate = MotionGate()
    for frame in frames[:200]:
        image = _resized(frame.image, (1280, 720))
        start_s = time.perf_counter()
        motion_gate.look(to_luma(image), frame.captured_at)
        ms.append(1e3 * (time.perf_counter() - start_s))
    print(f"\nThe gate with its small picture, 1280x720: {np.median(ms):.2f} ms, p95 {np.percentile(ms, 95):.2f}")


def regions(video: Video, rate: Annotated[float, typer.Option(help="Inferences per second.")] = 5.0) -> None:
    """Print what searching enlarged parts finds with the model of 320, against whole frames and the model of 640."""
    frames = read_frames(video)
    large = Detector.open("ssd_resnet50_fpn_person_640_int8")
    truth = [one.xyxy for one in lasting(search(large, frames), large.threshold)]
    small, every = Detector.open("ssd_resnet50_fpn_person_320_int8"), max(1, round(frame_rate(frames) / rate))
    print("| model | searched | recall | of people under 60 pixels | shown per frame | ms per search |")
    print(_RULE * 6 + "|")
    for name, detector, blocks in (
        ("320", small, {"enabled": False}),
        ("320", small, {"enabled": True}),
        ("320", small, {"enabled": True, "whole_every": 5}),
        ("640", large, {"enabled": False}),
        ("640", large, {"enabled": True}),
    ):
        every_whole = blocks.get("whole_every", 3)
        how = f"parts, one in {every_whole} whole" if blocks["enabled"] else "whole"
        hit, hit_small, boxes, ms = recall(detector, frames, truth, every, regions=blocks)
        print(f"| {name} | {how} | {hit:.3f} | {hit_small:.3f} | {boxes:.1f} | {ms:.1f} |")


_RULE = "|---"
_WAYS: dict[str, dict[str, Any] | None] = {
    "stale": None,
    "motion model": {"tracking": {"flow": False}},
    "with flow": {},
}


def frame_rate(frames: Sequence[Frame]) -> float:
    """Return the frames per second."""
    return (len(frames) - 1) / (frames[-1].captured_at - frames[0].captured_at)


def _resized(image: np.typing.NDArray[np.uint8], size_wh: tuple[int, int]) -> np.typing.NDArray[np.uint8]:
    return np.ascontiguousarray(cv2.resize(image, size_wh), np.uint8)


def parse_rates(text: str) -> list[float]:
    """Return the numbers of "1,2,5".

    Raises:
        ConfigError: it holds anything else, or a rate out of range.
    """
    try:
        rates_hz = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--rates {text}: wanted numbers separated by commas, as 1,2,5") from None
    if not all(0 < rate_hz <= 30 for rate_hz in rates_hz):
        raise ConfigError(f"--rates {text}: a rate must be above 0 and at most 30")
    return rates_hz
