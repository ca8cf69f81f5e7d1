"""One contender in a process of its own: python -m tools.bench.worker KEY KIT-FOLDER."""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench.child import serve
from tools.bench.contenders import Contender, Found, Laps
from tools.bench.kit import Kit
from tools.bench.peers import PEERS


class Worker:
    """Answers questions: `{"inputs": [numbers]}` with seconds, `{"finish": true}` with all that was found."""

    def __init__(self, contender: Contender, inputs: list[Any]) -> None:
        self._contender, self._inputs = contender, inputs
        self._found: list[Found | None] = [None] * len(inputs)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return seconds by stage and in total, for each input asked for; or what was found in each."""
        if "inputs" in question:
            return {"seconds": [self._detect(number) for number in question["inputs"]]}
        found = [[np.asarray(part).tolist() for part in item or ()] for item in self._found]
        self._inputs.clear()
        gc.collect()
        return {"found": found, "rss_mb": rss_mb()}

    def _detect(self, number: int) -> dict[str, float]:
        laps = Laps()
        start_s = time.perf_counter()
        self._found[number] = self._contender.detect(self._inputs[number], laps)
        return {**laps.seconds, "total": time.perf_counter() - start_s}


def rss_mb() -> float:
    """Return the resident megabytes of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def main() -> None:
    """Load, warm up, then answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("key", choices=list(PEERS))
    parser.add_argument("kit", type=Path)
    arguments = parser.parse_args()
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    warnings.simplefilter("ignore")  # a peer's own deprecations
    peer, kit = PEERS[arguments.key], Kit.load(arguments.kit)
    os.environ.update(peer.environment)
    contender = peer.build(kit)
    worker = Worker(contender, list(kit.outputs if peer.decodes else kit.pictures))
    worker.answer({"inputs": [0, 0]})
    serve({"versions": {name: importlib.metadata.version(name) for name in peer.packages}}, worker.answer)


if __name__ == "__main__":
    main()
