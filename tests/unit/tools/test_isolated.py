from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from edge_detector.registry import resolve_model
from tools.quantize.isolated import IsolatedBackend

pytest.importorskip("ai_edge_litert", reason="runs a model on LiteRT: pip install ai-edge-litert")

MODEL = resolve_model("ssd_resnet50_fpn_person_320_int8")


@pytest.fixture
def isolated() -> Iterator[IsolatedBackend]:
    backend = IsolatedBackend(MODEL, "litert", 1)
    yield backend
    backend.close()


def child() -> multiprocessing.process.BaseProcess:
    (process,) = multiprocessing.active_children()
    return process


def test_it_computes_what_the_runtime_computes_here(isolated: IsolatedBackend) -> None:
    here = TfliteBackend(MODEL, 1, "litert")
    tensor = np.random.default_rng(0).integers(-128, 128, here.input_shape).astype(np.int8)
    wanted, got = here.infer(tensor), isolated.infer(tensor)
    assert (isolated.name, isolated.input_shape, isolated.input_params) == (
        here.name,
        here.input_shape,
        here.input_params,
    )
    assert set(wanted) == set(got)
    for name, output in wanted.items():
        assert np.array_equal(output.values, got[name].values)
        assert output.params == got[name].params
    assert len(isolated.seconds) == 1
    assert isolated.seconds[0] > 0


def test_an_error_in_the_process_is_raised_here(isolated: IsolatedBackend) -> None:
    with pytest.raises(ModelError, match=r"the model takes int8 \[1, 320, 320, 3\], got int8 \[1, 32, 32, 3\]"):
        isolated.infer(np.zeros((1, 32, 32, 3), np.int8))
    assert not multiprocessing.active_children()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="not a TFLite model"):
        IsolatedBackend(tmp_path / "model.tflite", "litert")
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_is_an_error_not_a_hang(isolated: IsolatedBackend) -> None:
    process = child()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    with pytest.raises(ModelError, match="process ended with code -9"):
        isolated.infer(np.zeros(isolated.input_shape, np.int8))


def test_closing_ends_the_process(isolated: IsolatedBackend) -> None:
    isolated.close()
    assert not multiprocessing.active_children()
