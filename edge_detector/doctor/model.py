"""Checks of the models: the files, and what they find in a known picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.config import ModelConfig
from edge_detector.doctor.context import Context
from edge_detector.doctor.finding import Finding, error, ok, skipped, warning
from edge_detector.doctor.host import ProbeError
from edge_detector.errors import ModelError
from edge_detector.model_file import read_appended, read_model_file
from edge_detector.postprocess.boxes import pairwise_iou
from edge_detector.registry import list_models, resolve_model
from edge_detector.tflite_schema import read_tflite

TIMEOUT_S = 120.0  # the 640 model takes some seconds on a Pi Zero
# int8 kernels of different runtimes differ by up to 19 steps; the tests hold both runtimes to this.
_SURE, _SCORE_TOLERANCE, _IOU = 0.5, 0.1, 0.7


def check_models(context: Context) -> Iterator[Finding]:
    """Whether the model of the settings, or else each shipped one, is whole and finds what it should."""
    expected = json.loads(files(__package__).joinpath("expected.json").read_text())
    wanted = ModelConfig() if context.config is None else context.config.model
    by_name = context.config_path is not None and context.config is not None
    paths = [wanted.path] if by_name else list(list_models())
    for name in paths:
        try:
            path = resolve_model(name)
        except ModelError as problem:
            yield error("model", str(problem), "Correct model.path in the settings.")
            continue
        try:
            content = read_model_file(path)
            read_tflite(content, path.name)
            read_appended(content, path.name)
        except ModelError as problem:
            yield error("model", str(problem), *_bring_back(path))
            continue
        yield _try(context, wanted, path, content, expected.get(path.stem))


def _try(context: Context, wanted: ModelConfig, path: Path, content: bytes, expected: dict[str, Any] | None) -> Finding:
    """Return how a model does in a process of its own."""
    changed = expected is not None and hashlib.sha256(content).hexdigest() != expected["sha256"]
    if changed and path in list_models().values():
        return error("model", f"{path.name}: differs from what was shipped", *_bring_back(path))
    job = {"path": str(path), "labels": wanted.labelmap_path, "threads": wanted.num_threads, "runtime": wanted.runtime}
    try:
        answer = context.host.probe("model", job, timeout_s=TIMEOUT_S)
    except ProbeError as problem:
        if problem.kind == "DelegateError":
            return skipped("model", f"{path.name}: not tried, because the runtime does not work")
        text = str(problem)
        return error("model", text if path.name in text else f"{path.name}: {text}", *_bring_back(path))
    speed = f"{answer['inference_ms']:.0f} ms on {answer['backend']}"
    if answer["problem"] is not None:
        return error("model", f"{path.name}: {answer['problem']}", "Convert it again with tools/quantize.")
    found = np.array(answer["boxes"], float).reshape(-1, 5)
    if expected is None:
        return ok("model", f"{path.name}: loads, runs, its outputs are sound; {speed}")
    missed, invented = differences(np.array(expected["boxes"], float).reshape(-1, 5), found)
    if missed or invented:
        people = f"misses {missed} and invents {invented} of the people in the known picture"
        return error("model", f"{path.name}: {people} ({answer['backend']})", *_bring_back(path))
    if changed:
        return warning("model", f"{path.name}: has a shipped model's name, but is another file; {speed}")
    sure = int((found[:, 4] >= _SURE).sum())
    return ok("model", f"{path.name}: finds the {sure} people of the known picture; {speed}")


def differences(expected: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Return how many are missed and invented; arrays (N, 5) of x1, y1, x2, y2 in pixels, confidence."""
    return _unmatched(expected, found), _unmatched(found, expected)


def _unmatched(boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> int:
    sure = boxes[boxes[:, 4] >= _SURE]
    alike = pairwise_iou(sure[:, :4].astype(np.float32), others[:, :4].astype(np.float32)) >= _IOU
    alike &= np.abs(sure[:, 4:5] - others[:, 4]) <= _SCORE_TOLERANCE
    return int((~alike.any(axis=1)).sum())


def _bring_back(path: Path) -> tuple[str, str | None]:
    """Return how to get a whole file again."""
    if path not in list_models().values():
        return "Copy the file again, or convert it anew with tools/quantize.", None
    if (path.parents[1] / ".git").exists():
        return "Take it from the repository again:", f"git -C {path.parents[1]} checkout -- models/{path.name}"
    return "Install edge-detector again, with pip's --force-reinstall.", None
