"""What the project wants of its speed, as ratios, and what a run says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tools.bench.figures import BARE, BARE_AREA, LETTERBOX
from tools.bench.peers import REFERENCE_DECODER
from tools.bench.results import PeerRow
from tools.bench.run import Run
from tools.bench.service import ServiceRow

DECODER_TIMES, LETTERBOX_TIMES = 10.0, 1.3
_DECODED = "640", 90  # the decoder's target is for 51150 anchors x 90 classes
_DECODERS = {"example loop": ("example-decoding",), "PostProcess op": ("op-regular-alone", "op-fast-alone")}
_SERVICE = (
    "inferences of bare, 1 viewer",
    "CPU of 10 viewers to that of 1",
    "MB of memory above the model",
    "seconds to the first result",
)


@dataclass(frozen=True)
class Target:
    """What is wanted, what the run found, and whether that is enough; None where it was not measured."""

    name: str
    wanted: str
    found: float | None = None
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.met is None:
            return "not measured" if self.found is None else "others were at work"
        return "met" if self.met else "**missed**"


def targets_of(run: Run) -> list[Target]:
    """Return all targets, met or not; where others were at work that is left open."""
    ratios = [*_decoder(run.peers), *_letterbox(run)]
    if run.stages is not None and not run.stages.quiet:
        ratios = [replace(target, met=None) for target in ratios]
    return [*ratios, *_service(run.service)]


def _decoder(rows: tuple[PeerRow, ...]) -> Iterator[Target]:
    """Compare the decoders, each given the same stored outputs; only those that find the same count."""
    total_ms = {
        row.contender: row.stages["total"].p50_ms
        for row in rows
        if row.model.startswith("outputs of") and (row.model.split()[-1], row.classes) == _DECODED and row.counts
    }
    ours_ms = total_ms.get(REFERENCE_DECODER)
    for title, keys in _DECODERS.items():
        name, wanted = f"decode + NMS of 51150 x 90: {title} to ours", f"{DECODER_TIMES:g} times or more"
        theirs_ms = [total_ms[key] for key in keys if key in total_ms]
        if ours_ms is None or not theirs_ms:
            yield Target(name, wanted)
        else:
            found = min(theirs_ms) / ours_ms  # the fastest of its forms
            yield Target(name, wanted, found, found >= DECODER_TIMES)


def _letterbox(run: Run) -> Iterator[Target]:
    rows = run.stages.rows if run.stages is not None else ()
    p50_ms = {(row.runtime, row.model, row.classes, row.threads, row.stage): row.timing.p50_ms for row in rows}
    worst: dict[str, float] = {}
    for (runtime, model, classes, threads, stage), found_ms in p50_ms.items():
        if not stage.startswith(LETTERBOX):
            continue
        for bare in (BARE, BARE_AREA):
            baseline_ms = p50_ms[runtime, model, classes, threads, stage.replace(LETTERBOX, bare)]
            name = f"{model}: {stage} to {bare}"
            worst[name] = max(worst.get(name, 0.0), found_ms / baseline_ms)
    wanted = f"{LETTERBOX_TIMES:g} times or less"
    for name, found in worst.items():
        yield Target(name, wanted, found, found <= LETTERBOX_TIMES)
    if not worst:
        yield Target(f"{LETTERBOX} to {BARE}", wanted)


def _service(rows: tuple[ServiceRow, ...]) -> Iterator[Target]:
    for row in rows:
        for target in row.targets:
            yield Target(f"{row.model}: {target.name}", f"{target.wanted:g}", target.found, target.met)
    if not rows:
        yield from (Target(name, "") for name in _SERVICE)
