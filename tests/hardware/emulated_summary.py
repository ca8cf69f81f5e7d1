"""Prints what `emulated.sh` found in one tree, from the reports in a folder: emulated_summary.py TITLE FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree


def main(title: str, folder: Path) -> None:
    """Print it."""
    core = folder / "core.xml"
    if core.exists():
        suite = next(ElementTree.parse(core).getroot().iter("testsuite"))
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        passed = int(suite.get("tests", 0)) - bad - skipped
        took_s = float(suite.get("time", 0))
        print(f"{title}: core tests: {passed} passed, {bad} failed, {skipped} skipped, {took_s:.0f} s")
    for path in sorted(folder.glob("*/*.json")):
        report = json.loads(path.read_text())
        machine = report["machine"]
        versions = [f"{name} {machine[name].split(',')[0]}" for name in ("Python", "numpy") if name in machine]
        for name in ("ai-edge-litert", "tflite-runtime", "opencv-python-headless"):
            versions += [f"{name} {machine[name]}"] if name in machine else []
        print(f"{title} on {path.parent.name}: {', '.join(versions)}")
        for one in report["outcomes"]:
            if one["figures"]:
                measured = "; ".join(f"{name} {value}" for name, value in one["figures"].items())
                print(f"    {one['title']}: {one['outcome']}: {measured}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
