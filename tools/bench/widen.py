"""Give the person model more classes, so that speed can be measured at the size of a COCO model.

For speed only: nobody has trained the added classes and what they find means nothing. The network does the work of a
model with so many classes, its outputs have that size, and the person's values stay what they were, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.errors import ModelError
from edge_detector.manifest import ModelManifest, SsdRawOutputs
from edge_detector.model_file import read_manifest, with_manifest
from edge_detector.postprocess.anchors import anchors_per_cell
from tools.quantize.flatbuffer import finish

COCO_CLASSES = 90
# The added classes see the person's features in another order. What comes out lies closer together than the logits
# of a trained class; so much lower, one pair of anchor and class in 10000 passes a confidence of 0.05, and none 0.4.
_LOWERED_BY = 0.5
_SEED = 0


def widen(content: bytes, classes: int = COCO_CLASSES) -> bytes:
    """Return the int8 model file `content`, of one class, with `classes` of them; its own stays the first.

    Raises:
        ModelError: it is no int8 model of one class with raw heads, made by tools/quantize.
    """
    manifest = read_manifest(content, "the model")
    if manifest is None or not isinstance(manifest.outputs, SsdRawOutputs) or len(manifest.labels) != 1:
        raise ModelError("only a model with a manifest, raw heads and one class can be widened")
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = model.subgraphs
    names = {level.class_logits for level in manifest.outputs.levels}
    outputs = [int(index) for index in graph.outputs if graph.tensors[index].name.decode() in names]
    makers = [operator for operator in graph.operators if set(outputs).intersection(operator.outputs)]
    widening = _Widening(model, anchors_per_cell(manifest.outputs.anchors), classes)
    for weights in sorted({int(maker.inputs[1]) for maker in makers}):  # all levels share theirs
        widening.weights(graph.tensors[weights])
    for bias in sorted({int(maker.inputs[2]) for maker in makers}):
        widening.bias(graph.tensors[bias])
    for output in outputs:
        shape = graph.tensors[output].shape
        graph.tensors[output].shape = np.array([*shape[:-1], shape[-1] * classes], np.int32)
    return with_manifest(finish(bytes(flatbuffer_utils.convert_object_to_bytearray(model))), _named(manifest, classes))


def _named(manifest: ModelManifest, classes: int) -> ModelManifest:
    labels = (*manifest.labels, *(f"untrained {number}" for number in range(2, classes + 1)))
    origin = {**manifest.origin, "widened": f"to {classes} classes by tools/bench, for speed only: nobody trained them"}
    return manifest.model_copy(update={"name": f"{manifest.name}_{classes}", "labels": labels, "origin": origin})


@dataclass(frozen=True)
class _Widening:
    """Turns constants of the last convolution, a channel per anchor, into those with `classes` channels per anchor."""

    model: Any
    anchors: int
    classes: int

    def weights(self, tensor: Any) -> None:
        """Add channels that see the inputs in another order, drawn per class."""
        values = self._values(tensor, np.int8)
        random = np.random.default_rng(_SEED)
        orders = [np.arange(values.shape[-1]), *(random.permutation(values.shape[-1]) for _ in range(1, self.classes))]
        wide = np.stack([values[..., order] for order in orders], axis=1)
        self._replace(tensor, wide.reshape(-1, *values.shape[1:]))

    def bias(self, tensor: Any) -> None:
        """Add those of the channels, lowered."""
        values = self._values(tensor, np.int32)
        lowered = values - np.rint(_LOWERED_BY / tensor.quantization.scale).astype(np.int32)
        wide = np.stack([values, *[lowered] * (self.classes - 1)], axis=1)
        self._replace(tensor, wide.reshape(-1))

    def _values(self, tensor: Any, dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
        code = {np.int8: schema.TensorType.INT8, np.int32: schema.TensorType.INT32}[dtype]
        if tensor.type != code or tensor.shape[0] != self.anchors or len(tensor.quantization.scale) != self.anchors:
            raise ModelError(f"{tensor.name.decode()}: not {dtype.__name__} with a scale for each of {self.anchors}")
        return np.frombuffer(bytes(self.model.buffers[tensor.buffer].data), dtype).reshape(tensor.shape)

    def _replace(self, tensor: Any, values: npt.NDArray[Any]) -> None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor.buffer, tensor.shape = len(self.model.buffers) - 1, np.array(values.shape, np.int32)
        quantization = tensor.quantization
        quantization.scale = np.repeat(quantization.scale, self.classes)
        quantization.zeroPoint = np.repeat(quantization.zeroPoint, self.classes)
        quantization.min = quantization.max = None  # remarks of the converter
