"""Runs one tracker in its own interpreter and prints what came of it as JSON: python -m tools.track.worker."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np

from tools.track.adapters import Adapter, Boxes, Ids
from tools.track.metrics import Shown, score
from tools.track.peers import PEERS
from tools.track.scenes import SCENES, SIZE_WH, walkers
from tools.track.simulate import Step, simulate


def cut(boxes: Boxes, ids: Ids) -> tuple[Boxes, Ids]:
    """Return the boxes as a viewer sees them: cut at the picture's edges, those outside of it left out."""
    boxes = np.clip(np.asarray(boxes, np.float64), 0, np.tile(SIZE_WH, 2))
    inside = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= 1
    return boxes[inside], np.asarray(ids, np.int64)[inside]


def follow(adapter: Adapter, steps: Iterator[Step]) -> tuple[list[Shown], list[Shown]]:
    """Return what a tracker shows at the inferences, and in all frames of a 30 fps picture."""
    at_inference, in_every_frame = [], []
    for step in steps:
        boxes, ids = cut(*adapter.step(step.detections, step.at_s))
        at_inference.append(Shown(step.truth, boxes, ids))
        in_every_frame.append(at_inference[-1])
        for truth in step.shown[1:]:
            if hasattr(adapter, "carried"):
                boxes, ids = cut(*adapter.carried(truth.at_s))
            in_every_frame.append(Shown(truth, boxes, ids))
    return at_inference, in_every_frame


def quality(key: str, rates_hz: list[float], seeds: range) -> list[dict[str, object]]:
    """Return the scores of one tracker per scene, rate and seed."""
    results: list[dict[str, object]] = []
    for seed in seeds:
        for build in SCENES:
            scene = build(np.random.default_rng(seed))
            for rate_hz in rates_hz:
                at_inference, shown = follow(PEERS[key].make(rate_hz), simulate(scene, rate_hz, seed))
                results.append(
                    {
                        "scene": scene.name,
                        "rate_hz": rate_hz,
                        "seed": seed,
                        "at_inference": vars(score(at_inference)),
                        "shown": vars(score(shown)),
                    }
                )
    return results


def median_ms(key: str, count: int, rounds: int = 2) -> float:
    """Return the median milliseconds of an update with `count` objects at 5 Hz, of the fastest round."""
    scene = walkers(np.random.default_rng(0), count)
    medians = []
    for _ in range(rounds):
        adapter, times = PEERS[key].make(5.0), []
        for step in simulate(scene, 5.0, 0):
            start = time.perf_counter()
            adapter.step(step.detections, step.at_s)
            times.append(time.perf_counter() - start)
        medians.append(1000 * statistics.median(times[5:]))
    return min(medians)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("key", choices=list(PEERS))
    parser.add_argument("what", choices=["quality", "cost"])
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 2.0, 5.0, 10.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # a peer's own deprecations
    if arguments.what == "quality":
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        answer: object = quality(arguments.key, arguments.rates, seeds)
    else:
        ms_10 = median_ms(arguments.key, 10)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {"rss_mb": peak_mb, "ms_10": ms_10, "ms_50": median_ms(arguments.key, 50)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
