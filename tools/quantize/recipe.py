"""The recipe: what has to be known to make the same file again, bit by bit; it travels inside the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import edge_detector
from tools.network.weights import sha256_of
from tools.quantize.findings import Parity, Scores, SourceParity

RECIPE_FILE = "recipe.json"  # name in the ZIP behind the model
_PACKAGES = (
    "ai-edge-litert",
    "litert-quantizer",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "torch",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
)


def fingerprint(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of a file in hex; of several files, or all files in a folder, that of their list of hashes.

    The list is what `sha256sum` prints for the names without their folders, sorted by name.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    hashes = [(file.name, sha256_of(file)) for file in files if file.is_file()]
    if len(hashes) == 1:
        return hashes[0][1]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in sorted(hashes)).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of all that takes part and is installed."""
    found = {"edge_detector": edge_detector.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def parity_figures(
    sources: Iterable[SourceParity], parities: Iterable[Parity], scores: Scores | None
) -> dict[str, Any]:
    """Return the parity table without times, rounded to what the next run on this machine will find again."""
    table: dict[str, Any] = {
        "source": {parity.reference: _rounded(parity.max_error) for parity in sources},
        "runtimes": {
            parity.runtime: {
                "photos": parity.photos,
                "cosine": _rounded({output.name: output.cosine for output in parity.outputs}),
                "max_error": _rounded({output.name: output.max_error for output in parity.outputs}),
                "detections_confirmed": [parity.confirmed, parity.wanted],
                "detections_invented": [parity.invented, parity.found],
            }
            for parity in parities
        },
    }
    if scores is not None:
        table["coco"] = {
            "photos": scores.photos,
            "ap": [scores.float_ap, scores.ap],
            "ap50": [scores.float_ap50, scores.ap50],
        }
    return table


def recipe_json(recipe: Mapping[str, Any], parity: Mapping[str, Any]) -> bytes:
    """Return the recipe as it is written into the file."""
    return json.dumps({"recipe": recipe, "parity": parity}, indent=1).encode() + b"\n"


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in sorted(figures.items())}
