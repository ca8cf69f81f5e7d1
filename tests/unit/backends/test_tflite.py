from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_detector.backends import open_backend, tflite
from edge_detector.backends.tflite import TfliteBackend, default_threads
from edge_detector.errors import ConfigError, DelegateError, ModelError


@pytest.fixture
def fixtures(repository: Path) -> Path:
    return repository / "tests" / "fixtures"


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_stored_outputs_stand_for_the_values_of_the_float_model(fixtures: Path, kind: str) -> None:
    tensor = np.full((1, 64, 64, 3), (0.9, 0.2, 0.5), np.float32)
    backend = TfliteBackend(fixtures / f"raw_heads_{kind}.tflite", 1)
    if backend.input_params is None:
        stored = backend.infer(tensor)
    else:
        stored = backend.infer(backend.input_params.quantize(tensor))
        tensor = backend.input_params.dequantize(backend.input_params.quantize(tensor))
    assert (backend.input_params is None) == (kind == "int8")
    real = TfliteBackend(fixtures / "raw_heads.tflite", 1).infer(tensor)
    for name in ("classes", "boxes"):
        output = stored[f"{name}_{kind}"]
        assert output.values.dtype == kind
        assert output.params is not None
        np.testing.assert_allclose(output.dequantized(), real[name].values, atol=output.params.scale * 0.501)


def test_model_is_taken_as_bytes_too(fixtures: Path) -> None:
    path = fixtures / "detection_op.tflite"
    tensor = np.full((1, 64, 64, 3), (0.9, 0.2, 0.5), np.float32)
    from_bytes, from_path = (TfliteBackend(model, 1).infer(tensor) for model in (path.read_bytes(), path))
    for name, output in from_path.items():
        np.testing.assert_array_equal(from_bytes[name].values, output.values)


def test_name_tells_runtime_version_and_threads(fixtures: Path) -> None:
    backend = open_backend(fixtures / "detection_op.tflite", num_threads=2)
    runtime, version, threads, _ = backend.name.replace(",", "").split()
    assert runtime in ("LiteRT", "tflite-runtime")
    assert version[0].isdigit()
    assert threads == "2"


@pytest.mark.parametrize("kept", [0, 7, 100, 1000, 30000, 38319])
def test_cut_off_model_is_refused_before_a_runtime_crashes_on_it(fixtures: Path, kept: int) -> None:
    content = (fixtures / "raw_heads.tflite").read_bytes()[:kept]
    with pytest.raises(ModelError, match=f"cut off after {kept} bytes") as caught:
        TfliteBackend(content, 1)
    assert "\n" not in str(caught.value)


def test_model_that_the_runtime_cannot_build_is_refused_with_its_reason(fixtures: Path) -> None:
    content = (fixtures / "detection_op.tflite").read_bytes()
    unknown = content.replace(b"TFLite_Detection_PostProcess", b"TFLite_Detection_SomethingEl")
    with pytest.raises(ModelError, match=r"cannot load it .*TFLite_Detection_SomethingEl") as caught:
        TfliteBackend(unknown, 1)
    assert "\n" not in str(caught.value)


def test_input_that_is_no_picture_is_refused_with_its_shape() -> None:
    details = [{"shape": np.array([1, 3, 64, 64]), "shape_signature": np.array([1, 3, 64, 64])}]
    with pytest.raises(ModelError, match=r"takes \[1, 3, 64, 64\], but one picture"):
        tflite.input_shape_of(details, "model")


def test_dynamic_size_is_refused_but_a_dynamic_batch_is_not() -> None:
    details = [{"shape": np.array([1, 1, 1, 3]), "shape_signature": np.array([1, -1, -1, 3])}]
    with pytest.raises(ModelError, match="fixed size"):
        tflite.input_shape_of(details, "model")
    details = [{"shape": np.array([1, 32, 64, 3]), "shape_signature": np.array([-1, 32, 64, 3])}]
    assert tflite.input_shape_of(details, "model") == (1, 32, 64, 3)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (3, 3), (4, 3), (8, 7)])
def test_default_threads_leave_one_core_of_four(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert default_threads() == threads


def test_settings_out_of_range_are_config_errors(fixtures: Path) -> None:
    with pytest.raises(ConfigError, match="num_threads"):
        TfliteBackend(fixtures / "raw_heads.tflite", num_threads=0)
    with pytest.raises(ConfigError, match="choose one of auto, litert, tflite"):
        TfliteBackend(fixtures / "raw_heads.tflite", runtime="onnx")


@pytest.mark.parametrize("runtime", ["auto", "litert", "tflite"])
@pytest.mark.parametrize(
    ("maxsize", "version", "advice"),
    [
        (2**63 - 1, 0x030D0000, "pip install ai-edge-litert"),
        (2**31 - 1, 0x030B0000, "pip install tflite-runtime==2.14.0 'numpy<2'"),
        (2**31 - 1, 0x030D0000, "use a 64-bit system"),
    ],
)
def test_missing_runtime_names_what_to_install_for_this_python(
    monkeypatch: pytest.MonkeyPatch, fixtures: Path, runtime: str, maxsize: int, version: int, advice: str
) -> None:
    monkeypatch.setattr(tflite, "_is_installed", lambda runtime: False)
    monkeypatch.setattr(tflite.sys, "maxsize", maxsize)
    monkeypatch.setattr(tflite.sys, "hexversion", version)
    with pytest.raises(DelegateError) as caught:
        TfliteBackend(fixtures / "raw_heads.tflite", runtime=runtime)
    assert advice in str(caught.value)


def test_tflite_runtime_beside_numpy_2_is_refused_before_it_crashes(
    monkeypatch: pytest.MonkeyPatch, fixtures: Path
) -> None:
    monkeypatch.setattr(tflite, "_is_installed", lambda runtime: True)
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(DelegateError, match=r"does not work with numpy 2\.1\.0; run: pip install 'numpy<2'"):
        TfliteBackend(fixtures / "raw_heads.tflite", runtime="tflite")


def test_auto_falls_back_to_tflite_runtime_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tflite, "_is_installed", lambda runtime: runtime.package == "tflite-runtime")
    tflite._warn_of_slow_runtime.cache_clear()
    assert tflite.choose_runtime("auto").package == "tflite-runtime"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_other_kinds_of_file_are_refused() -> None:
    with pytest.raises(ModelError, match=r"give one that ends in \.tflite"):
        open_backend(Path("model.onnx"))
