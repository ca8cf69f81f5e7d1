"""python tools/track: compares object trackers on scenes whose true identities are known."""

from __future__ import annotations

import dataclasses
import json as json_module
import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as `python tools/track` from anywhere

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edge_detector.errors import ConfigError, EdgeDetectorError
from tools.track.compare import Outcome, measure, report
from tools.track.flicker_commands import flicker
from tools.track.peers import PEERS
from tools.track.scenes import SCENES
from tools.track.simulate import simulate
from tools.track.video_commands import follow, gate, parse_rates, regions

console = Console(stderr=True)
app = typer.Typer(no_args_is_help=True, add_completion=False)
for command in (follow, gate, regions, flicker):
    app.command()(command)


@app.command()
def scenes(
    seed: Annotated[int, typer.Option(help="Of the scenes and of the detector.")] = 0,
    rate: Annotated[float, typer.Option(min=0.1, max=30, help="Inferences per second.")] = 5.0,
) -> None:
    """Print what the scenes ask of a tracker."""
    table = Table(title=f"seed {seed}, {rate:g} inferences per second")
    for heading in ("scene", "seconds", "objects", "object-seconds", "hidden", "inferences", "detections", "step IoU"):
        table.add_column(heading, justify="left" if heading == "scene" else "right")
    for build in SCENES:
        scene = build(np.random.default_rng(seed))
        steps = list(simulate(scene, rate, seed))
        there = [truth for step in steps for truth in step.shown]
        present = sum(len(truth.ids) for truth in there)
        hidden = sum(int((~truth.scored).sum()) for truth in there)
        table.add_row(
            scene.name,
            f"{scene.times_s[-1]:.0f}",
            str(scene.visible.shape[1]),
            f"{present / 30:.0f}",
            f"{hidden / present:.0%}",
            str(len(steps)),
            str(sum(len(step.detections) for step in steps)),
            f"{_step_iou(scene.xyxy, round(30 / rate)):.2f}",
        )
    Console().print(table)
    Console().print(
        "hidden: share of the object-seconds not scored; step IoU: median of an object with itself a step on"
    )


@app.command()
def compare(
    venvs: Annotated[Path, typer.Option(help="Folder of the peers' virtual environments; missing ones are made.")],
    peers: Annotated[str, typer.Option(help=f"Some of {', '.join(PEERS)}, separated by commas.")] = ",".join(PEERS),
    seeds: Annotated[int, typer.Option(min=1, help="Each scene is played with so many seeds.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="What was tuned on some seeds is judged on others.")] = 0,
    rates: Annotated[str, typer.Option(help="Inferences per second, separated by commas.")] = "1,2,5,10",
    wheels: Annotated[bool, typer.Option(help="Ask PyPI for wheels for the Raspberry Pi (downloads them).")] = False,
    json: Annotated[Path | None, typer.Option(help="Write every single figure to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this file too.")] = None,
) -> None:
    """Print what each tracker takes and how well it follows, as Markdown."""
    unknown = set(peers.split(",")) - set(PEERS)
    if unknown:
        raise ConfigError(f"--peers {', '.join(sorted(unknown))}: unknown; there are {', '.join(PEERS)}")
    rates_hz = parse_rates(rates)
    outcomes: list[Outcome] = []
    for key in peers.split(","):
        console.print(f"{PEERS[key].name} ...", highlight=False)
        try:
            outcomes.append(measure(key, venvs, rates_hz, range(first_seed, first_seed + seeds), wheels))
        except ConfigError as error:  # one peer that cannot be installed or run leaves the others comparable
            console.print(f"left out: {error}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if not outcomes:
        raise ConfigError("no tracker could be run")
    text = report(outcomes, rates_hz)
    print(text)
    if markdown is not None:
        markdown.write_text(text, encoding="utf-8")
    if json is not None:
        json.write_text(json_module.dumps([dataclasses.asdict(o) for o in outcomes], indent=1), encoding="utf-8")


def _step_iou(xyxy: np.typing.NDArray[np.float64], frames: int) -> float:
    """Return the median IoU of (T, K, 4) boxes with themselves `frames` later."""
    a, b = xyxy[:-frames].reshape(-1, 4), xyxy[frames:].reshape(-1, 4)
    wh = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0)
    shared = wh[:, 0] * wh[:, 1]
    area_a, area_b = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b))
    return float(np.nanmedian(shared / (area_a + area_b - shared)))


if __name__ == "__main__":
    try:
        app()
    except EdgeDetectorError as error:
        console.print(f"track: error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
