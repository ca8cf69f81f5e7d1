"""What an evaluation found, as a table and as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from edge_detector.errors import ConfigError
from tools.evaluate.annotations import LabelMatch
from tools.evaluate.score import Figures, Score

HEADINGS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


@dataclass(frozen=True)
class Report:
    """One evaluation; `median_ms` is the median time per picture and stage, on `backend`."""

    model: str
    backend: str
    input_wh: tuple[int, int]
    pictures: int
    threshold: float
    median_ms: Mapping[str, float]
    match: LabelMatch
    score: Score

    def table(self) -> Table:
        """Return the figures in percent, a row per class and one over all."""
        table = Table(title=f"{self.model}, {self.pictures} pictures")
        table.add_column("class")
        for heading in ("objects", *HEADINGS):
            table.add_column(heading, justify="right")
        for name, figures in self.score.per_class.items():
            table.add_row(name, str(self.score.objects[name]), *_percent(figures))
        table.add_section()
        table.add_row("all", str(sum(self.score.objects.values())), *_percent(self.score.overall))
        return table

    def notes(self) -> list[str]:
        """Return what else there is to say, a line each."""
        stages = ", ".join(f"{stage} {value:.1f}" for stage, value in self.median_ms.items())
        lines = [f"ms per picture (median): {stages}; {self.backend}, {self.input_wh[0]}x{self.input_wh[1]}"]
        if self.match.unknown_labels:
            lines.append(f"not in the annotations, not scored: {_joined(self.match.unknown_labels)}")
        if self.match.unscored_categories:
            lines.append(f"annotated, but unknown to the model, not scored: {_joined(self.match.unscored_categories)}")
        return lines

    def write(self, path: Path) -> None:
        """Write everything as JSON; figures are fractions.

        Raises:
            ConfigError: the file cannot be written.
        """
        temporary = _temporary(path)
        with _explained(path):
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
            temporary.replace(path)


def check_target(path: Path, inputs: Iterable[Path]) -> None:
    """Make sure before all the work that a report can be written to `path` and replaces none of `inputs`.

    Raises:
        ConfigError: it cannot, or it would.
    """
    if path.resolve() in {other.resolve() for other in inputs}:
        raise ConfigError(f"--json {path}: is the name of an input or of the model's manifest; give another file")
    with _explained(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _temporary(path).touch()
        _temporary(path).unlink()


def _temporary(path: Path) -> Path:
    return path.parent / f".new-{path.name}"


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--json {path}: cannot be written: {error.strerror}; give another file") from error


def _percent(figures: Figures) -> list[str]:
    return ["-" if value is None else f"{100 * value:.1f}" for value in dataclasses.astuple(figures)]


def _joined(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{len(names)} ({', '.join(names[:8])}{more})"
