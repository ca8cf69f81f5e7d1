"""Conversions end to end: what is written, what is refused, and what an interruption leaves behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'edge-detector[train]'")
pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")
pytest.importorskip("litert_quantizer", reason="needs litert-quantizer: pip install 'edge-detector[convert]'")

import tools.quantize.__main__ as program
from edge_detector.errors import ConfigError, ModelError
from edge_detector.loader import load_manifest, load_model
from edge_detector.manifest import DetectionOpOutputs
from tests.unit.tools.quantizing import (
    ARCH,
    LABELS,
    Workplace,
    command_of,
    make_workplace,
    random_weights,
    recipe_of,
    report_of,
    run_tool,
)
from tools.network.weights import save_weights, sha256_of
from tools.quantize.export import export_float
from tools.quantize.precision import Precision


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("convert"))


def test_the_same_conversion_gives_the_same_bytes_and_says_how(workplace: Workplace, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        result = run_tool(workplace.weights, workplace.photos, tmp_path / folder / "model.tflite")
        assert result.returncode == 0, result.stderr
    one, two = (tmp_path / folder / "model.tflite" for folder in ("one", "two"))
    assert sha256_of(one) == sha256_of(two)
    recipe = recipe_of(one)
    assert recipe["recipe"]["source_sha256"] == sha256_of(workplace.weights)
    assert recipe["recipe"]["calibration_photos"] == 100
    (parity,) = recipe["parity"]["runtimes"].values()
    assert parity["cosine"]["class_logits_p3"] > 0.95
    assert not any("second" in key or "ms" in key for key in parity)


def test_the_float_model_is_compared_with_both_frameworks(workplace: Workplace, tmp_path: Path) -> None:
    workplace.run(tmp_path / "model.tflite", precision=Precision.FLOAT32)
    sources = report_of(tmp_path / "model.tflite")["against_source"]
    assert [source["reference"].split()[0] for source in sources] == ["Keras", "PyTorch"]
    assert all(error < 1e-3 for source in sources for error in source["max_error"].values())


def test_a_canvas_that_is_not_square(workplace: Workplace, tmp_path: Path) -> None:
    workplace.run(tmp_path / "wide.tflite", input_size="224x160")
    loaded = load_model(tmp_path / "wide.tflite")
    assert loaded.backend.input_shape == (1, 160, 224, 3)
    assert (loaded.manifest.input.width, loaded.manifest.input.height) == (224, 160)


def test_float16_halves_the_file(workplace: Workplace, tmp_path: Path) -> None:
    workplace.run(tmp_path / "half.tflite", precision=Precision.FLOAT16)
    workplace.run(tmp_path / "whole.tflite", precision=Precision.FLOAT32)
    half, whole = (report_of(tmp_path / name)["size_mb"] for name in ("half.tflite", "whole.tflite"))
    assert 0.45 < half / whole < 0.75
    assert load_model(tmp_path / "half.tflite").backend.input_params is None


def test_mixed_precision_keeps_layers_in_float_and_says_what_it_costs(workplace: Workplace, tmp_path: Path) -> None:
    workplace.run(tmp_path / "mixed.tflite", mixed=2)
    steps = report_of(tmp_path / "mixed.tflite")["mixed"]
    assert [step["kept"] for step in steps] == [0, 1, 2]
    assert steps[2]["size_mb"] > steps[0]["size_mb"]
    assert len(steps[2]["layers"]) == 2


def test_the_detection_op_on_demand(workplace: Workplace, tmp_path: Path) -> None:
    workplace.run(tmp_path / "op.tflite", head=program.Head.POSTPROCESS_OP)
    loaded = load_model(tmp_path / "op.tflite")
    assert isinstance(loaded.manifest.outputs, DetectionOpOutputs)
    assert loaded.manifest.labels == LABELS


def test_resize_and_interpolation_go_into_the_manifest(workplace: Workplace, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "resize": program.Resize.STRETCH,
        "interpolation": program.Interpolation.BILINEAR_LEGACY,
    }
    workplace.run(tmp_path / "model.tflite", precision=Precision.FLOAT32, **options)
    spec = load_manifest(tmp_path / "model.tflite").input
    assert (spec.resize, spec.interpolation) == ("stretch", "bilinear_legacy")


def test_weights_that_are_not_numbers_are_refused(workplace: Workplace, tmp_path: Path) -> None:
    weights = random_weights(ARCH)
    weights["fpn.smooth4.conv.weight"] = weights["fpn.smooth4.conv.weight"] * np.nan
    save_weights(tmp_path / "nan.safetensors", ARCH, weights, LABELS)
    broken = Workplace(tmp_path / "nan.safetensors", workplace.photos, tmp_path)
    with pytest.raises(ModelError, match=r"1 tensors hold NaN or infinity, such as fpn\.smooth4\.conv\.weight"):
        broken.run(tmp_path / "model.tflite")
    assert not list(tmp_path.glob("*.tflite"))


def test_labels_of_another_network_are_refused(workplace: Workplace, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("person\n")
    with pytest.raises(ModelError, match="has 2 classes, but there are 1 labels"):
        workplace.run(tmp_path / "model.tflite", labels=tmp_path / "labels.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"hello", r"starts with b'hello'; supported are float \.tflite; .*TF2 Object Detection API"),
        ("empty.pth", b"", "an empty file"),
        ("other.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file of another network"),
        ("cut.tar.gz", b"\x1f\x8b\x08\x00" + bytes(50), "the archive is cut off or damaged"),
        ("cut.safetensors", (10**6).to_bytes(8, "little") + b"{", "supported are"),
    ],
)
def test_other_files_are_refused_with_what_was_found(
    workplace: Workplace, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        Workplace(tmp_path / name, workplace.photos, tmp_path).run(tmp_path / "model.tflite")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_damaged_photos_are_left_out(workplace: Workplace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for file in workplace.photos.iterdir():
        (photos / file.name).symlink_to(file)
    (photos / "050.png").unlink()
    (photos / "050.png").write_bytes(b"no picture")
    Workplace(workplace.weights, photos, tmp_path).run(tmp_path / "model.tflite")
    assert "050.png: not a picture" in caplog.text


def test_a_refused_model_has_a_report_only_where_one_is_asked_for(workplace: Workplace, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cosine .* < 1\.5"):
        workplace.run(tmp_path / "model.tflite", min_cosine=1.5)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="parity is poor, nothing is written"):
        workplace.run(tmp_path / "model.tflite", min_cosine=1.5, report=tmp_path / "why")
    assert [path.name for path in tmp_path.iterdir()] == ["why"]
    text = (tmp_path / "why" / "report.md").read_text()
    assert text.startswith("# model: REFUSED\n- LiteRT")
    assert "## Layers that add most noise" in text


def test_ctrl_c_leaves_nothing(workplace: Workplace, tmp_path: Path) -> None:
    command = command_of(workplace.weights, workplace.photos, tmp_path / "model.tflite")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:  # wait until it is well under way
            if "own weights" in line:
                break
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130, rest
    assert rest.splitlines()[-1] == "quantize: stopped, nothing is written"
    assert "Traceback" not in rest
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(workplace: Workplace, tmp_path: Path) -> None:
    float_model = export_float(ARCH, random_weights(ARCH))
    (tmp_path / "source").mkdir()
    (tmp_path / "out").mkdir()
    source = tmp_path / "source" / "float.tflite"
    workplace.run(source, precision=Precision.FLOAT32)
    limit = len(float_model) // 8  # bytes of a file: less than the int8 model

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = command_of(source, workplace.photos, tmp_path / "out" / "model.tflite")
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, preexec_fn=limited)
    assert result.returncode == ConfigError.exit_code, result.stderr
    assert "model.tflite: cannot be written: File too large" in result.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").iterdir())
