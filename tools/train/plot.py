"""Loss plot of a training log."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_losses(log: Path, target: Path) -> None:
    """Draw class and box loss per step, with their running means, as a PNG."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = np.array([row["step"] for row in rows])
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    window = max(1, min(50, len(rows) // 5))
    for axis, key in zip(axes, ("class_loss", "box_loss"), strict=True):
        values = np.array([row[key] for row in rows])
        axis.plot(steps, values, alpha=0.25, linewidth=0.8)
        mean = np.convolve(values, np.ones(window) / window, "valid")
        axis.plot(steps[window - 1 :], mean, label=f"mean of {window} steps")
        axis.set(xlabel="step", title=key.replace("_", " "), ylim=(0, np.quantile(values, 0.98) * 1.1))
        axis.legend()
    figure.savefig(target, dpi=110)
    plt.close(figure)
