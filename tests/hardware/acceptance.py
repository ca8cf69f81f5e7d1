"""Runs the acceptance tests on this machine and writes what they found into a report, to paste into an issue.

    make pi-acceptance
    .venv/bin/python tests/hardware/acceptance.py --seconds 600 --output reports -- -k camera

The exit code is pytest's: 0 if nothing failed. What comes after "--" goes to pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pi_machine
import pytest

HERE = Path(__file__).parent
SIGNS = {"passed": "✅ passed", "failed": "❌ **failed**", "skipped": "skipped"}
CHAPTERS = {
    "test_installation": "Installation and models",
    "test_live_service": "The service, live",
    "test_camera": "Cameras",
    "test_coral": "Edge TPU",
}


@dataclass
class Outcome:
    """What came of a test.

    Attributes:
        chapter: its file's name without the ending.
        title: its name in words, with its parameters.
        outcome: "passed", "skipped" or "failed".
        reason: why it was skipped or has failed, one line; else empty.
        seconds: that it took, with what it set up.
        figures: what it measured, with units.
    """

    chapter: str
    title: str
    outcome: str = "passed"
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, str] = field(default_factory=dict)


class Collector:
    """A pytest plug-in that keeps outcomes and figures by test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = self.outcomes.setdefault(report.nodeid, Outcome(*_title(report.nodeid)))
        outcome.seconds += report.duration
        outcome.figures |= {name: str(value) for name, value in report.user_properties}
        if report.failed or (report.skipped and outcome.outcome == "passed"):
            outcome.outcome = report.outcome
            outcome.reason = _reason(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            title = "could not be read"
            self.outcomes[report.nodeid] = Outcome(Path(report.nodeid).stem, title, "failed", _last_line(report))


@dataclass
class Report:
    """All of it; `doctor` is what `edge-detector doctor` printed, or None where there is no such command."""

    time: str
    exit_code: int
    machine: dict[str, str]
    outcomes: list[Outcome]
    doctor: str | None

    def to_markdown(self) -> str:
        """Return it as Markdown."""
        counts = ", ".join(
            f"{number} {word}" for word in SIGNS if (number := sum(one.outcome == word for one in self.outcomes))
        )
        lines = [f"# Acceptance on {self.machine['machine']}", "", f"**{counts}** ({self.time})", ""]
        lines += ["| | |", "|---|---|", *(f"| {name} | {_cell(text)} |" for name, text in self.machine.items())]
        for chapter in dict.fromkeys([*CHAPTERS, *(one.chapter for one in self.outcomes)]):
            found = [one for one in self.outcomes if one.chapter == chapter]
            if found:
                lines += ["", f"## {CHAPTERS.get(chapter, chapter)}", "", *_table(found), *_skipped(found)]
        if self.doctor is not None:
            lines += ["", "## edge-detector doctor", "", "```", self.doctor.strip(), "```"]
        return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run the tests, write both files, say where they are; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="folder for the report")
    parser.add_argument("--seconds", type=float, default=60, help="how long the live service is watched")
    parser.add_argument("pytest", nargs="*", help="options of pytest, after --")
    given = parser.parse_args(arguments)
    os.environ["EDGE_DETECTOR_ACCEPTANCE_S"] = str(given.seconds)
    collector = Collector()
    print(
        f"{pi_machine.model()}: this takes about {1 + given.seconds / 60:.0f} minutes on a Raspberry Pi 5", flush=True
    )
    code = int(pytest.main(["-v", "--tb=short", str(HERE), *given.pytest], plugins=[collector]))
    now = datetime.now(timezone.utc)
    report = Report(
        f"{now:%Y-%m-%d %H:%M} UTC", code, pi_machine.describe(), list(collector.outcomes.values()), doctor()
    )
    given.output.mkdir(parents=True, exist_ok=True)
    stem = given.output / f"pi-acceptance-{platform.node() or 'host'}-{now:%Y%m%d-%H%M}"
    markdown, values = Path(f"{stem}.md"), Path(f"{stem}.json")
    markdown.write_text(report.to_markdown(), encoding="utf-8")
    values.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{markdown}: please paste this into an issue, whatever it says\n{values}: the same for programs")
    return code


def doctor() -> str | None:
    """Return what `edge-detector doctor` prints; None if this version has no such command."""
    command = [sys.executable, "-m", "edge_detector", "doctor"]
    if subprocess.run([*command, "--help"], capture_output=True, timeout=120).returncode:
        return None
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    except subprocess.TimeoutExpired:
        return "no answer for five minutes"
    return f"{result.stdout}{result.stderr}".strip() + f"\n(exit code {result.returncode})"


def _title(nodeid: str) -> tuple[str, str]:
    path, _, name = nodeid.rpartition("::")
    name, _, parameters = name.partition("[")
    words = name.removeprefix("test_").replace("_", " ")
    return Path(path).stem, f"{words}: {parameters.rstrip(']')}" if parameters else words


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return _last_line(report) if crash is None else " ".join(crash.message.splitlines()[:1])


def _last_line(report: Any) -> str:
    return next(iter(reversed(report.longreprtext.strip().splitlines())), "")


def _table(outcomes: list[Outcome]) -> list[str]:
    rows = [_row(one) for one in outcomes if one.outcome != "skipped"]
    return ["| test | outcome | measured |", "|---|---|---|", *rows] if rows else []


def _skipped(outcomes: list[Outcome]) -> list[str]:
    """Return a line per reason, with all that was skipped for it."""
    skipped = [one for one in outcomes if one.outcome == "skipped"]
    titles: dict[str, list[str]] = {}
    for one in skipped:
        titles.setdefault(one.reason, []).append(one.title)
    return (
        ["", *(f"- skipped, {_cell(reason)}: {', '.join(names)}" for reason, names in titles.items())] if titles else []
    )


def _row(one: Outcome) -> str:
    measured = "<br>".join(_cell(f"{name}: {text}") for name, text in one.figures.items())
    reason = f": {_cell(one.reason)}" if one.reason else f", {one.seconds:.1f} s"
    return f"| {_cell(one.title)} | {SIGNS.get(one.outcome, one.outcome)}{reason} | {measured} |"


def _cell(text: str, longest: int = 300) -> str:
    short = text if len(text) <= longest else f"{text[:longest]}…"
    return " ".join(short.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    started_s = time.monotonic()
    exit_code = main(sys.argv[1:])
    print(f"{(time.monotonic() - started_s) / 60:.1f} minutes")
    sys.exit(exit_code)
