from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge_detector.detections import Detections
from edge_detector.errors import ConfigError
from edge_detector.object_config import ObjectsConfig
from edge_detector.tracking.filters import ObjectFilter

LABELS = ("person", "car", "dog")
PERSON, CAR, DOG = range(3)
BOX = (10.0, 10.0, 30.0, 50.0)  # 800 pixels, ratio 0.5, of 20,000 in the picture


def object_filter(**objects: Any) -> ObjectFilter:
    return ObjectFilter(ObjectsConfig(**objects), LABELS, (200, 100), leave=0.5, default_threshold=0.6)


def detections(
    boxes: Sequence[tuple[float, ...]] = (BOX,), class_ids: Sequence[int] = (PERSON,), scores: Sequence[float] = (0.9,)
) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(class_ids, np.int64)
    )


def person_is_kept(box: tuple[float, ...] = BOX, score: float = 0.9, **person: Any) -> bool:
    return len(object_filter(filters={"person": person}).keep(detections([box], scores=[score]))) == 1


def test_all_labels_count_unless_some_are_named() -> None:
    found = detections([BOX] * 3, [PERSON, CAR, DOG], [0.9, 0.8, 0.7])
    assert object_filter().keep(found).class_id.tolist() == [PERSON, CAR, DOG]
    kept = object_filter(track=["dog", "person"]).keep(found)
    assert kept.class_id.tolist() == [PERSON, DOG]
    np.testing.assert_array_equal(kept.confidence, np.array([0.9, 0.7], np.float32))
    assert len(object_filter(track=[]).keep(found)) == 0


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"min_area": 800}, True),
        ({"min_area": 801}, False),
        ({"max_area": 800}, True),
        ({"max_area": 799}, False),
        ({"min_area": 0.04}, True),
        ({"min_area": 0.041}, False),
        ({"max_area": 0.04}, True),
        ({"max_area": 0.039}, False),
        ({"min_ratio": 0.5, "max_ratio": 0.5}, True),
        ({"min_ratio": 0.51}, False),
        ({"max_ratio": 0.49}, False),
    ],
)
def test_size_and_shape_are_limited_in_pixels_or_fractions(limits: dict[str, float], kept: bool) -> None:
    assert person_is_kept(**limits) is kept


def test_box_without_height_is_wider_than_any_limit() -> None:
    assert not person_is_kept((10, 10, 30, 10), max_ratio=1000)
    assert person_is_kept((10, 10, 10, 10))


def test_score_is_held_against_the_filter_or_the_default() -> None:
    assert person_is_kept(score=0.7, min_score=0.7)
    assert not person_is_kept(score=0.69, min_score=0.7)
    assert person_is_kept(score=0.3)
    assert not person_is_kept(score=0.29)
    assert person_is_kept(score=0.01, min_score=0.0)


def test_lower_threshold_of_a_label_lowers_what_is_ignored() -> None:
    assert person_is_kept(score=0.1, threshold=0.2)
    assert not person_is_kept(score=0.09, threshold=0.2)
    assert not person_is_kept(score=0.29, threshold=0.9)


def test_filter_holds_for_its_label_only() -> None:
    found = detections([BOX] * 2, [PERSON, CAR], [0.9, 0.8])
    strict = object_filter(filters={"person": {"min_area": 5000, "mask": ["0,0,1,0,1,1,0,1"]}})
    assert strict.keep(found).class_id.tolist() == [CAR]
    assert object_filter(filters={"unicorn": {"mask": ["0,0,1,0,1,1,0,1"]}}).keep(found).class_id.tolist() == [
        PERSON,
        CAR,
    ]


def test_mask_drops_objects_by_the_middle_of_their_lower_edge() -> None:
    below = "0,0.5,0.2,0.5,0.2,1,0,1"  # ends at x 40 of 200; the box stands on (20, 50)
    assert not person_is_kept(mask=[below])
    assert person_is_kept((10, 10, 30, 49.5), mask=[below])
    assert person_is_kept((30, 10, 52, 50), mask=[below])
    assert not person_is_kept(mask="0,50,40,50,40,99,0,99")


def test_mask_for_all_labels_drops_each() -> None:
    found = detections([BOX, BOX, (110, 10, 130, 50)], [PERSON, CAR, DOG], [0.9, 0.8, 0.7])
    assert object_filter(mask=["0,0,0.5,0,0.5,1,0,1"]).keep(found).class_id.tolist() == [DOG]


def test_nothing_found_stays_nothing() -> None:
    everything = object_filter(mask=["0,0,1,0,1,1"], filters={"person": {"min_area": 1, "mask": ["0,0,1,0,1,1"]}})
    assert len(everything.keep(Detections.empty())) == 0


def test_threshold_is_that_of_the_class_or_the_default() -> None:
    by_class = object_filter(filters={"car": {"threshold": 0.75}, "dog": {"threshold": 0.0}})
    assert [by_class.threshold_of(class_id) for class_id in (PERSON, CAR, DOG)] == [0.6, 0.75, 0.0]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"mask": ["0,0,1,0,1,1", "0,0,300,0,0,50"]}, r"objects\.mask\.1: 300,0 lies outside the picture of 200x100"),
        ({"filters": {"car": {"mask": ["0,0,300,0,0,50"]}}}, r"objects\.filters\.car\.mask\.0: 300,0 lies outside"),
        (
            {"filters": {"car": {"min_area": 0.5, "max_area": 9000}}},
            r"objects\.filters\.car: .*10000 pixels, above .*9000",
        ),
    ],
)
def test_what_does_not_fit_the_picture_is_a_config_error_with_the_path(objects: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        object_filter(**objects)
