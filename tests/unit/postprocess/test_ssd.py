"""SsdDecoder against the TensorFlow Object Detection API's detections and against plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_detector.detections import Detections
from edge_detector.errors import ModelError
from edge_detector.manifest import AnchorSpec, LevelOutputs, NmsSpec, SsdRawOutputs
from edge_detector.postprocess.anchors import generate_anchors
from edge_detector.postprocess.ssd import MAX_CANDIDATES_PER_LEVEL, SsdDecoder
from edge_detector.quantization import QuantizationParams, QuantizedTensor, RawOutputs

SMALL_WH = (32, 16)  # two levels: 2 x 4 and 1 x 2 places
SMALL_GRIDS = ((2, 4), (1, 2))
SMALL_ANCHORS = AnchorSpec(min_level=3, max_level=4, aspect_ratios=(1.0, 2.0), scales_per_octave=1)
PER_CELL = 2
CLASSES = 3
ONE_PAIR = (LevelOutputs(class_logits="classes", box_encodings="boxes"),)
TWO_PAIRS = tuple(LevelOutputs(class_logits=f"classes{i}", box_encodings=f"boxes{i}") for i in range(2))

# --- against the Object Detection API (tests/fixtures/odapi.md) ---


@pytest.fixture(params=[320, 640])
def reference(request: pytest.FixtureRequest, repository: Path) -> tuple[int, dict[str, npt.NDArray[Any]]]:
    with np.load(repository / f"tests/fixtures/odapi_tiny_{request.param}.npz") as arrays:
        return request.param, dict(arrays)


def odapi_raw(side: int, arrays: dict[str, npt.NDArray[Any]], background_logit: float) -> RawOutputs:
    """Return full output tensors in which the pairs that were stored stand, and elsewhere no object."""
    count = {320: 12804, 640: 51150}[side]
    classes, boxes = np.full((1, count, 91), -20, np.float32), np.zeros((1, count, 4), np.float32)
    classes[:, :, 0] = background_logit
    classes[0, arrays["anchor_index"], arrays["class_slot"]] = arrays["class_logit"]
    boxes[0, arrays["anchor_index"]] = arrays["box_encoding"]
    return {"classes": QuantizedTensor(classes), "boxes": QuantizedTensor(boxes)}


def test_detections_equal_those_of_the_object_detection_api(
    reference: tuple[int, dict[str, npt.NDArray[Any]]],
) -> None:
    side, arrays = reference
    decoder = SsdDecoder(
        SsdRawOutputs(levels=ONE_PAIR, background=True), (side, side), NmsSpec(iou_threshold=0.6), 90, 0.4
    )
    found = decoder.decode(odapi_raw(side, arrays, background_logit=-20))
    expected_xyxy = arrays["detection_boxes"][:, [1, 0, 3, 2]] * side
    expected_scores, expected_classes = arrays["detection_scores"], arrays["detection_classes_zero_based"]
    if side == 640:  # all that the API found is known, so that nothing may be added
        assert len(found) == len(expected_scores) == 100
        np.testing.assert_allclose(found.confidence, expected_scores, rtol=0, atol=5e-5)
    matched = set()
    for xyxy, score, class_id in zip(expected_xyxy, expected_scores, expected_classes, strict=True):
        error_px = np.abs(found.xyxy - xyxy).max(axis=1)
        index = int(np.argmin(error_px))
        assert error_px[index] < 5e-3
        assert found.class_id[index] == class_id
        assert found.confidence[index] == pytest.approx(score, abs=5e-5)
        matched.add(index)
    assert len(matched) == len(expected_scores)


def test_background_slot_changes_nothing_however_high_it_scores(
    reference: tuple[int, dict[str, npt.NDArray[Any]]],
) -> None:
    side, arrays = reference
    outputs = SsdRawOutputs(levels=ONE_PAIR, background=True)
    low, high = (
        SsdDecoder(outputs, (side, side), NmsSpec(), 90).decode(odapi_raw(side, arrays, logit)) for logit in (-20, 20)
    )
    assert_equal(high, low)
    assert len(low) > 0


# --- against plain loops ---


def naive_decode(
    levels: list[tuple[QuantizedTensor, QuantizedTensor]], background: int, threshold: float, nms: NmsSpec
) -> tuple[list[list[float]], list[np.float32], list[int]]:
    """Decode one number at a time in double precision; drops examples that hang on the last bit of a comparison."""
    anchors = generate_anchors(SMALL_ANCHORS, SMALL_WH).astype(np.float64)
    rows = [
        (class_row, box_row)
        for classes, boxes in levels
        for class_row, box_row in zip(
            classes.dequantized().reshape(-1, CLASSES + background), boxes.dequantized().reshape(-1, 4), strict=True
        )
    ]
    candidates = []
    for anchor, (class_row, box_row) in zip(anchors, rows, strict=True):
        for class_id in range(CLASSES):
            logit = float(class_row[background + class_id])
            confidence = 1 / (1 + math.exp(-logit))
            assume(logit == 0 or abs(confidence - threshold) > 1e-6)
            box = naive_box([float(value) for value in box_row], anchor.tolist())
            clipped = [min(max(value, 0.0), side) for value, side in zip(box, SMALL_WH * 2, strict=True)]
            overhang = [box[2], box[3], SMALL_WH[0] - box[0], SMALL_WH[1] - box[1]]
            assume(all(abs(value) > 1e-3 for value in overhang))
            if confidence >= threshold and clipped[2] > clipped[0] and clipped[3] > clipped[1]:
                candidates.append((np.float32(confidence), class_id, box, clipped))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept: list[Any] = []
    for candidate in candidates:
        ious = [naive_iou(candidate[2], better[2]) for better in kept if better[1] == candidate[1]]
        assume(all(abs(iou - nms.iou_threshold) > 1e-4 for iou in ious))
        if all(iou < nms.iou_threshold for iou in ious):
            kept.append(candidate)
    kept = kept[: nms.max_detections]
    if nms.vote_iou is not None:
        kept = [(*kept_one[:3], naive_vote(kept_one, candidates, nms.vote_iou)) for kept_one in kept]
    return [box for *_, box in kept], [confidence for confidence, *_ in kept], [class_id for _, class_id, *_ in kept]


def naive_box(encoding: list[float], anchor: list[float]) -> list[float]:
    (ty, tx, th, tw), (ya, xa, ha, wa) = encoding, anchor
    y, x, h, w = ty / 10 * ha + ya, tx / 10 * wa + xa, math.exp(th / 5) * ha, math.exp(tw / 5) * wa
    fractions = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return [value * side for value, side in zip(fractions, SMALL_WH * 2, strict=True)]


def naive_vote(kept: Any, candidates: list[Any], vote_iou: float) -> list[float]:
    """Return the clipped mean of the boxes that overlap the kept one, weighted by confidence."""
    ious = [naive_iou(kept[2], candidate[2]) if candidate[1] == kept[1] else 0.0 for candidate in candidates]
    assume(all(abs(iou - vote_iou) > 1e-4 for iou in ious))
    voters = [candidate for candidate, iou in zip(candidates, ious, strict=True) if iou > vote_iou]
    total = sum(float(voter[0]) for voter in voters)
    mean = [sum(float(voter[0]) * voter[2][side] for voter in voters) / total for side in range(4)]
    return [min(max(value, 0.0), side) for value, side in zip(mean, SMALL_WH * 2, strict=True)]


def naive_iou(first: list[float], second: list[float]) -> float:
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], span: float) -> QuantizedTensor:
    """Draw an output tensor of real numbers within about -span..span: int8, uint8 or float32."""
    dtype = draw(st.sampled_from([np.int8, np.uint8, np.float32]))
    if dtype is np.float32:
        return QuantizedTensor(
            draw(hnp.arrays(dtype, shape, elements=st.floats(-span, span, width=32), fill=st.nothing()))
        )
    params = QuantizationParams(
        draw(st.floats(span / 256, span / 100)), draw(st.integers(-20, 20)) + 128 * (dtype is np.uint8), np.dtype(dtype)
    )
    return QuantizedTensor(draw(hnp.arrays(dtype, shape, fill=st.nothing())), params)


@st.composite
def levels_of_tensors(draw: st.DrawFn, background: int) -> list[tuple[QuantizedTensor, QuantizedTensor]]:
    """Draw the class and box outputs of both levels, each with its own type, quantization and layout."""
    levels = []
    for rows, columns in SMALL_GRIDS:
        shape = draw(st.sampled_from([(1, rows, columns, PER_CELL), (1, rows * columns * PER_CELL, 1)]))
        depths = CLASSES + background, 4
        levels.append(
            tuple(
                draw(tensors((*shape[:-1], shape[-1] * depth), span))
                for depth, span in zip(depths, (6, 15), strict=True)
            )
        )
    return levels


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.5, 0.8]),
    st.sampled_from([0.3, 0.5, 0.6]),
    st.sampled_from([3, 100]),
    st.sampled_from([None, 0.4, 0.7]),
)
def test_decode_equals_plain_loops(
    data: st.DataObject,
    background: bool,
    threshold: float,
    iou_threshold: float,
    max_detections: int,
    vote_iou: float | None,
) -> None:
    levels = data.draw(levels_of_tensors(int(background)))
    nms = NmsSpec(
        score_threshold=threshold, iou_threshold=iou_threshold, max_detections=max_detections, vote_iou=vote_iou
    )
    expected_xyxy, expected_confidence, expected_class = naive_decode(levels, int(background), threshold, nms)
    found = SsdDecoder(small_outputs(TWO_PAIRS, background), SMALL_WH, nms, CLASSES).decode(named(levels))
    np.testing.assert_allclose(found.confidence, np.array(expected_confidence, np.float32), rtol=1e-6)
    assert found.class_id.tolist() == expected_class
    np.testing.assert_allclose(found.xyxy, np.array(expected_xyxy).reshape(-1, 4), rtol=1e-4, atol=1e-3)


@settings(deadline=None)
@given(st.data(), st.booleans())
def test_all_levels_in_one_tensor_give_the_same_detections(data: st.DataObject, background: bool) -> None:
    slots = CLASSES + int(background)
    classes, boxes = data.draw(tensors((1, 20, slots), 6)), data.draw(tensors((1, 20, 4), 15))
    parts = [
        tuple(QuantizedTensor(tensor.values[:, own], tensor.params) for tensor in (classes, boxes))
        for own in (slice(16), slice(16, 20))
    ]
    together, apart = (
        SsdDecoder(small_outputs(pairs, background), SMALL_WH, NmsSpec(), CLASSES).decode(raw)
        for pairs, raw in ((ONE_PAIR, {"classes": classes, "boxes": boxes}), (TWO_PAIRS, named(parts)))
    )
    assert_equal(together, apart)


# --- properties of the result ---


def test_nothing_above_the_threshold_gives_empty_detections_of_the_right_types() -> None:
    found = SsdDecoder(small_outputs(TWO_PAIRS), SMALL_WH, NmsSpec(), CLASSES).decode(quiet_levels())
    assert_equal(found, Detections.empty())
    assert (found.xyxy.dtype, found.confidence.dtype, found.class_id.dtype) == (np.float32, np.float32, np.int64)


def test_given_threshold_replaces_that_of_the_manifest() -> None:
    raw = quiet_levels()
    raw["classes0"].values[0, 5, 1] = 0  # confidence 0.5
    outputs, nms = small_outputs(TWO_PAIRS), NmsSpec(score_threshold=0.6)
    assert len(SsdDecoder(outputs, SMALL_WH, nms, CLASSES).decode(raw)) == 0
    found = SsdDecoder(outputs, SMALL_WH, nms, CLASSES, score_threshold=0.5).decode(raw)
    assert (found.confidence.tolist(), found.class_id.tolist()) == ([0.5], [1])


def test_boxes_are_clipped_and_those_beyond_the_canvas_dropped() -> None:
    raw = quiet_levels()
    raw["classes1"].values[0, :2, 0] = 5
    raw["boxes1"].values[0, 1, 1] = -40  # four anchor widths to the left
    found = SsdDecoder(small_outputs(TWO_PAIRS), SMALL_WH, NmsSpec(), CLASSES).decode(raw)
    assert found.xyxy.tolist() == [[0, 0, 32, 16]]


def test_not_a_number_is_no_detection() -> None:
    raw = quiet_levels()
    raw["classes0"].values[0, 0, 0] = np.nan
    raw["classes0"].values[0, 1, 0] = 5
    raw["boxes0"].values[0, 1, 2] = np.nan
    assert len(SsdDecoder(small_outputs(TWO_PAIRS), SMALL_WH, NmsSpec(), CLASSES).decode(raw)) == 0


def test_candidates_are_capped_per_level_to_the_best() -> None:
    side, spec = 256, AnchorSpec(min_level=3, max_level=3, aspect_ratios=(1.0,), anchor_scale=0.1, scales_per_octave=2)
    params = QuantizationParams(0.1, 0, np.dtype(np.int8))
    classes = np.zeros((1, 2 * 32 * 32, 1), np.int8)
    classes[0, ::2, 0] = np.arange(1024) % 100 + 1  # one per place, none overlaps another; the others score 0
    raw = {
        "classes": QuantizedTensor(classes, params),
        "boxes": QuantizedTensor(np.zeros((1, 2048, 4), np.int8), params),
    }
    decoder = SsdDecoder(
        SsdRawOutputs(levels=ONE_PAIR, anchors=spec), (side, side), NmsSpec(score_threshold=0.0, max_detections=5000), 1
    )
    found = decoder.decode(raw)
    assert len(found) == MAX_CANDIDATES_PER_LEVEL
    best = np.sort(classes.ravel())[::-1][:MAX_CANDIDATES_PER_LEVEL]
    np.testing.assert_allclose(found.confidence, 1 / (1 + np.exp(-0.1 * best)), rtol=1e-6)


# --- models that do not fit ---


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("classes0", np.zeros((1, 16, 4), np.float32), r"\(1, 16, 4\), wanted \(1, 16, 3\) or \(1, 2, 4, 6\)"),
        ("classes1", np.zeros((1, 3, 4), np.float32), r"\(1, 3, 4\), wanted \(1, 4, 3\)"),
        ("boxes0", np.zeros((1, 4, 2, 8), np.float32), r"\(1, 4, 2, 8\), wanted \(1, 16, 4\) or \(1, 2, 4, 8\)"),
        ("boxes1", np.zeros((1, 4, 4), np.int8), "int8 without scale and zero point"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(name: str, values: npt.NDArray[Any], message: str) -> None:
    raw = {**quiet_levels(), name: QuantizedTensor(values)}
    with pytest.raises(ModelError, match=message):
        SsdDecoder(small_outputs(TWO_PAIRS), SMALL_WH, NmsSpec(), CLASSES).decode(raw)


def test_missing_output_is_named_with_those_there_are() -> None:
    raw = quiet_levels()
    del raw["boxes1"]
    with pytest.raises(ModelError, match="no output 'boxes1', only classes0, boxes0, classes1"):
        SsdDecoder(small_outputs(TWO_PAIRS), SMALL_WH, NmsSpec(), CLASSES).decode(raw)


def test_number_of_output_pairs_must_fit_the_pyramid() -> None:
    with pytest.raises(ModelError, match="names 2 pairs of outputs; wanted 5"):
        SsdDecoder(SsdRawOutputs(levels=TWO_PAIRS), (320, 320), NmsSpec(), CLASSES)


# --- helpers ---


def small_outputs(pairs: tuple[LevelOutputs, ...], background: bool = False) -> SsdRawOutputs:
    return SsdRawOutputs(levels=pairs, anchors=SMALL_ANCHORS, background=background)


def named(levels: list[Any]) -> dict[str, QuantizedTensor]:
    return {f"{role}{i}": pair[j] for i, pair in enumerate(levels) for j, role in enumerate(("classes", "boxes"))}


def quiet_levels() -> dict[str, QuantizedTensor]:
    """Return real outputs in which no class scores and every box is its anchor."""
    counts = [rows * columns * PER_CELL for rows, columns in SMALL_GRIDS]
    shapes = [((1, count, CLASSES), (1, count, 4)) for count in counts]
    return named(
        [
            (QuantizedTensor(np.full(classes, -9, np.float32)), QuantizedTensor(np.zeros(boxes, np.float32)))
            for classes, boxes in shapes
        ]
    )


def assert_equal(first: Detections, second: Detections) -> None:
    np.testing.assert_array_equal(first.xyxy, second.xyxy)
    np.testing.assert_array_equal(first.confidence, second.confidence)
    np.testing.assert_array_equal(first.class_id, second.class_id)
