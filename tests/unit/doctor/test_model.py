"""Models: real files, real damage, the real runtime in its own process."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_detector.doctor import model
from edge_detector.registry import list_models

if TYPE_CHECKING:
    from tests.unit.doctor.conftest import Machine

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
SMALL = "ssd_resnet50_fpn_person_320_int8"


def test_shipped_models_are_whole_and_find_the_people_of_the_known_picture(machine: Machine) -> None:
    found = machine.check(model.check_models)
    assert [(one.state, one.found.partition(": ")[0]) for one in found] == [
        ("ok", f"{name}.tflite") for name in list_models()
    ]
    assert all("finds the 3 people" in one.found for one in found)


def test_every_shipped_model_is_expected_to_find_something(repository: Path) -> None:
    expected = json.loads(files("edge_detector.doctor").joinpath("expected.json").read_text())
    assert set(expected) == set(list_models())
    assert all(sum(row[4] >= 0.5 for row in one["boxes"]) >= 2 for one in expected.values())


def damaged(target: Path, damage: Callable[[bytearray], bytes | bytearray | None]) -> str:
    """Copy the small shipped model to `target` and damage it; return settings that name it."""
    content = bytearray(list_models()[SMALL].read_bytes())
    target.write_bytes(damage(content) or content)
    return f"model: {{path: {target}, runtime: auto}}"


def weights_of() -> list[slice]:
    """Return where the largest buffers of the shipped model, which hold its weights, are."""
    starts = (9_049_472, 15_603_136, 20_059_632)
    return [slice(start, start + 2_359_296) for start in starts]


def zero_weights(content: bytearray) -> None:
    for place in weights_of():
        content[place] = bytes(place.stop - place.start)


def noisy_weights(content: bytearray) -> None:
    for place in weights_of():
        content[place] = np.random.default_rng(1).integers(0, 256, place.stop - place.start, np.uint8).tobytes()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[: len(content) // 2], "cut off"),
        (lambda content: content[:-3000], "cut off"),
        (lambda content: b"\x00" * 5000, "not a TFLite model"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (zero_weights, "misses 3 "),
        (noisy_weights, "misses 3 "),
    ],
    ids=["half", "no end", "zeros", "lfs", "zero weights", "noisy weights"],
)
def test_damaged_model_is_told(
    machine: Machine, tmp_path: Path, damage: Callable[[bytearray], bytes | None], words: str
) -> None:
    (found,) = machine.check(model.check_models, damaged(tmp_path / f"{SMALL}.tflite", damage))
    assert (found.state, words in found.found) == ("error", True), found
    assert found.fix


def test_single_changed_bit_of_a_shipped_file_is_told(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flip(content: bytearray) -> None:
        content[5_000_000] ^= 1

    path = tmp_path / f"{SMALL}.tflite"
    settings = damaged(path, flip)
    (found,) = machine.check(model.check_models, settings)
    assert (found.state, "is another file" in found.found) == ("warning", True), (
        found
    )  # somebody's own, for all we know
    monkeypatch.setattr(model, "list_models", lambda: {SMALL: path})  # installed here, damaged there
    (found,) = machine.check(model.check_models, settings)
    assert (found.state, "differs from what was shipped" in found.found) == ("error", True), found


def test_missing_and_unknown_models_are_told(machine: Machine) -> None:
    for path, words in (("/nowhere/mine.tflite", "no such model file"), ("nonsense", "is unknown")):
        (found,) = machine.check(model.check_models, f"model: {{path: {path}}}")
        assert (found.state, words in found.found) == ("error", True), found


def test_foreign_model_that_runs_is_ok(machine: Machine) -> None:
    (found,) = machine.check(model.check_models, f"model: {{path: {FIXTURES / 'detection_op.tflite'}}}")
    assert (found.state, "its outputs are sound" in found.found) == ("ok", True), found


def foreign(machine: Machine, value: float) -> str:
    """Fill the weights of a model of ours with one value; return settings that name it."""
    path, labels = machine.root / "mine.tflite", machine.write("labels.txt", "one\ntwo\n")
    content = bytearray((FIXTURES / "raw_heads.tflite").read_bytes())
    for start, size in ((116, 12384), (12544, 24768)):  # its two large buffers
        content[start : start + size] = struct.pack("<f", value) * (size // 4)
    path.write_bytes(content)
    return f"model: {{path: {path}, labelmap_path: {labels}}}"


def test_model_whose_outputs_are_not_finite_is_told(machine: Machine) -> None:
    settings = foreign(machine, float("nan"))
    (found,) = machine.check(model.check_models, settings)
    assert (found.state, found.found) == ("error", "mine.tflite: its outputs are not finite")


def test_model_that_says_the_same_everywhere_is_told(machine: Machine) -> None:
    settings = foreign(machine, 0.0)
    (found,) = machine.check(model.check_models, settings)
    assert (found.state, found.found) == ("error", "mine.tflite: each of its outputs is one value all over")


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([[10, 10, 50, 90, 0.62], [100, 10, 140, 90, 0.7]], (0, 0)),
        ([[12, 11, 51, 92, 0.68], [101, 9, 139, 91, 0.66], [0, 0, 5, 5, 0.3]], (0, 0)),  # as another runtime would
        ([[10, 10, 50, 90, 0.62]], (1, 0)),
        ([[10, 10, 50, 90, 0.62], [100, 10, 140, 90, 0.55]], (1, 1)),  # too unsure
        ([[10, 10, 50, 90, 0.62], [120, 10, 160, 90, 0.7]], (1, 1)),  # elsewhere
        ([[10, 10, 50, 90, 0.62], [100, 10, 140, 90, 0.7], [200, 10, 240, 90, 0.8]], (0, 1)),
    ],
)
def test_boxes_are_compared_by_place_and_score(rows: list[list[float]], wanted: tuple[int, int]) -> None:
    expected = np.array([[10, 10, 50, 90, 0.62], [100, 10, 140, 90, 0.7]], float)
    assert model.differences(expected, np.array(rows, float)) == wanted
