"""What an architecture means in the runtime's words; used by training, scoring and conversion alike."""

from __future__ import annotations

from edge_detector.manifest import AnchorSpec, InputSpec, NmsSpec
from tools.network.architecture import Architecture

# Of networks that tools/train trained: models/TRAINING.md has the measurements.
OWN_NMS = NmsSpec(iou_threshold=0.55, vote_iou=0.75)


def input_spec(arch: Architecture) -> InputSpec:
    """Return the input: raw pixels, since the network normalizes; bars in the mean colour, which is 0 inside."""
    red, green, blue = (round(mean) for mean in arch.mean_rgb)
    return InputSpec(width=arch.input_side, height=arch.input_side, fill=(red, green, blue))


def anchor_spec(arch: Architecture) -> AnchorSpec:
    """Return the settings of the anchor generator; `importers.canonical` brings box codes into the runtime's order."""
    return AnchorSpec(
        generator=arch.anchors.style,
        anchor_scale=arch.anchors.anchor_scale,
        aspect_ratios=arch.anchors.aspect_ratios,
        scales_per_octave=arch.anchors.scales_per_octave,
    )
