"""Runs the contenders side by side: each in a process of its own, in turns, on the same pictures."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_detector.backends.tflite import default_threads
from edge_detector.detections import Detections
from edge_detector.errors import ConfigError
from tools.bench.agreement import compare_detections
from tools.bench.child import Child
from tools.bench.kit import Kit
from tools.bench.kits import add_onnx, calibration_photos, clip_pictures, make_kit, references
from tools.bench.peers import PEERS, Peer
from tools.bench.results import PeerRow, Timing
from tools.bench.widen import COCO_CLASSES
from tools.environments import ensure, interpreter

Say = Callable[[str], None]


@dataclass
class _Entry:
    """A contender in the race; `reason` says why it has left it."""

    key: str
    peer: Peer
    child: Child | None = None
    reason: str = ""
    seconds: list[dict[str, float]] = field(default_factory=list)

    def take_turn(self, count: int) -> None:
        """Go through all inputs; the first goes twice, as others ran meanwhile, and counts once."""
        if self.child is None:
            return
        try:
            self.seconds += self.child.ask({"inputs": [0, *range(count)]})["seconds"][1:]
        except ConfigError as error:
            self.leave(error)

    def leave(self, error: ConfigError) -> None:
        # What a library says at its end is the cause; what comes before are frames and remarks.
        self.child, self.reason = None, str(error).strip().splitlines()[-1]

    def row(self, kit: Kit, reference: Sequence[Detections]) -> PeerRow:
        model = f"{'outputs of ' if self.peer.decodes else ''}person {kit.side}"
        if self.child is None:
            return PeerRow(
                self.key, self.peer.title, model, kit.classes, {}, 0.0, 0.0, False, f"does not run: {self.reason}", 0.0
            )
        versions = ", ".join(f"{name} {version}" for name, version in self.child.greeting["versions"].items())
        end = self.child.ask({"finish": True})
        agreement = compare_detections(reference, [_detections(*found) for found in end["found"]])
        stages = {name: Timing.of([seconds[name] for seconds in self.seconds]) for name in self.seconds[0]}
        return PeerRow(
            contender=self.key,
            title=f"{self.peer.title} ({versions})",
            model=model,
            classes=kit.classes,
            stages=stages,
            agreement=agreement.share,
            extra=agreement.extra,
            counts=not agreement.reason,
            reason=agreement.reason,
            rss_mb=end["rss_mb"],
        )


def compare(
    venvs: Path,
    rounds: int,
    pictures: int = 16,
    sides: Sequence[int] = (320, 640),
    classes: Sequence[int] = (1, COCO_CLASSES),
    keys: Iterable[str] = PEERS,
    threads: int | None = None,
    calibration: Path | None = None,
    say: Say = lambda _: None,
) -> list[PeerRow]:
    """Measure the contenders `keys` on so many pictures of the demo clip, per side and number of classes.

    Each network's contenders live at once, one works at a time; each round begins with the next of them. `venvs` keeps
    their environments and ONNX files; `calibration` is a folder of photos to quantize the latter on, else the clip is.

    Raises:
        ModelError: a shipped model is missing.
        ConfigError: the network's ONNX form cannot be made, or its photos cannot be read.
    """
    shown = clip_pictures(pictures)
    rows = []
    for side, count in itertools.product(sides, classes):
        with tempfile.TemporaryDirectory() as folder:
            say(f"peers: preparing person {side}, {count} classes")
            kit, manifest = make_kit(Path(folder), side, count, shown, threads or default_threads())
            chosen = [_Entry(key, PEERS[key]) for key in keys if count == 1 or not PEERS[key].one_class]
            if any(entry.peer.model.endswith(".onnx") for entry in chosen):
                ensure(venvs / "onnxruntime", PEERS["onnxruntime-int8"].requirements)
                add_onnx(kit, manifest, venvs, calibration_photos(calibration), say)
            with ExitStack() as stack:
                _race(chosen, kit, venvs, rounds, stack, say)
                seen, decoded = references(kit, manifest)
                rows += [entry.row(kit, decoded if entry.peer.decodes else seen) for entry in chosen]
    return rows


def _race(entries: Sequence[_Entry], kit: Kit, venvs: Path, rounds: int, stack: ExitStack, say: Say) -> None:
    count = len(kit.pictures)
    for entry in entries:
        say(f"peers: starting {entry.key}")
        try:
            ensure(venvs / entry.peer.venv, entry.peer.requirements)
            python = interpreter(venvs / entry.peer.venv)
            entry.child = stack.enter_context(Child(python, "tools.bench.worker", [entry.key, str(kit.folder)]))
        except ConfigError as error:  # the others can be compared all the same
            entry.leave(error)
    for number in range(rounds):
        for place in range(len(entries)):
            entry = entries[(place + number) % len(entries)]
            say(f"peers: person {kit.side}, {kit.classes} classes, round {number + 1} of {rounds}: {entry.key}")
            entry.take_turn(count)


def _detections(xyxy: list[list[float]], scores: list[float], classes: list[int]) -> Detections:
    boxes = np.array(xyxy, np.float32).reshape(-1, 4)
    return Detections(boxes, np.array(scores, np.float32), np.array(classes, np.int64))
