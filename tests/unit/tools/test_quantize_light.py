"""A float .tflite becomes int8 with what `pip install '.[quantize]'` brings, and is verified on all runtimes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("litert_quantizer", reason="needs litert-quantizer: pip install 'edge-detector[quantize]'")

from edge_detector.loader import load_model
from tests.unit.tools.quantizing import command_of, generated_photo, report_of

# Weights of tests/unit/tools/quantizing.py, half as wide, exported by tools/quantize --precision float32.
SOURCE = Path(__file__).parents[2] / "fixtures" / "small_float.tflite"


def works(runtime: str) -> bool:
    if importlib.util.find_spec(runtime) is None:
        return False
    return runtime != "tflite_runtime" or np.lib.NumpyVersion(np.__version__) < "2.0.0"


def test_a_float_tflite_is_quantized_without_a_framework(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(105):
        cv2.imwrite(str(photos / f"{seed:03}.png"), generated_photo(seed))
    block = "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'keras', 'torch', 'safetensors'])); "
    run = "sys.argv = sys.argv[1:]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    program = command_of(SOURCE, photos, tmp_path / "int8.tflite")[1:]
    command = [sys.executable, "-c", block + run, *program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr

    runtimes = report_of(tmp_path / "int8.tflite")["runtimes"]
    wanted = [
        title for title, module in (("LiteRT", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime")) if works(module)
    ]
    assert [parity["runtime"].split()[0] for parity in runtimes] == wanted
    assert all(parity["confirmed"] > 0 for parity in runtimes)
    loaded = load_model(tmp_path / "int8.tflite")
    assert loaded.manifest.labels == ("person", "dog")
    assert loaded.backend.input_params is not None
