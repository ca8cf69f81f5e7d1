"""What may crash or hang, tried in a process of its own; the arguments are WHAT and JSON.

The last line that it prints is {"result": ...} or {"error": "...", "kind": "ValueError"}.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import json
import resource
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any


def main() -> None:
    """Do what the command line names, and print what came of it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected, SD cards are small
    what, argument = sys.argv[1], json.loads(sys.argv[2])
    try:
        answer = {"result": _PROBES[what](argument)}
    except Exception as error:  # noqa: BLE001 - all that a foreign library may raise
        kind = type(error).__name__
        prefix = "" if type(error).__module__ == "edge_detector.errors" else f"{kind}: "
        answer = {"error": f"{prefix}{' '.join(str(error).split())}", "kind": kind}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def import_module(name: str) -> dict[str, Any]:
    """Import a module; return its version and the packages that could have brought it."""
    module = importlib.import_module(name)
    bringing = sorted(set(importlib.metadata.packages_distributions().get(name, [])))
    versions = {package: importlib.metadata.version(package) for package in bringing}
    return {"version": str(getattr(module, "__version__", "")), "packages": versions}


def start_runtime(word: str) -> dict[str, Any]:
    """Start an interpreter of "litert" or "tflite" on a shipped model; return versions, or None if not installed."""
    import numpy as np

    from edge_detector.backends.tflite import choose_runtime
    from edge_detector.registry import list_models

    runtime = choose_runtime(word)
    found: dict[str, Any] = {"numpy": np.__version__, "version": None, "problem": None}
    try:
        found["version"] = importlib.metadata.version(runtime.package)
    except importlib.metadata.PackageNotFoundError:
        return found
    try:
        interpreter = importlib.import_module(runtime.module).Interpreter
        for model in [*list_models().values()][:1]:
            interpreter(model_path=str(model))
    except Exception as error:  # noqa: BLE001 - SystemError among them
        found["problem"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return found


def list_connected(_: object) -> list[dict[str, Any]]:
    """Return the cameras of this machine."""
    from edge_detector.sources.auto import list_cameras

    return [{"uri": found.uri, "title": found.title, "problem": found.problem} for found in list_cameras()]


def library_version(name: str) -> str:
    """Load a delegate's library; return what libedgetpu says of its version, or "" where it does not."""
    library = ctypes.CDLL(name)
    if not hasattr(library, "edgetpu_version"):
        return ""
    library.edgetpu_version.restype = ctypes.c_char_p
    return bytes(library.edgetpu_version()).decode(errors="replace")


def try_model(job: dict[str, Any]) -> dict[str, Any]:
    """Find what is in the first picture of the demo clip; return boxes with scores, and what is odd of the outputs."""
    import numpy as np

    from edge_detector.assets import DEMO_CLIP
    from edge_detector.detector import Detector
    from edge_detector.sources import open_source

    labels = None if job["labels"] is None else Path(job["labels"])
    with (
        closing(open_source(str(DEMO_CLIP))) as clip,
        closing(Detector.open(job["path"], labels, job["threads"], job["runtime"], 0.3)) as detector,
    ):
        frame = clip.read(5.0)
        if frame is None:
            raise RuntimeError("the demo clip cannot be read")
        inner, seen = detector.backend.infer, []

        def infer_and_keep(tensor: Any) -> Any:
            seen.append(inner(tensor))
            return seen[-1]

        detector.backend.infer = infer_and_keep  # type: ignore[method-assign]
        detector.detect(frame)  # the first takes longer
        found, timings_s = detector.detect_timed(frame)
        values = [np.asarray(output.values) for output in seen[-1].values()]
        problem = None
        if not all(np.isfinite(output).all() for output in values):
            problem = "its outputs are not finite"
        elif all(output.size < 2 or output.min() == output.max() for output in values):
            problem = "each of its outputs is one value all over"
        elif len(found) and (found.xyxy.min() < 0 or (found.xyxy.max(0)[2:] > frame.size_wh).any()):
            problem = "its boxes are outside of the picture"
        return {
            "backend": detector.backend.name,
            "inference_ms": 1000 * timings_s["inference"],
            "boxes": np.column_stack([found.xyxy, found.confidence]).astype(float).tolist(),
            "problem": problem,
        }


_PROBES: dict[str, Callable[[Any], Any]] = {
    "import": import_module,
    "runtime": start_runtime,
    "cameras": list_connected,
    "library": library_version,
    "model": try_model,
}

if __name__ == "__main__":
    main()
