from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_detector.backends.replay import ReplayBackend, save_recording
from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError


def test_recorded_frames_come_back_in_order_and_from_the_start_again(repository: Path, tmp_path: Path) -> None:
    model = TfliteBackend(repository / "tests" / "fixtures" / "raw_heads_int8.tflite", 1)
    tensors = [np.full(model.input_shape, value, np.float32) for value in (0.2, 0.8)]
    recorded = [model.infer(tensor) for tensor in tensors]
    save_recording(tmp_path / "two.npz", model, recorded)
    replay = ReplayBackend(tmp_path / "two.npz")
    assert replay.input_shape == model.input_shape
    assert model.name in replay.name
    for wanted in (recorded[0], recorded[1], recorded[0]):
        got = replay.infer(tensors[0])
        assert list(got) == list(wanted)
        for name, output in wanted.items():
            np.testing.assert_array_equal(got[name].values, output.values)
            assert got[name].params == output.params


def test_files_that_are_no_recording_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        ReplayBackend(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", boxes=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])
    for name in ("text.npz", "other.npz", "cut.npz"):
        with pytest.raises(ModelError, match="not a recording"):
            ReplayBackend(tmp_path / name)
