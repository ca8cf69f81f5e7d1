"""Writes what the shipped models find in the known picture: `python tests/unit/doctor/write_expected.py`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edge_detector import doctor
from edge_detector.doctor.host import Host
from edge_detector.registry import list_models


def main() -> None:
    expected = {}
    for name, path in list_models().items():
        job = {"path": str(path), "labels": None, "threads": None, "runtime": "litert"}
        rows = Host().probe("model", job)["boxes"]
        expected[name] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "boxes": [[*(round(value, 1) for value in row[:4]), round(row[4], 3)] for row in rows],
        }
    Path(doctor.__file__).with_name("expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
