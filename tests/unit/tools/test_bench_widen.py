"""The person model with more classes, for measurements: the person's outputs stay, the others are as good as silent."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="needs LiteRT, which 32-bit ARM has not")

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from edge_detector.loader import load_manifest
from edge_detector.manifest import SsdRawOutputs
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.quantization import RawOutputs
from edge_detector.registry import resolve_model
from tools.bench.widen import widen

CLASSES = 90


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "wide.tflite"
    path.write_bytes(widen(resolve_model("person-320").read_bytes(), CLASSES))
    return path


@pytest.fixture(scope="module")
def outputs(wide: Path) -> tuple[RawOutputs, RawOutputs]:
    """Return the raw outputs of the shipped and of the wide model for one picture of noise and a grey figure."""
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    image[60:200, 140:180] = 90
    found = []
    for path in (resolve_model("person-320"), wide):
        manifest = load_manifest(path)
        with closing(TfliteBackend(path, num_threads=2)) as backend:
            tensor, _ = prepare(image, Normalizer(manifest.input, backend.input_params))
            found.append(backend.infer(tensor))
    return found[0], found[1]


def test_the_persons_outputs_stay_the_same_bit_by_bit(outputs: tuple[RawOutputs, RawOutputs]) -> None:
    narrow, wide = outputs
    assert set(narrow) == set(wide)
    assert len(np.unique(narrow["class_logits_p3"].values)) > 10  # the picture says something
    for name, output in narrow.items():
        kept = wide[name].values
        if name.startswith("class_logits"):
            assert kept.shape[-1] == CLASSES * output.values.shape[-1]
            kept = kept[..., ::CLASSES]
        np.testing.assert_array_equal(kept, output.values)
        assert wide[name].params == output.params


def test_added_classes_differ_and_have_few_that_pass(wide: Path, outputs: tuple[RawOutputs, RawOutputs]) -> None:
    values = np.concatenate(
        [output.dequantized().reshape(-1, CLASSES) for name, output in outputs[1].items() if name.startswith("class")]
    )
    added = values[:, 1:]
    assert len(np.unique(added, axis=1).T) == CLASSES - 1
    assert -6 < np.median(added) < -4  # near the prior of 0.01 that such networks start from
    assert np.mean(added > -2.94) < 0.001  # a confidence of 0.05


def test_the_manifest_says_what_it_is(wide: Path, outputs: tuple[RawOutputs, RawOutputs]) -> None:
    manifest = load_manifest(wide)
    assert manifest.labels[0] == "person"
    assert len(set(manifest.labels)) == CLASSES
    assert "speed only" in str(manifest.origin["widened"])
    assert isinstance(manifest.outputs, SsdRawOutputs)
    SsdDecoder(manifest.outputs, (320, 320), manifest.nms, CLASSES).decode(outputs[1])  # raises if it does not fit


def test_a_model_that_is_wide_already_is_refused(wide: Path) -> None:
    with pytest.raises(ModelError, match="one class"):
        widen(wide.read_bytes())
