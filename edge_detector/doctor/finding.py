"""What a check finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        state: how it is; "skipped" where there was nothing to look at, or no way to.
        found: what was found, in words.
        fix: what to do, as a sentence; None where nothing is to be done or `command` says it all.
        command: what to do, for the shell.
    """

    name: str
    state: State
    found: str
    fix: str | None = None
    command: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def ok(name: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(name, "ok", found)


def skipped(name: str, why: str) -> Finding:
    """Return that there was nothing to look at, or no way to."""
    return Finding(name, "skipped", why)


def warning(name: str, found: str, fix: str | None = None, command: str | None = None) -> Finding:
    """Return what works, but may not for long or not as well as it could."""
    return Finding(name, "warning", found, fix, command)


def error(name: str, found: str, fix: str | None = None, command: str | None = None) -> Finding:
    """Return what does not work."""
    return Finding(name, "error", found, fix, command)
