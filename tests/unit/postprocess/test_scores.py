from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_detector.postprocess.scores import _BLOCK, _MANY, ScoreFilter
from edge_detector.quantization import QuantizationParams

THRESHOLDS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))


@settings(deadline=None)
@given(
    dtype=st.sampled_from([np.int8, np.uint8, np.int16]),
    scale=st.floats(1e-3, 0.5),
    zero_point=st.integers(0, 127),
    conversion=st.sampled_from(["sigmoid", "identity"]),
    threshold=THRESHOLDS,
)
def test_stored_integers_pass_exactly_when_their_confidence_does(
    dtype: type[Any], scale: float, zero_point: int, conversion: Literal["sigmoid", "identity"], threshold: float
) -> None:
    params = QuantizationParams(scale, zero_point, np.dtype(dtype))
    stored = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    scores = ScoreFilter.build(params, conversion, threshold)
    confidence = scores.confidence(stored)
    real = params.dequantize(stored).astype(np.float64)
    expected = real if conversion == "identity" else 1 / (1 + np.exp(-np.clip(real, -700, 700)))
    np.testing.assert_allclose(confidence, expected, rtol=1e-6, atol=1e-37)
    np.testing.assert_array_equal(scores.best(stored, len(stored)), np.flatnonzero(confidence >= np.float32(threshold)))


@settings(deadline=None)
@given(
    length=st.integers(_MANY, _MANY + 2 * _BLOCK),
    share=st.sampled_from([0.0, 1e-5, 1e-3, 0.5, 1.0]),
    dtype=st.sampled_from([np.int8, np.uint8, np.int16]),
    seed=st.integers(0, 1000),
)
def test_of_many_integers_just_those_pass_that_reach_the_lowest(
    length: int, share: float, dtype: type[Any], seed: int
) -> None:
    params = QuantizationParams(0.05, 10, np.dtype(dtype))
    scores = ScoreFilter.build(params, "sigmoid", 0.4)
    passes = np.random.default_rng(seed).random(length) < share
    passes[[0, _BLOCK - 1, _BLOCK, -1]] = seed % 2 == 0  # at the edges of what is looked through at once
    values = np.where(passes, scores.lowest, scores.lowest - 1).astype(dtype)
    np.testing.assert_array_equal(scores.best(values, length), np.flatnonzero(passes))


@settings(deadline=None)
@given(st.lists(st.floats(-90, 90, width=32), max_size=30), THRESHOLDS)
def test_real_logits_pass_when_they_reach_the_logit_of_the_threshold(logits: list[float], threshold: float) -> None:
    values = np.array(logits, np.float32)
    scores = ScoreFilter.build(None, "sigmoid", threshold)
    passing = scores.best(values, len(values))
    for index, logit in enumerate(logits):
        confidence = 1 / (1 + math.exp(-logit))
        if not math.isclose(confidence, threshold, rel_tol=1e-4, abs_tol=1e-9):
            assert (index in passing) == (confidence > threshold)


@pytest.mark.filterwarnings("error")
def test_a_threshold_beyond_all_stored_values_passes_nothing() -> None:
    for dtype in (np.int8, np.uint8):
        params = QuantizationParams(0.01, 0, np.dtype(dtype))
        values = np.array([0, 100, np.iinfo(dtype).max], dtype)
        assert ScoreFilter.build(params, "sigmoid", 0.999).best(values, 9).tolist() == []
    assert ScoreFilter.build(None, "sigmoid", 1.0).best(np.array([80.0], np.float32), 9).tolist() == []


@settings(deadline=None)
@given(
    st.lists(st.integers(-128, 127), max_size=50),
    st.integers(1, 20),
    st.sampled_from([(np.int8, 0), (np.uint8, 128), (np.float32, 0)]),
)
def test_the_limit_keeps_the_greatest_and_among_equals_the_first(
    integers: list[int], limit: int, kind: tuple[type[Any], int]
) -> None:
    dtype, offset = kind
    values = (np.array(integers, np.int64) + offset).astype(dtype)
    params = None if dtype is np.float32 else QuantizationParams(0.1, offset, np.dtype(dtype))
    best = ScoreFilter.build(params, "sigmoid", 0.0).best(values, limit)
    expected = sorted(range(len(integers)), key=lambda index: -integers[index])[:limit]
    assert sorted(best) == sorted(expected)
    if len(integers) > limit:
        assert best.tolist() == expected


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float32])
def test_of_many_equals_the_first_are_taken(dtype: type[Any]) -> None:
    values = np.tile(np.array([1, 3, 2], dtype), 300)
    params = None if dtype is np.float32 else QuantizationParams(0.1, 0, np.dtype(dtype))
    best = ScoreFilter.build(params, "sigmoid", 0.0).best(values, 500)
    assert best.tolist() == [*range(1, 900, 3), *range(2, 600, 3)]
