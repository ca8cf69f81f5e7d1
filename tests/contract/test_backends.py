"""The contract of `Backend`, on every backend and on models with float, int8, int16 and already decoded outputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.backends import Backend
from edge_detector.backends.replay import ReplayBackend, save_recording
from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MODELS = {  # name -> number of outputs
    "od_api_tiny_int8": 4,
    "raw_heads": 2,
    "raw_heads_int8": 2,
    "raw_heads_int16": 2,
    "detection_op": 4,
}


def tensor_for(backend: Backend, seed: int) -> npt.NDArray[Any]:
    values = np.random.default_rng(seed).uniform(size=3) * np.ones(backend.input_shape)
    if backend.input_params is None:
        return values.astype(np.float32)
    return backend.input_params.quantize(values * 200 - 100)


def open_tflite(runtime: str, module: str) -> Callable[[Path, Path], Backend]:
    def opened(model: Path, folder: Path) -> Backend:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed in this environment")
        return TfliteBackend(model, num_threads=1, runtime=runtime)

    return opened


def open_replay(model: Path, folder: Path) -> Backend:
    source = TfliteBackend(model, num_threads=1)
    frames = [source.infer(tensor_for(source, seed)) for seed in (1, 2)]
    save_recording(folder / "recording.npz", source, frames)
    return ReplayBackend(folder / "recording.npz")


OPENERS = {
    "litert": open_tflite("litert", "ai_edge_litert"),
    "tflite": open_tflite("tflite", "tflite_runtime"),
    "replay": open_replay,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=OPENERS)
def backend(request: pytest.FixtureRequest, model: str, tmp_path: Path) -> Backend:
    opened: Backend = OPENERS[request.param](FIXTURES / f"{model}.tflite", tmp_path)
    return opened


def test_says_what_it_is_and_what_it_takes(backend: Backend) -> None:
    assert backend.name
    batch, height, width, channels = backend.input_shape
    assert (batch, channels) == (1, 3)
    assert height == width
    assert height in (64, 640)
    assert backend.input_params is None or backend.input_params.scale > 0


def test_outputs_have_the_same_names_shapes_and_types_each_time(backend: Backend, model: str) -> None:
    first, second = (backend.infer(tensor_for(backend, seed)) for seed in (1, 2))
    assert len(first) == MODELS[model]
    assert list(first) == list(second)
    for name, output in first.items():
        assert output.values.shape == second[name].values.shape
        assert output.values.dtype == second[name].values.dtype
        assert output.params == second[name].params
        assert (output.params is None) == (output.values.dtype == np.float32)


def test_outputs_belong_to_the_caller(backend: Backend) -> None:
    first = backend.infer(tensor_for(backend, 1))
    before = {name: output.values.copy() for name, output in first.items()}
    second = backend.infer(tensor_for(backend, 2))
    assert any(not np.array_equal(before[name], second[name].values) for name in before)
    for name, output in first.items():
        np.testing.assert_array_equal(output.values, before[name])
        output.values[...] = 7
    again = {name: output.values for name, output in backend.infer(tensor_for(backend, 1)).items()}
    for name, values in before.items():
        np.testing.assert_array_equal(again[name], values)


def test_input_is_not_written_to(backend: Backend) -> None:
    tensor = tensor_for(backend, 1)
    before = tensor.copy()
    backend.infer(tensor)
    np.testing.assert_array_equal(tensor, before)


def test_wrong_shape_or_dtype_is_refused_with_wanted_and_got(backend: Backend) -> None:
    tensor = tensor_for(backend, 1)
    with pytest.raises(ModelError, match=r"takes .*\[1, \d+, \d+, 3\], got .*\[1, \d+, \d+, 2\]"):
        backend.infer(tensor[..., :2])
    with pytest.raises(ModelError, match=r"got float64"):
        backend.infer(tensor.astype(np.float64))


def test_closes_twice_and_then_refuses_to_run(backend: Backend) -> None:
    tensor = tensor_for(backend, 1)
    backend.close()
    backend.close()
    with pytest.raises(ModelError, match="closed"):
        backend.infer(tensor)
