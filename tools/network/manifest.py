"""What an architecture means in the runtime's words; used by training, scoring and conversion alike."""

from __future__ import annotations

from edge_detector.errors import ModelError
from edge_detector.manifest import AnchorSpec, InputSpec
from tools.network.architecture import Architecture


def input_spec(arch: Architecture) -> InputSpec:
    """Return the input: raw pixels, since the network normalizes; bars in the mean colour, which is 0 inside."""
    red, green, blue = (round(mean) for mean in arch.mean_rgb)
    return InputSpec(width=arch.input_side, height=arch.input_side, fill=(red, green, blue))


def anchor_spec(arch: Architecture) -> AnchorSpec:
    """Return the settings of the OD API's anchor generator.

    Raises:
        ModelError: the runtime cannot decode this kind of anchors or box codes.
    """
    if arch.anchors.style != "multiscale_grid" or arch.box_coder.order != "yx":
        raise ModelError(
            f"{arch.anchors.style} anchors with {arch.box_coder.order} box codes are not decoded by this runtime; "
            "give a network with those of the TF Object Detection API"
        )
    return AnchorSpec(
        anchor_scale=arch.anchors.anchor_scale,
        aspect_ratios=arch.anchors.aspect_ratios,
        scales_per_octave=arch.anchors.scales_per_octave,
    )
