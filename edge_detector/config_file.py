"""A file of settings: YAML, of which every key knows its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edge_detector.errors import ConfigFileError


@dataclass(frozen=True, slots=True, eq=False)
class ConfigFile:
    """What a file holds.

    Attributes:
        name: of the file, for messages.
        text: of it.
        content: what the text means.
        root: the same with its lines; None for an empty file.
        twice: lines and messages of keys that stand twice in their block, where YAML would take the last.
    """

    name: str
    text: str
    content: Any
    root: yaml.Node | None
    twice: tuple[tuple[int, str], ...] = ()

    def line_of(self, keys: Iterable[str | int]) -> int:
        """Return the line, from 1, of the last of `keys` that is there, each below the one before; 0 if none is."""
        line, node = 0, self.root
        for key in keys:
            found = None if node is None else _find(node, key)
            if found is None:
                break
            line, node = found.line, found.value
        return line

    def line_of_message(self, message: str) -> int:
        """Return the line of the key whose path the message begins with; 0 if there is none."""
        path = re.match(r"[^\s:,]+", message)
        return 0 if path is None else self.line_of(path[0].split("."))

    def error(self, mistakes: Iterable[tuple[int, str]]) -> ConfigFileError:
        """Return the error that tells of all `mistakes`, lines (0: unknown) and messages."""
        lines = (f"{self.name}:{line}: {told}" if line else f"{self.name}: {told}" for line, told in sorted(mistakes))
        return ConfigFileError(list(lines))


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    line: int
    value: yaml.Node


def read_config_file(path: Path) -> ConfigFile:
    """Read a YAML file.

    Raises:
        ConfigFileError: it cannot be read, or is no YAML.
    """
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigFileError([f"{name}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigFileError([f"{name}: not valid YAML: not UTF-8, at byte {error.start + 1}"]) from error
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            twice = () if root is None else tuple(_repeated_keys(root, (), set()))
            content = {} if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line, problem = _explain(error, text)
        where = f"{name}:{line}" if line else name
        raise ConfigFileError([f"{where}: not valid YAML: {problem}"]) from None  # its text quotes the line
    return ConfigFile(name, text, {} if content is None else content, root, twice)


def shown_key(part: str | int) -> str:
    """Return a key as far as it is one: where the colon or the blank after it is forgotten, a value hangs on to it."""
    word = re.match(r"[\w-]*", str(part))
    return str(part) if word is None or word[0] == str(part) else f"{word[0]}…"


def unknown_key(key: str | int, known: Sequence[str]) -> str:
    """Return the message about a key that is none of those that are `known`."""
    near = difflib.get_close_matches(shown_key(key).rstrip("…").lower(), known, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown key{meant}; known here: {', '.join(known)}"


def _explain(error: Exception, text: str) -> tuple[int, str]:
    """Return line, 0 if unknown, and message, without what is quoted of the file: it may be a password."""
    if isinstance(error, RecursionError):
        return 0, "blocks in blocks without end"
    line, problem = 0, str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        line = 0 if error.problem_mark is None else error.problem_mark.line + 1
        problem = (error.problem or "").replace(r"character '\t' that", "a tab: indent with blanks; it")
    elif isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        problem = f"a character that no text has, #x{error.character:04x}"
    quoted = re.compile(r"""'[^']*'|"[^"]*\"""")
    return line, quoted.sub(lambda found: found[0] if len(found[0]) < 4 else "…", " ".join(problem.split()))


def _find(node: yaml.Node, key: str | int) -> _Found | None:
    if isinstance(node, yaml.SequenceNode) and str(key).isdecimal() and int(key) < len(node.value):
        value = node.value[int(key)]
        return _Found(value.start_mark.line + 1, value)
    if isinstance(node, yaml.MappingNode):
        for name, value in reversed(node.value):  # what is merged (<<) stands before what is written there
            if name.value == str(key):
                return _Found(name.start_mark.line + 1, value)
    return None


def _repeated_keys(node: yaml.Node, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[int, str]]:
    if id(node) in seen:  # *alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _repeated_keys(item, (*path, str(number)), seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                here, line = (*path, shown_key(key.value)), key.start_mark.line + 1
                if key.value in lines:
                    where = "in this line" if line == lines[key.value] else f"in line {lines[key.value]}"
                    yield line, f"{'.'.join(here)}: stands {where} already; delete one of the two"
                lines.setdefault(key.value, line)
                yield from _repeated_keys(value, here, seen)
