"""The command that measures flicker: on a video, against the best model's results smoothed over time, and on scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.frame import Frame
from edge_detector.tracking.follower import Follower
from edge_detector.tracking.tracker import Tracker
from tools.track.adapters import HIGH, LOST_S
from tools.track.chains import reference, scene_reference
from tools.track.flicker import Flicker
from tools.track.flicker import flicker as judge
from tools.track.scenes import SCENES, SIZE_WH
from tools.track.simulate import Step, simulate
from tools.track.video import make_follower, read_frames, search
from tools.track.video_commands import Model, Video, frame_rate, parse_rates

BEST = "ssd_resnet50_fpn_person_640_int8"
_WAYS: dict[str, dict[str, Any] | None] = {
    "as found": None,
    "followed": {},
    "motion model": {"tracking": {"flow": False}},
    "min_hits: 1": {"tracking": {"min_hits": 1}},
    "lost_s: 1": {"tracking": {"lost_s": 1.0}},
}
_CROWD = "50 walkers"  # more people than in all other scenes together


def flicker(
    video: Video,
    model: Model = BEST,
    rates: Annotated[str, typer.Option(help="Inferences per second, separated by commas.")] = "10,5,2",
    first: Annotated[int, typer.Option(min=0, help="Frame to begin with.")] = 0,
    last: Annotated[int | None, typer.Option(min=1, help="Frame to end before.")] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Synthetic scenes too, with so many seeds.")] = 0,
    first_seed: Annotated[int, typer.Option(min=0, help="What was tuned on some seeds is judged on others.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Folder in which detections are kept for the next time.")] = None,
) -> None:
    """Print how steadily objects are shown, and what is shown too late, too long or never for it."""
    frames = read_frames(video)
    part = slice(first, last)
    best, own = (_found(name, video, frames, keep)[part] for name in (BEST, model))
    frames, fps = frames[part], frame_rate(frames)
    detector = Detector.open(model)
    confident = [one[one.confidence >= detector.threshold] for one in own]
    objects = reference(best, Detector.open(BEST).threshold)
    print(f"| inferences/s | boxes | {' | '.join(_FIGURES)} |\n{'|---' * (len(_FIGURES) + 2)}|")
    for rate in parse_rates(rates):
        every = max(1, round(fps / rate))
        for name, blocks in _WAYS.items():
            if blocks is None:
                shown = [confident[number // every * every] for number in range(len(frames))]
            else:
                follower = make_follower(detector, detector.threshold, **blocks)
                shown = list(_followed(follower, frames, own, every))
            print(f"| {fps / every:g} | {name} | {_row(judge(shown, confident, objects))} |")
    if seeds:
        print(f"\n| inferences/s | scenes | {' | '.join(_OF_SCENES)} |\n{'|---' * (len(_OF_SCENES) + 2)}|")
        for rate in parse_rates(rates):
            for name, way in (("as found", _as_found), ("followed", _tracked)):
                got = on_scenes(way, rate, range(first_seed, first_seed + seeds))
                print(f"| {rate:g} | {name} | {_row(got, _OF_SCENES)} |")


def on_scenes(way: Callable[[Sequence[Step]], Iterable[Detections]], rate_hz: float, seeds: range) -> Flicker:
    """Return the figures of what `way` shows at the inferences of the synthetic scenes, without the crowd."""
    total = Flicker()
    for seed in seeds:
        for scene in (build(np.random.default_rng(seed)) for build in SCENES):
            if scene.name != _CROWD:
                steps = list(simulate(scene, rate_hz, seed))
                total += judge(list(way(steps)), list(_as_found(steps)), scene_reference(steps))
    return total


def _as_found(steps: Sequence[Step]) -> Iterator[Detections]:
    for step in steps:
        yield step.detections[step.detections.confidence >= HIGH]


def _tracked(steps: Sequence[Step]) -> Iterator[Detections]:
    tracker = Tracker(min_hits=2, lost_s=LOST_S)
    for step in steps:
        tracker.update(step.detections, step.at_s)
        shown = tracker.objects(SIZE_WH)
        yield shown[np.all(shown.xyxy[:, 2:] - shown.xyxy[:, :2] >= 1, axis=1)]


def _followed(
    follower: Follower, frames: Sequence[Frame], found: Sequence[Detections], every: int
) -> Iterator[Detections]:
    for number, frame in enumerate(frames):
        follower.look(frame)
        if number % every == 0:
            follower.found(found[number], frame)
        yield follower.objects(frame.size_wh)[0]


def _found(name: str, video: Path, frames: Sequence[Frame], keep: Path | None) -> list[Detections]:
    """Return what a model finds, down to what continues an object; from the folder `keep`, if it was found before."""
    kept = None if keep is None else keep / f"{video.stem}-{Path(name).stem}.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as parts:
            ends = np.cumsum(parts["counts"])[:-1]
            columns = [np.split(parts[name], ends) for name in ("xyxy", "confidence", "class_id")]
        return [Detections(*parts_of) for parts_of in zip(*columns, strict=True)]
    found = search(Detector.open(name), frames)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            kept,
            counts=np.array([len(one) for one in found]),
            xyxy=np.concatenate([one.xyxy for one in found]),
            confidence=np.concatenate([one.confidence for one in found]),
            class_id=np.concatenate([one.class_id for one in found]),
        )
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


_FIGURES: dict[str, Callable[[Flicker], str]] = {
    "gaps": lambda f: f"{f.per_100(f.gaps):.2f}",
    "flashes": lambda f: f"{f.per_100(f.flashes):.2f}",
    "corners %": lambda f: f"{100 * _mean(f.corners):.2f}",
    "scores": lambda f: f"{_mean(f.scores):.3f}",
    "breaks": lambda f: f"{f.per_100(f.breaks):.2f}",
    "covered": lambda f: f"{f.shown / f.objects:.3f}",
    "IoU": lambda f: f"{_mean(f.ious):.3f}",
    "extra": lambda f: f"{f.per_100(f.extra):.1f}",
    "late": lambda f: f"{_mean(f.late):.2f}",
    "never": lambda f: f"{f.never} of {len(f.late) + f.never}",
    "left": lambda f: f"{_mean(f.left):.2f}",
}
_OF_SCENES = ("breaks", "covered", "IoU", "extra", "late", "never", "left")  # boxes a long interval apart do not link


def _row(got: Flicker, figures: Iterable[str] = tuple(_FIGURES)) -> str:
    return " | ".join(_FIGURES[name](got) for name in figures)
