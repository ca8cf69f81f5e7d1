from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="the float twin runs on LiteRT: pip install ai-edge-litert")

from edge_detector.detections import Detections
from tools.quantize.findings import Parity, Scores, SourceParity
from tools.quantize.verify import (
    Limits,
    OutputSums,
    faults,
    match_scores,
    score_faults,
    source_faults,
)


def parity(**figures: int) -> Parity:
    """Return a comparison on ten of ten detections with a usual range of scores; `figures` replaces parts."""
    settings: dict[str, Any] = {"wanted": 10, "confirmed": 10, "found": 10, "lowest": 0.0, "highest": 0.9}
    return Parity("runtime", 5, (), **settings | figures)


def test_a_model_that_finds_what_float_finds_is_fit() -> None:
    assert faults(parity(), Limits()) == []
    assert faults(parity(found=20, invented=2), Limits()) == []
    assert faults(parity(wanted=0, confirmed=0, found=0), Limits()) == []


@pytest.mark.parametrize(
    ("figures", "fault"),
    [
        ({"confirmed": 8}, "8 of 10 detections confirmed, wanted 90%"),
        ({"found": 500, "invented": 490}, "490 of 500 detections invented, allowed 10%"),
        ({"wanted": 0, "confirmed": 0, "found": 3, "invented": 3}, "3 of 3 detections invented, allowed 10%"),
    ],
    ids=["missed", "invented", "invented where float finds nothing"],
)
def test_missed_and_invented_detections_make_a_model_unfit(figures: dict[str, int], fault: str) -> None:
    assert faults(parity(**figures), Limits()) == [f"runtime: {fault}"]


def test_the_share_of_inventions_is_a_limit_that_can_be_set() -> None:
    assert faults(parity(found=500, invented=490), Limits(invented=1.0)) == []


def test_a_float_model_that_differs_from_its_source_is_unfit() -> None:
    source = SourceParity("Keras", {"logits": 0.02, "boxes": 0.001}, {"logits": 1.0, "boxes": 1.0})
    assert source_faults(source, Limits()) == [
        "float against Keras: logits differs by 0.02 at a spread of 1",
    ]
    assert source_faults(source, Limits(source_error=0.03)) == []


def test_an_error_that_is_not_a_number_is_no_agreement() -> None:
    assert source_faults(SourceParity("Keras", {"logits": float("nan")}, {"logits": 1.0}), Limits())


def test_lost_average_precision_makes_a_model_unfit() -> None:
    assert score_faults(Scores(94, 27.2, 61.6, 24.0, 58.0), Limits()) == [
        "AP 24.0 against 27.2 in float, allowed are 2 points less"
    ]
    assert score_faults(Scores(94, 27.2, 61.6, 26.9, 61.7), Limits()) == []
    assert score_faults(None, Limits()) == []


def output(wanted: Any, got: Any, step: float = 0.01) -> Any:
    """Return the parity of one output, given as two photos' worth of values."""
    sums = OutputSums("logits", step, -4.0, 4.0, wanted.shape[-1])
    for one, other in zip(np.split(wanted, 2), np.split(got, 2), strict=True):
        sums.add(one, other)
    return sums.parity()


def test_cosine_is_that_of_the_deviations_from_the_mean() -> None:
    random = np.random.default_rng(0)
    wanted = random.normal(-3, 1, (2, 50, 6)).astype(np.float32)
    got = (wanted + random.normal(0, 0.3, wanted.shape)).astype(np.float32)
    a, b = wanted.ravel() - wanted.mean(), got.ravel() - wanted.mean()
    found = output(wanted, got)
    assert found.cosine == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-6)
    assert found.max_error == pytest.approx(np.abs(wanted - got).max())


def test_an_output_that_hardly_varies_is_judged_by_its_error() -> None:
    random = np.random.default_rng(5)
    wanted = (random.normal(0, 0.002, (2, 50, 6)) - 3.6).astype(np.float32)  # logits of a level that never fires
    rounded = (np.round(wanted / 0.018) * 0.018).astype(np.float32)
    constant = output(wanted, rounded, step=0.018)
    assert constant.cosine < 0.5
    settings: dict[str, Any] = {"lowest": 0.0, "highest": 0.9}
    assert faults(Parity("runtime", 5, (constant,), **settings), Limits()) == []
    off = output(wanted, rounded + np.float32(0.2), step=0.018)
    (fault,) = faults(Parity("runtime", 5, (off,), **settings), Limits())
    assert fault.startswith("runtime: logits: cosine")


def test_the_worst_channel_is_named() -> None:
    random = np.random.default_rng(1)
    wanted = random.normal(0, 1, (2, 50, 6)).astype(np.float32)
    got = wanted.copy()
    got[..., 4] = random.normal(0, 1, got[..., 4].shape)
    found = output(wanted, got)
    assert found.worst_channel == 4
    assert abs(found.worst_channel_cosine) < 0.4
    assert found.cosine > 0.7


def test_a_channel_that_hardly_varies_is_not_the_worst() -> None:
    random = np.random.default_rng(2)
    wanted = random.normal(0, 1, (2, 50, 3)).astype(np.float32)
    wanted[..., 1] = 0.5
    got = (np.round(wanted / 0.1) * 0.1).astype(np.float32)
    found = output(wanted, got, step=0.1)
    assert found.worst_channel != 1
    assert found.worst_channel_cosine > 0.99


def test_histograms_count_every_value_of_both() -> None:
    wanted = np.random.default_rng(3).normal(0, 3, (2, 50, 6)).astype(np.float32)  # beyond the edges too
    found = output(wanted, wanted)
    assert found.float_counts.sum() == found.counts.sum() == wanted.size
    assert found.float_counts[0] > found.float_counts[1]  # what lies below is counted in the first bin


def test_scores_are_matched_by_overlap_and_class() -> None:
    boxes = np.array([[0, 0, 10, 10], [100, 0, 110, 10], [50, 50, 60, 60]], np.float32)
    ours = Detections(boxes + 1, np.array([0.8, 0.7, 0.6], np.float32), np.array([0, 1, 0]))
    floats = Detections(boxes, np.array([0.9, 0.75, 0.5], np.float32), np.array([0, 0, 0]))
    pairs = {tuple(pair) for pair in match_scores(floats, ours).round(2).astype(str)}
    assert pairs == {("0.9", "0.8"), ("0.5", "0.6"), ("0.75", "0.0"), ("0.0", "0.7")}


def test_nothing_found_by_either_is_no_pair() -> None:
    assert match_scores(Detections.empty(), Detections.empty()).shape == (0, 2)
