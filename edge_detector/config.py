"""Settings of the service: one YAML file; an unknown key is an error that names its path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edge_detector.errors import ConfigError

DEFAULT_MODEL = "ssd_resnet50_fpn_person_640_int8"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT" ("[::1]:8080" for IPv6; port 0 takes a free one).

    Raises:
        ValueError: the text is no address.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address: give HOST:PORT, such as 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_address(text: str) -> str:
    parse_address(text)
    return text


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelConfig(_Part):
    """Which model, and how it is run; `path` is a file or the name of a shipped model."""

    path: str = DEFAULT_MODEL
    labelmap_path: str | None = None
    runtime: Literal["auto", "litert", "tflite"] = "auto"
    num_threads: Annotated[int, Field(ge=1, le=64)] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None


class OutputConfig(_Part):
    """Files that results are written to, beside the web page."""

    jsonl: str | None = None
    video: str | None = None


class Config(_Part):
    """The whole file; every key has a default, so an empty file is valid."""

    source: str = "auto"
    model: ModelConfig = ModelConfig()
    http: Annotated[str, AfterValidator(_check_address)] | None = "127.0.0.1:8080"
    output: OutputConfig = OutputConfig()


def load_config(path: Path) -> Config:
    """Read a YAML file.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or has a key that is unknown or out of range.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return parse_config({} if content is None else content, str(path))


def parse_config(content: Any, name: str) -> Config:
    """Return the settings in `content`, a mapping as YAML gives it; `name` is for messages.

    Raises:
        ConfigError: a key is unknown or its value out of range; the message names the key's path.
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError("; ".join(f"{name}: {_explain(item)}" for item in error.errors())) from error


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(top level)"
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; known here: {', '.join(_known_keys(item['loc'][:-1]))}"
    if item["type"] in ("model_type", "model_attributes_type"):
        return f"{key}: must hold keys and values, got {item['input']!r}"
    return f"{key}: {item['msg'].removeprefix('Value error, ')}, got {item['input']!r}"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    part: Any = Config
    for key in location:
        part = part.model_fields[str(key)].annotation
    return list(part.model_fields)
