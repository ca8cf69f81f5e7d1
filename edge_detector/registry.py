"""Models by name: those that are shipped with this package."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from edge_detector.errors import ModelError

_CHECKOUT = Path(__file__).resolve().parents[1] / "models"


def list_models() -> dict[str, Path]:
    """Return the shipped models' files by name; the name is the file's, without .tflite."""
    try:
        folder = [Path(str(entry)) for entry in files("edge_detector.models").iterdir()]
    except ModuleNotFoundError:  # run from a checkout that is not installed
        folder = list(_CHECKOUT.glob("*"))
    return {path.stem: path for path in sorted(folder) if path.suffix == ".tflite"}


def resolve_model(name_or_path: str) -> Path:
    """Return the file of a model given by path, by name, or by a part of one name.

    A text with a slash or ending in .tflite is a path. A part is whole words in their order, as `person-640` of
    `ssd_resnet50_fpn_person_640_int8`, and must fit one model only.

    Raises:
        ModelError: no model or more than one has this name; the message lists the names. Paths are not checked.
    """
    if os.sep in name_or_path or name_or_path.endswith(".tflite"):
        return Path(name_or_path).expanduser()
    models = list_models()
    if name_or_path in models:
        return models[name_or_path]
    fitting = [name for name in models if _words(name_or_path) in _words(name)]
    if len(fitting) == 1:
        return models[fitting[0]]
    fault = f"fits {', '.join(fitting)}" if fitting else "is unknown"
    raise ModelError(
        f"model {name_or_path!r} {fault}; give a path to a .tflite file or one of: "
        f"{', '.join(models) or '(none is shipped)'}"
    )


def _words(name: str) -> str:
    return f"-{name.replace('_', '-')}-"
