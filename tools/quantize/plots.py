"""Pictures of a conversion's report: grey is always the float twin, red the model.

Matplotlib is imported where a chart is drawn: sample photos are drawn without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from edge_detector.frame import Frame, FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.overlay import OverlayRenderer, to_ascii
from tools.quantize.findings import LayerError, OutputParity, Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLOAT, _MODEL, _BLUE, _AMBER = "#8a8a8a", "#d1495b", "#30638e", "#edae49"
_WIDTH_IN = 5.0  # narrow, so that letters stay legible on a phone
_DPI = 180
_SAMPLE_WH = 560, 480  # greatest size of each side, in pixels
_GAP_PX = 8


def plot_histograms(outputs: Sequence[OutputParity], model: str, path: Path) -> None:
    """Write how often the values of each output occur, in float and in the model, which is called `model`."""
    # By name class outputs come after boxes; they decide what is found, so they go to the left.
    ordered = sorted(outputs, key=lambda output: "class" not in output.name)
    rows = (len(ordered) + 1) // 2
    figure = _figure(0.7 + 1.25 * rows)
    axes = figure.subplots(rows, 2, squeeze=False).T.ravel()
    for axis, output in zip(axes, ordered, strict=False):
        # Bins without a value lie on the lower border, half a value.
        shown = {"baseline": 0.5, "edges": output.edges}
        axis.stairs(np.maximum(output.float_counts, 0.5), fill=True, color=_FLOAT, alpha=0.6, label="float", **shown)
        axis.stairs(np.maximum(output.counts, 0.5), color=_MODEL, linewidth=1, label=model, **shown)
        most = max(output.float_counts.max(initial=1), output.counts.max(initial=1))
        axis.set(yscale="log", ylim=(0.5, 2 * most), xlim=(output.edges[0], output.edges[-1]))
        axis.set_title(f"{_shortened(output.name, 24)}: {output.cosine:.4f}", fontsize=8, parse_math=False)
        axis.locator_params(axis="x", nbins=5)
        axis.tick_params(labelsize=7)
        axis.minorticks_off()
    for axis in axes[len(ordered) :]:
        axis.remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    figure.supylabel("values per bin (log)", fontsize=9)
    figure.savefig(path, dpi=_DPI)


def plot_scores(pairs: npt.NDArray[np.float32], model: str, score: float, path: Path) -> None:
    """Write each detection's score in float against that in the model; those that only one has lie on an axis.

    `score` is where detections begin to count; 0 draws no line.
    """
    figure = _figure(_WIDTH_IN + 0.4)
    axis = figure.subplots()
    floats, ours = pairs.T
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, zorder=1)
    if score:
        axis.axvline(score, color=_FLOAT, linewidth=0.8, linestyle=":")
        axis.axhline(score, color=_FLOAT, linewidth=0.8, linestyle=":", label=f"--score {score:g}")
    groups = (
        ((floats > 0) & (ours > 0), "in both: {}", {"color": _BLUE, "alpha": 0.5, "linewidths": 0}),
        ((floats > 0) & (ours == 0), "in float only: {}", {"color": _FLOAT, "marker": "x"}),
        ((floats == 0) & (ours > 0), f"in {model} only: {{}}", {"color": _MODEL, "marker": "x"}),
    )
    for chosen, label, style in groups:
        axis.scatter(floats[chosen], ours[chosen], s=22, label=label.format(chosen.sum()), zorder=2, **style)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axis.set_xlabel("score in float", fontsize=10)
    axis.set_ylabel(f"score in {model}", fontsize=10)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    figure.savefig(path, dpi=_DPI)


def plot_layers(layers: Sequence[tuple[str, LayerError]], path: Path) -> None:
    """Write the noise that layers add, given with the names to show, split by where it comes from."""
    figure = _figure(1.0 + 0.27 * len(layers))
    axis = figure.subplots()
    places = np.arange(len(layers))[::-1]
    added = np.array([layer.added_noise for _, layer in layers]) * 100
    rounding = np.minimum(added, np.array([layer.rounding_noise for _, layer in layers]) * 100)
    axis.barh(places, rounding, color=_AMBER, label="by rounding its output")
    axis.barh(places, added - rounding, left=rounding, color=_BLUE, label="by its weights")
    axis.set_yticks(places, [_shortened(name, 32) for name, _ in layers], fontsize=8, parse_math=False)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel("noise added, % of the signal's power", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    figure.savefig(path, dpi=_DPI)


def write_sample(sample: Sample, labels: Sequence[str], path: Path) -> None:
    """Write a photo twice, with what float found on the left and what the model found on the right."""
    height, width = sample.photo.shape[:2]
    scale = min(1.0, _SAMPLE_WH[0] / width, _SAMPLE_WH[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photo = np.asarray(cv2.resize(sample.photo, size, interpolation=cv2.INTER_AREA), np.uint8)
    overlay = OverlayRenderer(labels, status=False)
    scales = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    sides = []
    for found in (sample.float_found, sample.found):
        scaled = Detections(found.xyxy * scales, found.confidence, found.class_id)
        sides.append(overlay.draw(FrameResult(Frame(photo, 0, 0.0, 0.0, "sample"), scaled, 0.0)))
    gap = np.full((size[1], _GAP_PX, 3), 255, np.uint8)
    path.write_bytes(encode_jpeg(np.hstack([sides[0], gap, sides[1]])))


def _figure(height_in: float) -> Figure:
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    return Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")


def _shortened(name: str, most: int) -> str:
    """Return the end of a name in letters that every font has, at most `most` of them."""
    ascii_name = " ".join(to_ascii(name).split())
    return ascii_name if len(ascii_name) <= most else f"..{ascii_name[2 - most :]}"
