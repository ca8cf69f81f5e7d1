"""Progress on the terminal, and how long each stage took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_T = TypeVar("_T")


class StageProgress:
    """A line per stage, with a bar where its length is known. Leave it as a context, so that an error ends the bar.

    Attributes:
        seconds: by stage, in order.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        self._bar: Progress | None = None

    def __enter__(self) -> StageProgress:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the bar of a loop that was left by an error: its generator is not closed yet."""
        self._stop()

    def say(self, text: str) -> None:
        """Print a line, as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Time what happens inside; a spinner shows that it goes on."""
        with self._shown(title, None):
            yield

    def track(self, items: Iterable[_T], title: str, total: int) -> Iterator[_T]:
        """Yield `items` and time what is done with them; a bar shows how many of `total` are done."""
        with self._shown(title, total) as (bar, task):
            for item in items:
                yield item
                bar.advance(task)

    def each(self, items: Collection[_T], title: str) -> Iterator[_T]:
        """Yield `items` as `track` does."""
        return self.track(items, title, len(items))

    @contextlib.contextmanager
    def _shown(self, title: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
        columns = [SpinnerColumn(finished_text="✓"), TextColumn("{task.description}")]
        columns += [BarColumn(), MofNCompleteColumn()] if total is not None else []
        started_s = time.monotonic()
        self._bar = bar = Progress(*columns, TimeElapsedColumn(), console=self.console)
        bar.start()
        try:
            task = bar.add_task(title, total=total)
            yield bar, task
            bar.update(task, total=total or 1, completed=total or 1)
        finally:
            self._stop()
        self.seconds[title] = self.seconds.get(title, 0.0) + time.monotonic() - started_s

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
