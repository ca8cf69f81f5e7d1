"""What the Edge TPU's compiler is expected to map, and the compiler itself, faked by what is documented of it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert.tools", reason="needs LiteRT's flatbuffer tools: pip install ai-edge-litert")

from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.registry import resolve_model
from tools.quantize.edgetpu import edge_tpu_report

MODEL = resolve_model("ssd_resnet50_fpn_person_320_int8")
# As edgetpu_compiler 16.0 prints it, from public issue reports; the program is closed and was never run here.
LOG = """Edge TPU Compiler version 16.0.384591198
Model compiled successfully in 3056 ms.
Number of operations that will run on Edge TPU: 115
Number of operations that will run on CPU: 0"""


def test_every_operator_of_a_shipped_model_is_expected_on_the_edge_tpu() -> None:
    report = edge_tpu_report(MODEL.read_bytes(), None)
    assert [(found.operator, found.reason) for found in report.operators if not found.mapped] == []
    assert len(report.operators) > 100
    assert 25e6 < report.parameter_bytes < MODEL.stat().st_size
    assert report.parameter_bytes > report.sram_bytes
    assert report.compiler is None


def test_what_follows_an_operator_on_the_cpu_runs_there_too(shared: Path) -> None:
    report = edge_tpu_report((shared / "reference/tflite/tiny_tf219_int8_io.tflite").read_bytes(), None)
    first = next(found for found in report.operators if not found.mapped)
    assert (first.operator, first.reason) == ("PACK", "5 dimensions, only three innermost may exceed 1")
    on_cpu = Counter(found.reason for found in report.operators if not found.mapped)
    assert on_cpu["PACK before it is not mapped"] > 30
    # C5 and what P6 and P7 are made of do not depend on it
    assert sum(found.mapped for found in report.operators) > 80


def test_a_float_model_is_not_mapped_at_all(shared: Path) -> None:
    report = edge_tpu_report((shared / "reference/tflite/tiny_tf219_float.tflite").read_bytes(), None)
    assert not any(found.mapped for found in report.operators)
    assert report.operators[0].reason == "tensors are not quantized to 8 bits"
    assert report.parameter_bytes == 0


def changed(**options: bool) -> bytes:
    """Return the shipped model with other options of its first upsampling."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(MODEL.read_bytes()))
    operators = model.subgraphs[0].operators
    resize = next(o for o in operators if type(o.builtinOptions).__name__ == "ResizeNearestNeighborOptionsT")
    for name, value in options.items():
        setattr(resize.builtinOptions, name, value)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def test_half_pixel_upsampling_and_later_versions_are_not_mapped() -> None:
    reasons = [found.reason for found in edge_tpu_report(changed(halfPixelCenters=True), None).operators]
    assert "align_corners and half_pixel_centers are not supported" in reasons
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(MODEL.read_bytes()))
    for code in model.operatorCodes:
        code.version += code.builtinCode == 97  # RESIZE_NEAREST_NEIGHBOR
    reasons = [
        found.reason
        for found in edge_tpu_report(bytes(flatbuffer_utils.convert_object_to_bytearray(model)), None).operators
    ]
    assert "operator version 3 is not supported, only up to 2" in reasons


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.tflite").write_bytes(MODEL.read_bytes())
    return tmp_path / "model.tflite"


def install(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir()
    program = folder / "bin" / "edgetpu_compiler"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def test_the_compiler_is_run_where_it_is_installed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = 'while [ $# -gt 1 ]; do [ "$1" = --out_dir ] && out=$2; shift; done; cp "$1" "$out/model_edgetpu.tflite"'
    install(model.parent, f"{write}\ncat <<'END'\n{LOG}\nEND", monkeypatch)
    report = edge_tpu_report(model.read_bytes(), model)
    assert report.compiler == LOG
    assert report.compiled == "model_edgetpu.tflite"
    assert (model.parent / report.compiled).read_bytes() == model.read_bytes()


def test_a_compiler_that_fails_is_told_and_leaves_no_twin(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(model.parent, "echo 'Invalid model' >&2; exit 1", monkeypatch)
    report = edge_tpu_report(model.read_bytes(), model)
    assert report.compiler == "Invalid model\nedgetpu_compiler ended with code 1"
    assert report.compiled is None
    assert not list(model.parent.glob("*_edgetpu*"))


def test_a_compiler_that_hangs_is_ended(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(model.parent, "exec sleep 60", monkeypatch)
    monkeypatch.setattr("tools.quantize.edgetpu._TIMEOUT_S", 0.3)
    report = edge_tpu_report(model.read_bytes(), model)
    assert report.compiler is not None
    assert "timed out" in report.compiler
