"""pipeline.config of the TF Object Detection API: proto text, read without its .proto files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format

from edge_detector.errors import ModelError


class Message:
    """One message of proto text: fields by name, in any order, repeated ones in theirs."""

    def __init__(self, fields: dict[str, list[Any]], path: str) -> None:
        self._fields = fields
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def names(self) -> tuple[str, ...]:
        """Return the names of the fields that are set."""
        return tuple(self._fields)

    def message(self, name: str) -> Message:
        """Return a message; an empty one if it is not set."""
        found = self._fields.get(name, [{}])[-1]
        if not isinstance(found, dict):
            raise ModelError(f"{self._path}.{name}: is {found!r}, wanted a message in braces")
        return Message(found, f"{self._path}.{name}")

    def text(self, name: str, default: str = "") -> str:
        """Return a string or the name of an enum's value."""
        return str(self._fields.get(name, [default])[-1])

    def number(self, name: str, default: float) -> float:
        """Return a number."""
        return self.numbers(name, (default,))[-1]

    def numbers(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """Return a repeated number."""
        try:
            return tuple(float(value) for value in self._fields.get(name, default))
        except (TypeError, ValueError) as error:
            raise ModelError(f"{self._path}.{name}: is {self._fields[name]}, wanted a number") from error

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean."""
        return self.text(name, str(default)).lower() in ("true", "t", "1")


def read_pipeline_config(path: Path) -> Message:
    """Read `path`.

    Raises:
        ModelError: it is missing or no proto text.
    """
    try:
        tokenizer = text_format.Tokenizer(path.read_text(encoding="utf-8").splitlines())
        return Message(_fields(tokenizer, None), path.name)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}; give it with --pipeline-config") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: is no pipeline.config in proto text: {error}") from error


def _fields(tokenizer: Any, end: str | None) -> dict[str, list[Any]]:
    fields: dict[str, list[Any]] = {}
    while True:
        if end is not None and tokenizer.TryConsume(end):
            return fields
        if tokenizer.AtEnd():
            if end is None:
                return fields
            raise tokenizer.ParseError(f"the file ends before {end!r}")
        values = fields.setdefault(_name(tokenizer), [])
        if tokenizer.TryConsume(":") and tokenizer.TryConsume("["):
            while not tokenizer.TryConsume("]"):
                values.append(_value(tokenizer))
                tokenizer.TryConsume(",")
        else:
            values.append(_value(tokenizer))
        if not tokenizer.TryConsume(","):
            tokenizer.TryConsume(";")


def _name(tokenizer: Any) -> str:
    if not tokenizer.TryConsume("["):
        return str(tokenizer.ConsumeIdentifier())
    name = ""  # an extension, such as [object_detection.protos.some_field]
    while not tokenizer.TryConsume("]"):
        name += str(tokenizer.token)
        tokenizer.NextToken()
    return name


def _value(tokenizer: Any) -> Any:
    for start, end in ("{}", "<>"):
        if tokenizer.TryConsume(start):
            return _fields(tokenizer, end)
    if tokenizer.token[:1] in ("'", '"'):
        return tokenizer.ConsumeString()
    value = tokenizer.token
    if not value or value in ("}", ">", "]", ":"):
        raise tokenizer.ParseError("a value is missing")
    tokenizer.NextToken()
    return value
