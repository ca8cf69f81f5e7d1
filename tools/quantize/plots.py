"""Pictures of a conversion's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from edge_detector.detections import Detections
from edge_detector.frame import Frame, FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.overlay import OverlayRenderer
from tools.quantize.findings import OutputParity, Sample

mpl.use("Agg")
_FLOAT, _MODEL = "#7a7a7a", "#d1495b"
_HEIGHT_PX = 480  # of a sample


def plot_histograms(outputs: Sequence[OutputParity], path: Path) -> None:
    """Write how often the values of each output occur, in float and in the model."""
    rows = (len(outputs) + 1) // 2
    figure = Figure(figsize=(9, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    for axis, output in zip(axes.T.ravel(), outputs, strict=False):
        axis.stairs(
            np.maximum(output.float_counts, 0.5), output.edges, fill=True, color=_FLOAT, alpha=0.6, label="float"
        )
        axis.stairs(np.maximum(output.counts, 0.5), output.edges, color=_MODEL, linewidth=1.2, label="model")
        axis.set_yscale("log")
        axis.set_title(f"{output.name}, cosine {output.cosine:.4f}", fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in axes.T.ravel()[len(outputs) :]:
        axis.remove()
    axes[0, 0].legend(fontsize=8)
    figure.supylabel("values (log)", fontsize=9)
    figure.savefig(path, dpi=100)


def plot_scores(pairs: npt.NDArray[np.float32], path: Path) -> None:
    """Write the score of each detection in float against that in the model; those that only one has lie on an axis."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    both = (pairs > 0).all(axis=1)
    axis.plot([0, 1], [0, 1], color=_FLOAT, linewidth=1)
    axis.scatter(pairs[both, 0], pairs[both, 1], s=14, color=_MODEL, alpha=0.6, label=f"in both: {both.sum()}")
    axis.scatter(
        pairs[~both, 0], pairs[~both, 1], s=14, marker="x", color="black", label=f"in one only: {(~both).sum()}"
    )
    axis.set(xlim=(-0.02, 1), ylim=(-0.02, 1), xlabel="score in float", ylabel="score in the model", aspect="equal")
    axis.legend(fontsize=9, loc="upper left")
    figure.savefig(path, dpi=100)


def plot_layers(layers: Sequence[tuple[str, float]], path: Path) -> None:
    """Write the noise that layers add, given by name and as a share of the signal's power."""
    figure = Figure(figsize=(8, 0.8 + 0.3 * len(layers)), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(layers))[::-1]
    axis.barh(places, [100 * noise for _, noise in layers], color=_MODEL)
    axis.set_yticks(places, [name[-48:] for name, _ in layers], fontsize=8)
    axis.set_xlabel("noise added, % of the signal's power")
    figure.savefig(path, dpi=100)


def write_sample(sample: Sample, labels: Sequence[str], path: Path) -> None:
    """Write a photo twice, with what float found on the left and what the model found on the right."""
    height, width = sample.photo.shape[:2]
    scale = min(1.0, _HEIGHT_PX / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photo = np.asarray(cv2.resize(sample.photo, size, interpolation=cv2.INTER_AREA), np.uint8)
    overlay = OverlayRenderer(labels, status=False)
    scales = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    sides = []
    for found in (sample.float_found, sample.found):
        scaled = Detections(found.xyxy * scales, found.confidence, found.class_id)
        sides.append(overlay.draw(FrameResult(Frame(photo, 0, 0.0, 0.0, "sample"), scaled, 0.0)))
    gap = np.full((size[1], 6, 3), 255, np.uint8)
    path.write_bytes(encode_jpeg(np.hstack([sides[0], gap, sides[1]])))
