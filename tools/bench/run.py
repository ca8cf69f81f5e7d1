"""A run: all that was found in one go, and what it was found on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.bench.machine import Machine, Moment
from tools.bench.results import PeerRow
from tools.bench.service import ServiceRow
from tools.bench.stages import StageResults


@dataclass(frozen=True)
class Run:
    """What one run found.

    Attributes:
        board: name that reference/ knows the machine by.
        command: that made it.
        quick: so short that the figures are only to look at.
        commit: of the checkout; with "+" its files differ from it.
        machine: it ran on.
        before, after: how that was.
        models: SHA-256 by file name.
        stages: of our own pipeline; None where they were not asked for.
        peers: side by side; empty where they were not asked for.
        service: a row per model; empty where it was not asked for.
        left_out: what could not run, and why.
    """

    board: str
    command: str
    quick: bool
    commit: str
    machine: Machine
    before: Moment
    after: Moment
    models: Mapping[str, str]
    stages: StageResults | None
    peers: tuple[PeerRow, ...]
    service: tuple[ServiceRow, ...]
    left_out: Mapping[str, str]

    def write_json(self, path: Path) -> None:
        """Write all of it."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
