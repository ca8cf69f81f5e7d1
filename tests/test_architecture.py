"""The import rule: a file imports from its own row or the rows above; stage folders never import each other."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "edge_detector"

# First match wins. A stage folder's __init__ is its contract; the other files in it are leaves or pure functions.
ROWS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (
        1,
        (
            "errors",
            "events",
            "frame",
            "detections",
            "quantization",
            "abandoned",
            "passwords",
            "logs",
            "signals",
            "shortage",
        ),
    ),
    (2, ("manifest", "config", "labels", "flatbuffer", "tflite_schema", "model_file", "registry", "assets", "resize")),
    (2, ("manifest_rules", "preprocess", "postprocess", "tracking", "runtime.mailbox", "runtime.metrics")),
    (2, ("object_config", "sink_config", "stream_config", "web_config")),
    (2, ("config_checks", "config_file", "config_options")),
    (3, ("sources.camera", "sources", "backends", "publishers", "overlay_shapes", "overlay", "jpeg")),
    (5, ("loader", "detector", "runtime.pipeline", "runtime.feed", "runtime.process")),
    (6, ("runtime", "doctor", "cli", "commands", "__main__", "")),
)
STAGES = ("sources", "preprocess", "backends", "postprocess", "tracking", "publishers")
OPTIONAL = ("ai_edge_litert", "tflite_runtime", "tensorflow", "torch", "picamera2", "libcamera", "paho", "aiohttp")
OPTIONAL += ("av", "aiortc")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def row(module: str) -> int:
    """Return the row of a module, named relative to the package ("" is the package itself)."""
    for number, prefixes in ROWS:
        for prefix in prefixes:
            if module == prefix:
                return number
            if prefix and module.startswith(prefix + "."):
                return 4 if number == 3 else number
    raise AssertionError(f"edge_detector/{module}: give it a row in tests/test_architecture.py")


def imports(path: Path) -> Iterator[str]:
    """Yield absolute names of all imported modules, also inside functions, with `from` names appended."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def own_imports(path: Path) -> Iterator[str]:
    known = {module for module, _ in modules()}
    for name in imports(path):
        if name == "edge_detector" or name.startswith("edge_detector."):
            module = name.removeprefix("edge_detector").removeprefix(".")
            yield module if module in known else module.rpartition(".")[0]


def module_ids() -> list[str]:
    return [module for module, _ in modules()]


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=module_ids())
def test_module_imports_only_from_its_row_or_above(module: str, path: Path) -> None:
    if module == "":
        return  # the public names are gathered here
    for other in own_imports(path):
        if other:
            assert row(other) <= row(module), f"{module} (row {row(module)}) imports {other} (row {row(other)})"


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=module_ids())
def test_stage_folders_do_not_import_each_other(module: str, path: Path) -> None:
    stage = module.partition(".")[0]
    if stage in STAGES:
        others = {other.partition(".")[0] for other in own_imports(path)} & set(STAGES) - {stage}
        assert not others, f"{module} imports from {others}"


def test_package_never_imports_tools_or_training_frameworks() -> None:
    forbidden = {"tools", "tensorflow", "keras", "torch"}
    for module, path in modules():
        assert not {name.partition(".")[0] for name in imports(path)} & forbidden, module


def test_importing_the_program_loads_no_optional_package() -> None:
    code = (
        "import sys, edge_detector.cli\n"
        f"print(*[name for name in {OPTIONAL!r} if any(m == name or m.startswith(name + '.') for m in sys.modules)])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert result.stdout.split() == []


def test_importing_the_package_loads_numpy_at_most() -> None:
    code = "import sys, edge_detector; print(*{'cv2', 'pydantic', 'yaml', 'typer', 'rich'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert result.stdout.split() == []


def test_setup_lists_every_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    folders = {path.parent.relative_to(REPOSITORY) for path in PACKAGE.rglob("__init__.py")}
    assert listed == {".".join(folder.parts) for folder in folders} | {"edge_detector.models"}
