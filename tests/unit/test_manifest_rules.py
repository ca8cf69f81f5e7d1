from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from edge_detector.errors import ModelError
from edge_detector.manifest import DetectionOpOutputs, InputSpec, LevelOutputs, ModelManifest, SsdRawOutputs
from edge_detector.manifest_rules import check_manifest, derive_input, derive_outputs
from edge_detector.quantization import QuantizationParams
from edge_detector.tflite_schema import DetectionOp, Normalization, TensorInfo, TfliteModel

ANCHORS = 516  # of the OD API at 64x64


def tensor(index: int, name: str, *shape: int, params: QuantizationParams | None = None) -> TensorInfo:
    return TensorInfo(index, name, shape, "float32" if params is None else params.dtype.name, params)


def model(*outputs: TensorInfo, params: QuantizationParams | None = None) -> TfliteModel:
    image = tensor(0, "image", 1, 64, 64, 3, params=params)
    return TfliteModel((image,), outputs, (image, *outputs), frozenset(), None, None)


RAW = model(tensor(8, "logits", 1, ANCHORS, 91), tensor(9, "encodings", 1, ANCHORS, 4))
DECODED = (
    tensor(14, "scores", 1, 10),
    tensor(12, "boxes", 1, 10, 4),
    tensor(15, "count", 1),
    tensor(13, "classes", 1, 10),
)
ROLES = DetectionOpOutputs(boxes="boxes", classes="classes", scores="scores", count="count")


@pytest.mark.parametrize(
    ("scale", "zero_point", "dtype", "mean", "std"),
    [
        (0.0078125, 128, np.uint8, 127.5, 127.5),  # TF 1 MobileNet SSD
        (0.00784314, 127, np.uint8, 127.5, 127.5),
        (1 / 255, 0, np.uint8, 0, 255),
        (1.0, -128, np.int8, 0, 1),
        (1.0774149894714355, 115, np.uint8, 123.68, 1),
        (1.0774149894714355, -13, np.int8, 123.68, 1),
        (1.05, -11, np.int8, 123.68, 1),  # calibrated on pictures without pure black and white
        (0.018658, -14, np.int8, 123.675, 58.395),
    ],
)
def test_range_of_a_quantized_input_tells_its_normalization(
    scale: float, zero_point: int, dtype: type, mean: float, std: float
) -> None:
    spec = derive_input(model(params=QuantizationParams(scale, zero_point, np.dtype(dtype))), "m.tflite")
    assert (spec.mean[0], spec.std[0]) == (mean, std)
    assert (spec.width, spec.height, spec.resize) == (64, 64, "stretch")


def test_range_that_no_family_has_is_refused_with_both_ends() -> None:
    odd = model(params=QuantizationParams(0.1, 0, np.dtype(np.int8)))
    with pytest.raises(ModelError, match=r"from -12\.80 to 12\.70, .* in m\.json"):
        derive_input(odd, "m.tflite")


def test_float_input_goes_by_tensor_names_and_else_an_assumption_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    resnet = replace(RAW, tensors=(*RAW.tensors, tensor(3, "ResNet50V1_FPN/model/conv1", 1)))
    assert derive_input(resnet, "m.tflite").mean == (123.68, 116.779, 103.939)
    mobilenet = replace(RAW, tensors=(*RAW.tensors, tensor(3, "FeatureExtractor/MobilenetV2/Conv", 1)))
    assert derive_input(mobilenet, "m.tflite").mean == (127.5, 127.5, 127.5)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert derive_input(RAW, "m.tflite").std == (127.5, 127.5, 127.5)
    assert caplog.records[-1].levelname == "WARNING"
    assert "assumed" in caplog.messages[-1]
    assert "m.json" in caplog.messages[-1]


def test_metadata_go_before_range_and_names() -> None:
    params = QuantizationParams(1.0, -128, np.dtype(np.int8))
    stated = replace(model(params=params), normalization=Normalization((1.0, 2.0, 3.0), (4.0,)))
    spec = derive_input(stated, "m.tflite")
    assert (spec.mean, spec.std) == ((1.0, 2.0, 3.0), (4.0, 4.0, 4.0))
    with pytest.raises(ModelError, match="2 values for three channels"):
        derive_input(replace(stated, normalization=Normalization((1.0, 2.0), (1.0,))), "m.tflite")


def test_ports_go_before_the_order_of_tensor_indices() -> None:
    swapped = DetectionOp(("scores", "classes", "boxes", "count"), {})
    found = derive_outputs(replace(model(*DECODED), detection_op=swapped), 2, "m.tflite")
    assert found == DetectionOpOutputs(boxes="scores", classes="classes", scores="boxes", count="count")


def test_four_outputs_without_ports_go_by_tensor_index() -> None:
    assert derive_outputs(model(*DECODED), 2, "m.tflite") == ROLES


@pytest.mark.parametrize(("num_labels", "background"), [(90, True), (91, False)])
def test_raw_heads_go_by_shape_and_labels_tell_whether_there_is_a_background(num_labels: int, background: bool) -> None:
    for found in (
        derive_outputs(RAW, num_labels, "m.tflite"),
        derive_outputs(replace(RAW, outputs=RAW.outputs[::-1]), num_labels, "m.tflite"),
    ):
        assert isinstance(found, SsdRawOutputs)
        assert found.levels == (LevelOutputs(class_logits="logits", box_encodings="encodings"),)
        assert (found.background, found.scores) == (background, "sigmoid")


def test_scores_that_went_through_a_sigmoid_are_taken_as_they_are() -> None:
    found = derive_outputs(replace(RAW, sigmoid_outputs=frozenset({"logits"})), 90, "m.tflite")
    assert isinstance(found, SsdRawOutputs)
    assert found.scores == "identity"


@pytest.mark.parametrize(
    "outputs",
    [
        (),
        (tensor(5, "embedding", 1, 2064),),
        (tensor(8, "logits", 1, 774, 91), tensor(9, "encodings", 1, 774, 4)),  # nine anchors in a cell
        (tensor(8, "a", 1, ANCHORS, 4), tensor(9, "b", 1, ANCHORS, 4)),
        DECODED[:3],
    ],
)
def test_outputs_of_no_known_family_are_refused_and_listed(outputs: tuple[TensorInfo, ...]) -> None:
    with pytest.raises(ModelError, match=r"no manifest, and unknown outputs: .*m\.json") as caught:
        derive_outputs(model(*outputs), 90, "m.tflite")
    assert all(str(output) in str(caught.value) for output in outputs)


def manifest(labels: int, outputs: SsdRawOutputs | DetectionOpOutputs, side: int = 64) -> ModelManifest:
    names = tuple(f"class {i}" for i in range(labels))
    return ModelManifest(name="m", input=InputSpec(width=side, height=side), outputs=outputs, labels=names)


RAW_ROLES = SsdRawOutputs(levels=(LevelOutputs(class_logits="logits", box_encodings="encodings"),), background=True)


def test_manifest_that_fits_passes() -> None:
    check_manifest(manifest(90, RAW_ROLES), RAW, "m.tflite")
    check_manifest(manifest(90, ROLES), model(*DECODED), "m.tflite")


def test_labels_that_do_not_match_the_classes_are_refused_with_both_numbers() -> None:
    with pytest.raises(ModelError, match="has 90 classes, but there are 80 labels"):
        check_manifest(manifest(80, RAW_ROLES), RAW, "m.tflite")
    operator = DetectionOp(("boxes", "classes", "scores", "count"), {"num_classes": 90})
    with pytest.raises(ModelError, match="has 90 classes, but there are 91 labels"):
        check_manifest(manifest(91, ROLES), replace(model(*DECODED), detection_op=operator), "m.tflite")


def test_levels_are_counted_together_whatever_their_rank() -> None:
    sides = (8, 4, 2, 1, 1)
    outputs = [
        tensor(i, f"{kind}{i}", 1, side, side, 6 * channels)
        for i, side in enumerate(sides)
        for kind, channels in (("c", 3), ("b", 4))
    ]
    levels = tuple(LevelOutputs(class_logits=f"c{i}", box_encodings=f"b{i}") for i in range(5))
    check_manifest(manifest(3, SsdRawOutputs(levels=levels)), model(*outputs), "m.tflite")
    with pytest.raises(ModelError, match="has 510 boxes, but the anchors of its manifest are 516"):
        check_manifest(manifest(3, SsdRawOutputs(levels=levels[:4])), model(*outputs), "m.tflite")


def test_size_and_names_that_do_not_match_are_refused() -> None:
    with pytest.raises(ModelError, match=r"takes image float32 \[1,64,64,3\], but its manifest says .*\[320, 320\]"):
        check_manifest(manifest(90, RAW_ROLES, side=320), RAW, "m.tflite")
    with pytest.raises(ModelError, match=r"names outputs \['logits', 'encodings'\], but it has .*boxes"):
        check_manifest(manifest(90, RAW_ROLES), model(*DECODED), "m.tflite")
