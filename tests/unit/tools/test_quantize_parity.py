from __future__ import annotations

from typing import Any

import pytest

from tools.quantize.verify import Limits, Parity


def parity(**figures: int) -> Parity:
    """Return a comparison on ten of ten detections with a usual range of scores; `figures` replaces parts."""
    settings: dict[str, Any] = {"wanted": 10, "confirmed": 10, "found": 10, "lowest": 0.0, "highest": 0.9}
    return Parity("runtime", [], **settings | figures)


def test_a_model_that_finds_what_float_finds_is_fit() -> None:
    assert parity().faults(Limits()) == []
    assert parity(found=20, invented=2).faults(Limits()) == []
    assert parity(wanted=0, confirmed=0, found=0).faults(Limits()) == []


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
    assert parity(**figures).faults(Limits()) == [f"runtime: {fault}"]


def test_the_share_of_inventions_is_a_limit_that_can_be_set() -> None:
    assert parity(found=500, invented=490).faults(Limits(invented=1.0)) == []
