"""What CONTRIBUTING.md says of a sink of one's own is true, to the letter."""

from __future__ import annotations

import ast
import re
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_detector.config import Config, parse_config
from edge_detector.errors import ConfigError, PublishError
from edge_detector.publishers import SINKS
from edge_detector.runtime.service import run_service

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "tests" / "fixtures" / "detection_op.tflite"
CAMERAS = {name: {"source": "synthetic://?width=64&height=48&fps=50"} for name in ("front", "back")}

Settings = Callable[..., Config]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Do what the text says, and return a function that makes settings with its sink, changed as told."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (_, code), (_, line), (_, text) = blocks
    ((kind, place),) = ast.literal_eval("{" + line.strip() + "}").items()
    module = types.ModuleType(place.partition(":")[0])
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(SINKS, kind, place)
    sinks = yaml.safe_load(text)["sinks"]

    def make(**changes: Any) -> Config:
        (name,) = sinks
        changed = {name: sinks[name] | changes}
        return parse_config({"model": {"path": str(MODEL)}, "cameras": CAMERAS, "http": None, "sinks": changed}, "it")

    return make


def run(config: Config, seconds: float = 1.0) -> list[str]:
    names: list[str] = []
    run_service(config, threading.Event(), seconds, names.append, required=True)
    return names


def test_sink_in_the_text_gets_what_its_settings_want(settings: Settings, tmp_path: Path) -> None:
    config = settings(cameras=["back"])
    (line,) = run(config)
    assert line.endswith("-> counts.txt")
    lines = (tmp_path / "counts.txt").read_text().splitlines()
    assert len(lines) > 5
    assert all(re.fullmatch(r"back \d+", line) for line in lines), set(lines)


def test_unknown_kind_and_options_are_config_errors_that_name_their_path(settings: Settings) -> None:
    for changes, message in (
        ({"kind": "fax"}, r"sinks\.people: unknown publisher 'fax'; choose from jsonl, lines, counts$"),
        ({"kind": "web", "options": {"host": "0.0.0.0"}}, r"sinks\.people: unknown publisher 'web'"),
        ({"kind": "jsonl", "options": {"target": 5}}, r"sinks\.people: options of jsonl: .* wrong kind \(TypeError\)$"),
        ({"kind": "jsonl", "options": {"target": "x", "growth": 5}}, "options of jsonl: .*; it takes target, append$"),
        ({"options": {"pth": "x"}}, r"sinks\.people: options of counts: .*'path'; it takes path"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(settings(**changes))


def test_sink_that_cannot_be_opened_ends_the_start(settings: Settings, tmp_path: Path) -> None:
    config = settings(kind="jsonl", options={"target": str(tmp_path / "missing" / "out.jsonl")})
    with pytest.raises(PublishError, match="choose another file"):
        run(config)
