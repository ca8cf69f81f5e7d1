"""What every example with raw heads does in NumPy: run the interpreter, dequantize all, sigmoid of all, decode all."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tools.bench.kit import Kit, Params, Stored

Real = npt.NDArray[np.float32]


def normalized(pixels: npt.NDArray[np.uint8], kit: Kit) -> Real:
    """Return (pixel - mean) / std."""
    return np.asarray((pixels.astype(np.float32) - np.array(kit.mean, np.float32)) / np.array(kit.std, np.float32))


class Network:
    """The raw int8 network on LiteRT."""

    def __init__(self, kit: Kit) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=kit.model("raw.tflite"), num_threads=kit.threads)
        self._interpreter.allocate_tensors()
        (details,) = self._interpreter.get_input_details()
        self._index, (self._scale, self._zero_point) = details["index"], details["quantization"]
        self._outputs = [(details["name"], details["index"]) for details in self._interpreter.get_output_details()]

    def quantize(self, real: Real) -> npt.NDArray[np.int8]:
        """Return real input values as the integers that the network takes."""
        return np.clip(np.round(real / self._scale + self._zero_point), -128, 127).astype(np.int8)

    def run(self, tensor: npt.NDArray[Any]) -> Stored:
        """Return the stored outputs by name."""
        self._interpreter.set_tensor(self._index, tensor)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs}


def dequantize(stored: Stored, names: list[str], params: Params, depth: int) -> Real:
    """Return the outputs of all levels as real numbers (A, depth)."""
    parts = []
    for name in names:
        scale, zero_point = params[name]
        parts.append((stored[name].astype(np.float32) - zero_point) * np.float32(scale))
    return np.concatenate([part.reshape(-1, depth) for part in parts])


def sigmoid(logits: Real) -> Real:
    """Return confidences."""
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


class Heads:
    """Stored outputs -> scores (A, C) and boxes (A, 4), x1, y1, x2, y2 in fractions of the canvas."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._anchors = kit, kit.anchors
        self._logits = [logits for logits, _ in kit.heads]
        self._codes = [codes for _, codes in kit.heads]

    def __call__(self, stored: Stored) -> tuple[Real, Real]:
        """Decode all of it."""
        scores = sigmoid(dequantize(stored, self._logits, self._kit.params, self._kit.classes))
        ty, tx, th, tw = (
            dequantize(stored, self._codes, self._kit.params, 4) / np.array(self._kit.box_coder, np.float32)
        ).T
        y_center, x_center, height, width = self._anchors.T
        y, x = ty * height + y_center, tx * width + x_center
        half_h, half_w = np.exp(th) * height / 2, np.exp(tw) * width / 2
        return scores, np.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=1)
