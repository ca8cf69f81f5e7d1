from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_detector.errors import ModelError
from edge_detector.flatbuffer import read_flexbuffer_map
from edge_detector.tflite_schema import TfliteModel, read_tflite

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MODELS = sorted(path.stem for path in FIXTURES.glob("*.tflite"))
SHARED_MODELS = ["tiny_tf215_float", "tiny_tf215_uint8_io", "tiny_tf219_float", "tiny_tf219_int8_io"]


def content_of(name: str) -> bytes:
    return (FIXTURES / f"{name}.tflite").read_bytes()


def assert_equals_generated_parser(found: TfliteModel, content: bytes) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="the oracle comes with ai-edge-litert")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    assert [tensor.index for tensor in found.inputs] == list(graph.inputs)
    assert [tensor.index for tensor in found.outputs] == list(graph.outputs)
    assert len(found.tensors) == len(graph.tensors)
    types = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}
    for tensor, wanted in zip(found.tensors, graph.tensors, strict=True):
        assert tensor.name == wanted.name.decode()
        assert tensor.shape == (() if wanted.shape is None else tuple(wanted.shape))
        assert tensor.dtype == types[wanted.type]
        if tensor.params is not None:
            assert tensor.params.scale == wanted.quantization.scale[0]
            assert tensor.params.zero_point == wanted.quantization.zeroPoint[0]
        elif "int" in tensor.dtype and wanted.quantization is not None:
            assert wanted.quantization.scale is None or len(wanted.quantization.scale) > 1


@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_those_of_the_generated_parser(name: str) -> None:
    assert_equals_generated_parser(read_tflite(content_of(name), name), content_of(name))


@pytest.mark.parametrize("name", SHARED_MODELS)
def test_ports_of_exported_models_are_in_the_operators_order(shared: Path, name: str) -> None:
    content = (shared / "reference" / "tflite" / f"{name}.tflite").read_bytes()
    model = read_tflite(content, name)
    assert_equals_generated_parser(model, content)
    assert model.detection_op is not None
    assert model.detection_op.outputs == tuple(f"StatefulPartitionedCall:{i}" for i in (3, 2, 1, 0))


def test_detection_operator_has_ports_and_options() -> None:
    operator = read_tflite(content_of("detection_op"), "model").detection_op
    assert operator is not None
    assert operator.outputs == ("port:0", "port:1", "port:2", "port:3")
    assert operator.options["num_classes"] == 2
    assert operator.options["nms_iou_threshold"] == pytest.approx(0.6)
    exported = read_tflite(content_of("od_api_tiny_int8"), "model").detection_op
    assert exported is not None
    assert dict(exported.options) == pytest.approx(
        {
            "max_detections": 10, "max_classes_per_detection": 1, "use_regular_nms": 0, "num_classes": 90,
            "nms_score_threshold": 0.0, "nms_iou_threshold": 0.6,
            "y_scale": 10, "x_scale": 10, "h_scale": 5, "w_scale": 5,
        }
    )  # fmt: skip


def test_models_without_the_operator_have_none() -> None:
    assert read_tflite(content_of("raw_heads"), "model").detection_op is None


def test_normalization_comes_from_the_metadata() -> None:
    found = read_tflite(content_of("detection_op"), "model").normalization
    assert found is not None
    assert (found.mean, found.std) == ((0.0,), (255.0,))
    assert read_tflite(content_of("raw_heads"), "model").normalization is None


def test_sigmoid_is_found_behind_operators_that_keep_values() -> None:
    assert read_tflite(content_of("raw_heads_sigmoid"), "model").sigmoid_outputs == {"scores"}
    assert read_tflite(content_of("raw_heads"), "model").sigmoid_outputs == set()
    assert read_tflite(content_of("raw_heads_int8"), "model").sigmoid_outputs == set()


@pytest.mark.parametrize("name", ["raw_heads", "raw_heads_int8", "od_api_tiny_int8"])
@settings(deadline=None)
@given(kept=st.floats(0, 1, exclude_max=True))
def test_every_cut_is_noticed(name: str, kept: float) -> None:
    content = content_of(name)
    with pytest.raises(ModelError, match=r"model: damaged or cut off after \d+ bytes"):
        read_tflite(content[: int(len(content) * kept)], "model")


@settings(deadline=None)
@given(positions=st.lists(st.integers(0, 2490), min_size=1, max_size=8), values=st.binary(min_size=8, max_size=8))
def test_damage_is_either_harmless_or_a_model_error(positions: list[int], values: bytes) -> None:
    content = bytearray(content_of("detection_op"))
    for position, value in zip(positions, values, strict=False):
        content[position] = value
    try:
        model = read_tflite(bytes(content), "model")
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert isinstance(model, TfliteModel)


@pytest.mark.parametrize(
    "options",
    [
        {"a": 1, "b": -2, "c": 2.5},
        {"count": 300, "minus": -70000, "wide": 2**40, "flag": True, "double": 0.1},
        {"text": "left out", "number": 7},
        {},
    ],
)
def test_flexbuffer_maps_give_back_their_numbers(options: dict[str, int | float | str]) -> None:
    flexbuffers = pytest.importorskip("flatbuffers.flexbuffers", reason="the oracle comes with ai-edge-litert")
    numbers = {name: value for name, value in options.items() if not isinstance(value, str)}
    assert read_flexbuffer_map(bytes(flexbuffers.Dumps(options))) == numbers


def test_flexbuffer_that_is_no_map_is_empty() -> None:
    flexbuffers = pytest.importorskip("flatbuffers.flexbuffers", reason="the oracle comes with ai-edge-litert")
    assert read_flexbuffer_map(bytes(flexbuffers.Dumps([1, 2]))) == {}


def test_input_quantization_is_read() -> None:
    params = read_tflite(content_of("od_api_tiny_int8"), "model").inputs[0].params
    assert params is not None
    assert (params.zero_point, params.dtype) == (-13, np.int8)
    assert params.scale == pytest.approx(1.0774149894714355)
