"""The report: lines for people, or one JSON object for programs."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import get_args

from rich.text import Text

from edge_detector import __version__
from edge_detector.doctor.finding import Finding, State

SCHEMA = 1
ERRORS_FOUND = 1  # the exit code
_COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}
_STATE_WIDTH, _NAME_WIDTH = 9, 16
_FIX = "fix: "
_NARROWEST, _WIDEST = 60, 110


class Report:
    """What the checks find, as it comes; findings stand behind the name of their group."""

    def __init__(self, findings: Iterable[tuple[str, Finding]]) -> None:
        self._coming = iter(findings)
        self._found: list[tuple[str, Finding]] = []

    def lines(self, width: int) -> Iterator[Text]:
        """Yield texts of `width` columns: headings, a line or more for each finding, and the sum."""
        group = None
        for group_now, finding in self._come():
            if group_now != group:
                yield Text(group_now if group is None else f"\n{group_now}", "bold")
                group = group_now
            yield _line(finding, width)
        yield self._sum()

    def to_json(self) -> dict[str, object]:
        """Wait for all, and return them as JSON values."""
        checks = [{"group": group, **finding.to_json()} for group, finding in [*self._found, *self._come()]]
        count = self._count()
        return {
            "schema": SCHEMA,
            "version": __version__,
            "ok": not count["error"],
            "counts": {state: count[state] for state in get_args(State)},
            "checks": checks,
        }

    @property
    def exit_code(self) -> int:
        """0, or `ERRORS_FOUND` if there are errors among what has come."""
        return ERRORS_FOUND if self._count()["error"] else 0

    def _come(self) -> Iterator[tuple[str, Finding]]:
        for found in self._coming:
            self._found.append(found)
            yield found

    def _count(self) -> Counter[str]:
        return Counter(finding.state for _, finding in self._found)

    def _sum(self) -> Text:
        count = self._count()
        words = [f"{count[s]} {s}{'s' if s in ('warning', 'error') and count[s] != 1 else ''}" for s in get_args(State)]
        worst = next((state for state in ("error", "warning") if count[state]), "ok")
        return Text(f"\n{', '.join(words)}", _COLOURS[worst])


def _line(finding: Finding, width: int) -> Text:
    """Return a finding and what to do below it; a command stays one line, to be copied."""
    indent = " " * (_STATE_WIDTH + _NAME_WIDTH)
    room = min(max(width, _NARROWEST), _WIDEST) - len(indent)
    text = Text(f"{finding.state:{_STATE_WIDTH}}", _COLOURS[finding.state])
    found = f"\n{indent}".join(_wrap(finding.found, room))
    text = Text.assemble(text, (f"{finding.name:{_NAME_WIDTH}}{found}", "dim" if finding.state == "skipped" else ""))
    margin = f"\n{' ' * (_STATE_WIDTH + len(_FIX))}"
    todo = margin.join(_wrap(finding.fix or "", room + _NAME_WIDTH - len(_FIX)))
    if todo or finding.command:
        text.append(f"\n{' ' * _STATE_WIDTH}{_FIX}{todo}", "cyan")
    if finding.command:
        text.append(f"{margin if todo else ''}{finding.command}", "bold cyan")
    return text


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
