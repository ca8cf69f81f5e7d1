"""A model that ends in TFLite_Detection_PostProcess, run as the examples run such models; and that operator alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tools.bench.contenders import Found, Laps
from tools.bench.contenders.numpy_heads import normalized
from tools.bench.kit import Kit


def _interpreter(path: str, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


class _Outputs:
    """Boxes, classes, scores and count, in the operator's order."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._indices = [details["index"] for details in interpreter.get_output_details()]

    def read(self) -> tuple[npt.NDArray[Any], ...]:
        boxes, classes, scores, count = (self._interpreter.get_tensor(index)[0] for index in self._indices)
        valid = slice(int(count))
        return boxes[valid], classes[valid], scores[valid]


def _found(boxes: Any, classes: Any, scores: Any, threshold: float, width: int, height: int) -> Found:
    chosen = scores >= threshold
    xyxy = boxes[chosen][:, [1, 0, 3, 2]] * [width, height, width, height]
    return Found(np.clip(xyxy, 0, [width, height] * 2), scores[chosen], classes[chosen].astype(int))


class PostprocessOp:
    """The whole way; the picture is stretched, and its pixels turned into int8 as TensorFlow's guide has it."""

    def __init__(self, kit: Kit, model: str) -> None:
        self._kit = kit
        self._interpreter = _interpreter(kit.model(model), kit.threads)
        (self._input,) = self._interpreter.get_input_details()
        self._outputs = _Outputs(self._interpreter)

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        height, width = given.shape[:2]
        resized = cv2.resize(given, (self._kit.side, self._kit.side))
        scale, zero_point = self._input["quantization"]
        real = normalized(resized, self._kit)
        tensor = np.clip(np.round(real / scale + zero_point), -128, 127).astype(np.int8)[None]
        laps("preprocess")
        self._interpreter.set_tensor(self._input["index"], tensor)
        self._interpreter.invoke()
        boxes, classes, scores = self._outputs.read()
        laps("invoke")
        found = _found(boxes, classes, scores, self._kit.threshold, width, height)
        laps("postprocess")
        return found


class OpAlone:
    """Stored outputs to detections, by a model of nothing but dequantization, sigmoid and the operator."""

    def __init__(self, kit: Kit, model: str) -> None:
        self._kit = kit
        self._interpreter = _interpreter(kit.model(model), kit.threads)
        self._inputs = [(details["name"], details["index"]) for details in self._interpreter.get_input_details()]
        self._outputs = _Outputs(self._interpreter)

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        for name, index in self._inputs:
            self._interpreter.set_tensor(index, given[name])
        self._interpreter.invoke()
        boxes, classes, scores = self._outputs.read()
        found = _found(boxes, classes, scores, self._kit.threshold, self._kit.side, self._kit.side)
        laps("postprocess")
        return found
