from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")
pytest.importorskip("litert_quantizer", reason="needs litert-quantizer: pip install 'edge-detector[convert]'")

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from tests.unit.tools.small_networks import Damage, five_convolutions, ranges_of, tensors
from tools.quantize.findings import LayerError
from tools.quantize.layers import Step, layer_errors
from tools.quantize.mixed import float_layers, mixed_steps
from tools.quantize.precision import Precision, quantize

DAMAGES: tuple[Damage, ...] = ("outlier channel", "outlier weight")


def errors_of(content: bytes, precision: Precision = Precision.INT8) -> tuple[LayerError, ...]:
    return layer_errors(content, quantize(content, ranges_of(content, precision), precision), tensors())


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_layer_that_is_badly_represented_comes_first(damage: Damage) -> None:
    worst, second, *_ = errors_of(five_convolutions(damage))
    assert "conv2" in worst.name
    assert worst.added_noise > 2 * second.added_noise
    by_rounding = worst.rounding_noise > worst.added_noise / 2
    assert by_rounding == (damage == "outlier channel")


def test_in_a_sound_network_no_layer_adds_notable_noise() -> None:
    errors = errors_of(five_convolutions())
    assert len(errors) == 5
    assert max(error.added_noise for error in errors) < 0.005
    assert min(error.snr_db for error in errors) > 18


def test_16_bits_of_activation_represent_an_outlier_channel() -> None:
    (conv2,) = (
        error for error in errors_of(five_convolutions("outlier channel"), Precision.INT16X8) if "conv2" in error.name
    )
    assert conv2.added_noise < 0.005


@pytest.mark.parametrize("damage", ["none", *DAMAGES])
def test_noise_of_the_last_layer_is_that_of_the_output(damage: Damage) -> None:
    content = five_convolutions(damage)
    stored = quantize(content, ranges_of(content))
    (end,) = (error for error in layer_errors(content, stored, tensors()) if error.name == "end")
    wanted, got = (
        np.concatenate([backend.infer(kind(tensor))["end"].dequantized().reshape(-1, 8) for tensor in tensors()])
        for backend, kind in (
            (TfliteBackend(content), np.asarray),
            (TfliteBackend(stored), lambda tensor: (tensor - 128).astype(np.int8)),
        )
    )
    shares = ((got - wanted) ** 2).mean(axis=0) / wanted.var(axis=0)
    assert end.snr_db == pytest.approx(-10 * np.log10(np.minimum(shares, 1).mean()), abs=0.01)


def test_a_model_adds_no_noise_to_itself() -> None:
    content = five_convolutions()
    assert {error.added_noise for error in layer_errors(content, content, tensors())} == {0.0}


def test_models_of_different_layers_and_no_photos_are_refused() -> None:
    content = five_convolutions()
    with pytest.raises(ModelError, match="no photo"):
        layer_errors(content, content, [])
    with pytest.raises(ModelError, match="different layers"):
        layer_errors(content, content.replace(b"conv3", b"other"), tensors())


@pytest.mark.parametrize("damage", DAMAGES)
def test_keeping_the_worst_layer_in_float_repairs_the_model(damage: Damage) -> None:
    content = five_convolutions(damage)
    ranges = ranges_of(content)
    worst = layer_errors(content, quantize(content, ranges), tensors())
    mixed, steps = mixed_steps(content, ranges, worst, 1, tensors())
    assert [step.kept for step in steps] == [0, 1]
    assert steps[0].cosine < 0.99
    assert steps[1].cosine > 0.9995
    assert steps[0].size_mb < steps[1].size_mb == len(mixed) / 1e6 < len(content) / 1e6
    assert TfliteBackend(mixed).infer((tensors()[0] - 128).astype(np.int8))["end"].values.dtype == np.int8
    assert max(error.added_noise for error in layer_errors(content, mixed, tensors())) < 0.005


def test_steps_double_and_end_at_all_layers() -> None:
    content = five_convolutions()
    ranges = ranges_of(content)
    worst = layer_errors(content, quantize(content, ranges), tensors())
    mixed, steps = mixed_steps(content, ranges, worst, 9, tensors())
    assert [step.kept for step in steps] == [0, 1, 2, 4, 5]
    assert steps[-1].cosine == pytest.approx(1, abs=1e-6)
    assert all(step.median_ms > 0 and len(step.layers) == step.kept for step in steps)
    end = TfliteBackend(mixed).infer((tensors()[0] - 128).astype(np.int8))["end"]
    np.testing.assert_allclose(end.values, TfliteBackend(content).infer(tensors()[0])["end"].values, atol=1e-5)
    assert end.params is None


def test_what_reads_a_badly_rounded_output_is_float_too() -> None:
    steps = [
        Step("CONV_2D", (0,), 1, "a"),
        Step("PAD", (1,), 2, "padded"),
        Step("CONV_2D", (2,), 3, "b"),
        Step("CONV_2D", (3,), 4, "c"),
    ]
    assert float_layers(steps, [LayerError("a", "CONV_2D", 0, 0.5, 0.4)]) == ["a", "padded", "b"]
    assert float_layers(steps, [LayerError("a", "CONV_2D", 0, 0.5, 0.1)]) == ["a"]
