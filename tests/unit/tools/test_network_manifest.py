from __future__ import annotations

import pytest

from tools.network.architecture import AnchorStyle, Architecture, keras_retinanet, odapi_tf2, slim, torchvision_v1
from tools.network.manifest import anchor_spec, input_spec
from tools.train.augment import FILL


def test_the_input_takes_raw_pixels_with_bars_in_the_mean_colour() -> None:
    spec = input_spec(slim(input_side=320, mean_rgb=(10.2, 20.7, 30.0)))
    assert (spec.width, spec.height, spec.fill) == (320, 320, (10, 21, 30))
    assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("arch", [slim(), odapi_tf2()], ids=["slim", "odapi_tf2"])
def test_bars_in_training_have_the_colour_of_those_at_run_time(arch: Architecture) -> None:
    assert input_spec(arch).fill == FILL


def test_anchors_are_those_of_the_architecture() -> None:
    style = AnchorStyle(aspect_ratios=(1.0, 3.0), scales_per_octave=3, anchor_scale=2.0)
    spec = anchor_spec(slim(anchors=style))
    assert (spec.aspect_ratios, spec.scales_per_octave, spec.anchor_scale) == ((1.0, 3.0), 3, 2.0)


def test_anchors_of_other_families_keep_their_generator() -> None:
    spec = anchor_spec(torchvision_v1())
    assert (spec.generator, spec.aspect_ratios, spec.scales_per_octave) == ("torchvision", (2.0, 1.0, 0.5), 3)
    assert anchor_spec(keras_retinanet()).generator == "keras_retinanet"
