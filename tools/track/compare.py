"""Measures the trackers and puts the figures side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tools.environments import Package, available, ensure, packages, run_module, size_mb
from tools.track.metrics import Score
from tools.track.peers import PEERS

WORKER = "tools.track.worker"
CROWD = "50 walkers"  # one scene with more people than all others together: its counts are given apart


@dataclass(frozen=True)
class Cost:
    """What a tracker takes: beyond NumPy and OpenCV on disk, in all in memory, and per update."""

    install_mb: float
    rss_mb: float
    ms_10: float
    ms_50: float


@dataclass(frozen=True)
class Outcome:
    """One tracker's figures.

    Attributes:
        key: in PEERS.
        cost: what it takes.
        results: one dict per scene, rate and seed, as the worker prints them.
        packages: what is installed in its environment.
    """

    key: str
    cost: Cost
    results: Sequence[dict[str, Any]]
    packages: Sequence[Package]

    def score(self, frames: str, rate_hz: float, scenes: Iterable[str]) -> Score:
        """Return the sum over scenes and seeds at one rate; `frames` is at_inference or shown."""
        picked = [r for r in self.results if r["rate_hz"] == rate_hz and r["scene"] in set(scenes)]
        return sum((Score(**r[frames]) for r in picked), Score())


def measure(key: str, folder: Path, rates_hz: Sequence[float], seeds: range, wheels: bool) -> Outcome:
    """Run one tracker in its environment below `folder`, which is made if need be.

    Raises:
        ConfigError: its environment cannot be made, or it fails.
    """
    peer = PEERS[key]
    base, venv = folder / "base", folder / peer.venv
    ensure(base, ())
    ensure(venv, peer.requirements)
    runs = [cast("dict[str, float]", run_module(venv, WORKER, [key, "cost"])) for _ in range(2)]
    least = {name: min(run[name] for run in runs) for name in runs[0]}
    rates = [str(rate_hz) for rate_hz in rates_hz]
    chosen = ["--seeds", str(len(seeds)), "--first-seed", str(seeds.start)]
    results = run_module(venv, WORKER, [key, "quality", *chosen, "--rates", *rates])
    installed = packages(venv)
    if wheels:
        installed = [dataclasses.replace(package, wheels=available(package, venv)) for package in installed]
    cost = Cost(install_mb=size_mb(venv) - size_mb(base), **least)
    return Outcome(key, cost, cast("list[dict[str, Any]]", results), installed)


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def cost_table(outcomes: Sequence[Outcome]) -> str:
    """Return what the trackers take, as Markdown."""
    rows = []
    for outcome in outcomes:
        cost = outcome.cost
        size = f"{max(cost.install_mb, 0):.0f}"
        rows.append((PEERS[outcome.key].name, size, f"{cost.rss_mb:.0f}", f"{cost.ms_10:.2f}", f"{cost.ms_50:.2f}"))
    return _table(("tracker", "install MB", "RSS MB", "ms, 10 objects", "ms, 50 objects"), rows)


def quality_table(outcomes: Sequence[Outcome], rate_hz: float, scenes: Sequence[str]) -> str:
    """Return how well the trackers follow at one rate, as Markdown; the last four columns are of every 30 fps frame."""
    headings = ("tracker", "switches", "fragments", "false tracks", "IDF1", "coverage", "precision", "mean IoU")
    shown = ("shown: IDF1", "coverage", "precision", "mean IoU")
    rows = []
    for outcome in outcomes:
        now, viewed = (outcome.score(frames, rate_hz, scenes) for frames in ("at_inference", "shown"))
        counts = (now.switches, now.fragments, now.false_tracks)
        shares = (f"{share:.3f}" for s in (now, viewed) for share in (s.idf1, s.coverage, s.precision, s.mean_iou))
        rows.append((PEERS[outcome.key].name, *counts, *shares))
    return _table((*headings, *shown), rows)


def scene_table(outcomes: Sequence[Outcome], rate_hz: float) -> str:
    """Return switches / false tracks / IDF1 per scene at one rate, as Markdown."""
    scenes = _scenes(outcomes)
    rows = []
    for outcome in outcomes:
        scores = [outcome.score("at_inference", rate_hz, [scene]) for scene in scenes]
        cells = [f"{s.switches} / {s.false_tracks} / {s.idf1:.2f}" for s in scores]
        rows.append((PEERS[outcome.key].name, *cells))
    return _table(("tracker", *scenes), rows)


def package_table(outcomes: Sequence[Outcome]) -> str:
    """Return every package once, with the environments that have it, as Markdown."""
    found: dict[Package, list[str]] = {}
    for outcome in outcomes:
        for package in outcome.packages:
            venvs = found.setdefault(package, [])
            if PEERS[outcome.key].venv not in venvs:
                venvs.append(PEERS[outcome.key].venv)
    rows = []
    for package, venvs in sorted(found.items(), key=lambda item: item[0].name.lower()):
        wheels = "pure Python" if package.pure else ", ".join(package.wheels) or "none or not asked"
        rows.append((package.name, package.version, package.licence, wheels, ", ".join(venvs)))
    return _table(("package", "version", "licence", "wheels", "needed by"), rows)


def report(outcomes: Sequence[Outcome], rates_hz: Sequence[float]) -> str:
    """Return all tables as Markdown."""
    scenes = _scenes(outcomes)
    few = [scene for scene in scenes if scene != CROWD]
    parts = ["## Cost", cost_table(outcomes)]
    for rate_hz in rates_hz:
        parts += [f"## {rate_hz:g} inferences per second, {len(few)} scenes", quality_table(outcomes, rate_hz, few)]
        if CROWD in scenes:
            parts += [f"### {CROWD}", quality_table(outcomes, rate_hz, [CROWD])]
        parts += ["### Per scene: switches / false tracks / IDF1", scene_table(outcomes, rate_hz)]
    return "\n\n".join([*parts, "## Packages", package_table(outcomes)]) + "\n"


def _scenes(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(result["scene"] for outcome in outcomes for result in outcome.results))
