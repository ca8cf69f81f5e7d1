"""The versions of integer operators, against those that TensorFlow's own converter writes."""
# ruff: noqa: E402 - what needs TensorFlow is imported only where it is installed

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edge_detector.backends.tflite import TfliteBackend
from tools.quantize.flatbuffer import finish, operator_name

SHAPE = (1, 8, 8, 3)


def many_operators(source: Any) -> list[Any]:
    random = np.random.default_rng(0)
    kernel = tf.constant(random.random((3, 3, 3, 3), np.float32))
    border = [[0, 0], [1, 1], [1, 1], [0, 0]]
    x = source
    y = tf.nn.conv2d(x, kernel, 1, "SAME")
    positive = tf.sigmoid(y) + 0.1
    return [
        tf.nn.relu(tf.nn.tanh(y)) + y,
        tf.nn.avg_pool2d(y, 2, 2, "SAME"),
        tf.nn.max_pool2d(y, 2, 2, "SAME"),
        tf.concat([y, x], 3),
        tf.nn.depthwise_conv2d(y, kernel[..., :1], [1, 1, 1, 1], "SAME"),
        tf.matmul(tf.reshape(y, [-1, 3]), kernel[0, 0]) + tf.constant([1.0, 2.0, 3.0]),
        tf.matmul(y, x, transpose_b=True),
        tf.broadcast_to(tf.reduce_mean(y, [1, 2], keepdims=True), SHAPE),
        tf.nn.leaky_relu(y),
        tf.maximum(y, x),
        tf.minimum(y, x),
        y * x,
        y - x,
        tf.stack([y, x], 3),
        tf.pad(y, border),
        tf.pad(y, border, constant_values=1.0),
        tf.pad(y, border, "REFLECT"),
        tf.raw_ops.ResizeBilinear(images=y, size=[16, 16]),
        tf.raw_ops.ResizeNearestNeighbor(images=y, size=[16, 16]),
        tf.nn.softmax(y),
        tf.math.squared_difference(y, x),
        y[:, ::2, ::2, :],
        tf.slice(y, [0, 0, 0, 1], [1, 8, 8, 2]),
        tf.transpose(y, [0, 3, 1, 2]),
        tf.gather(y, [0, 2], axis=3),
        tf.nn.space_to_depth(y, 2),
        tf.reduce_sum(y, [1, 2]),
        tf.math.rsqrt(positive),
        tf.sqrt(positive),
        tf.nn.conv2d_transpose(y, kernel, [1, 16, 16, 3], 2),
    ]


@pytest.fixture(scope="module")
def converted() -> bytes:
    """What TensorFlow makes of all of them, in int8."""

    def samples() -> Any:
        for seed in range(4):
            yield [np.random.default_rng(seed).random(SHAPE, np.float32)]

    function = tf.function(many_operators).get_concrete_function(tf.TensorSpec(SHAPE))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.optimizations, converter.representative_dataset = [tf.lite.Optimize.DEFAULT], samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks of the converter on itself
        return bytes(converter.convert())


def parse(content: bytes) -> Any:
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def versions(content: bytes) -> dict[str, int]:
    """Return the version of each operator that takes or makes int8."""
    model = parse(content)
    (graph,) = model.subgraphs
    return {
        operator_name(model, operator): model.operatorCodes[operator.opcodeIndex].version
        for operator in graph.operators
        if schema.TensorType.INT8 in {graph.tensors[i].type for i in (*operator.inputs, *operator.outputs) if i >= 0}
    }


def lowered(content: bytes) -> bytes:
    model = parse(content)
    for code in model.operatorCodes:
        code.version = 1
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def test_low_versions_are_raised_to_those_of_the_converter(converted: bytes) -> None:
    wanted = versions(converted)
    assert len(wanted) > 30
    assert set(versions(lowered(converted)).values()) == {1}
    assert versions(finish(lowered(converted))) == wanted


def test_no_version_is_lowered(converted: bytes) -> None:
    model = parse(converted)
    for code in model.operatorCodes:
        code.version += 3
    high = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    assert versions(finish(high)) == versions(high)


def test_a_finished_model_computes_the_same(converted: bytes) -> None:
    tensor = np.random.default_rng(9).random(SHAPE, np.float32)
    wanted, found = (all_values(content, tensor) for content in (converted, finish(lowered(converted))))
    assert len(wanted) == 30
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one, other)


def all_values(content: bytes, tensor: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
    return [output.values for output in TfliteBackend(content).infer(tensor).values()]
