"""A process that answers questions, one JSON line for each: what is measured runs in one of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from edge_detector.errors import ConfigError
from tools.environments import REPOSITORY, surroundings


class Child:
    """A module of this checkout that runs under a Python; ends with the `with` statement.

    Attributes:
        greeting: what it said once it was ready.
    """

    def __init__(self, python: Path, module: str, arguments: Sequence[str]) -> None:
        """Start it and wait until it is ready.

        Raises:
            ConfigError: it ended before; the message is the end of its output.
        """
        self._name = " ".join([module, *arguments])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=surroundings(),
            cwd=REPOSITORY,
        )
        self._stdin, self._stdout = (cast("IO[str]", pipe) for pipe in (self._process.stdin, self._process.stdout))
        self.greeting = self._answer()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer.

        Raises:
            ConfigError: it ended instead; the message is the end of its output.
        """
        with suppress(BrokenPipeError):  # then there is no answer
            self._stdin.write(json.dumps(question) + "\n")
            self._stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            end = self._errors.read().decode(errors="replace").strip()[-800:]
            self.close()
            raise ConfigError(f"{self._name}: ended with {self._process.returncode}: {end}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._process.kill()  # does nothing where it has ended
        self._process.wait()
        for pipe in (self._stdin, self._stdout, self._errors):
            with suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(greeting: dict[str, Any], answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Be such a process: say `greeting`, then answer each line of the standard input until it ends."""
    print(json.dumps(greeting), flush=True)
    while line := _next_line():
        print(json.dumps(answer(json.loads(line))), flush=True)


def _next_line() -> str:
    try:
        return input()
    except EOFError:
        return ""
