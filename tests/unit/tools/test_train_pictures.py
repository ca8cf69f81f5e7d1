"""Data sets and augmentation: what is annotated stays on what is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.errors import SourceError
from edge_detector.manifest import InputSpec
from edge_detector.preprocess.letterbox import letterbox
from tools.train.augment import FILL, Augmentation, Sample, crop_boxes, place, resize, vary_colours
from tools.train.dataset import Photo, load_coco

WHITE, BLACK = 150, 95  # what was white is brighter, what was black is darker, however the colours vary
EDGE_PX = 3  # resizing and blur move an edge no farther


def write_coco(folder: Path, **changes: Any) -> Path:
    coco: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png", "exhaustive_category_ids": [4]}],
        "categories": [{"id": 4, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 8, "name": "bird"}],
        "annotations": [
            {"image_id": 7, "category_id": 2, "bbox": [1, 2, 30, 40]},
            {"image_id": 7, "category_id": 4, "bbox": [5, 6, 7, 8], "iscrowd": 1},
            {"image_id": 9, "category_id": 8, "bbox": [0, 0, 3, 3]},
        ],
    }
    folder.mkdir(exist_ok=True)
    (folder / "instances.json").write_text(json.dumps(coco | changes))
    return folder


def photo_of(
    path: Path, boxes: list[list[int]], size_wh: tuple[int, int] = (120, 90), stretched: bool = False
) -> Photo:
    """Return a black photo in which the boxes (x1, y1, x2, y2) are white."""
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    cv2.imwrite(str(path), image)
    classes = np.arange(len(boxes), dtype=np.int64)
    return Photo(path, np.array(boxes, np.float32).reshape(-1, 4), classes, np.ones(3, np.bool_), stretched)


def assert_boxes_lie_on_what_is_white(sample: Sample) -> None:
    side = len(sample.canvas)
    assert sample.canvas.shape == (side, side, 3)
    assert len(sample.boxes) == len(sample.classes)
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= side).all()
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    white = sample.canvas.mean(2) > WHITE
    outer, inner = np.zeros_like(white), np.zeros_like(white)
    for x1, y1, x2, y2 in np.rint(sample.boxes).astype(int).tolist():
        outer[max(0, y1 - EDGE_PX) : y2 + EDGE_PX, max(0, x1 - EDGE_PX) : x2 + EDGE_PX] = True
        # Where the canvas cuts the box, its edge is the canvas' own.
        left, top = x1 + EDGE_PX * (x1 > 0), y1 + EDGE_PX * (y1 > 0)
        inner[top : max(top, y2 - EDGE_PX), left : max(left, x2 - EDGE_PX)] = True
    assert not (white & ~outer).any(), "an object lies outside of every box"
    assert not (inner & ~white).any(), "a box lies beside its object"


def test_classes_are_taken_by_name_in_the_order_asked_for(tmp_path: Path) -> None:
    photos, labels = load_coco(write_coco(tmp_path), ("dog", "cat"))
    assert labels == ("dog", "cat")
    assert [photo.path for photo in photos] == [tmp_path / "images" / "a.png", tmp_path / "images" / "b.png"]
    np.testing.assert_array_equal(photos[0].boxes, [[1, 2, 31, 42], [5, 6, 12, 14]])
    np.testing.assert_array_equal(photos[0].classes, [1, -1])  # a cat, and a crowd of dogs
    assert photos[1].boxes.shape == (0, 4)  # a bird is none of them


def test_all_classes_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    assert load_coco(write_coco(tmp_path))[1] == ("cat", "dog", "bird")


def test_a_photo_says_which_of_the_chosen_classes_are_labelled_completely(tmp_path: Path) -> None:
    photos, _ = load_coco(write_coco(tmp_path), ("cat", "dog"))
    np.testing.assert_array_equal(photos[0].exhaustive, [True, True])
    np.testing.assert_array_equal(photos[1].exhaustive, [False, True])


def test_a_class_that_was_asked_for_twice_counts_once(tmp_path: Path) -> None:
    photos, labels = load_coco(write_coco(tmp_path), ("cat", "cat"))
    assert labels == ("cat",)
    assert photos[0].exhaustive.shape == (1,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "lists no pictures"),
        ({"annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "not a COCO-format"),
        ({"annotations": [{"image_id": 7, "category_id": 2}]}, "not a COCO-format"),
        ({"images": [{"id": 7, "file_name": "a.png", "exhaustive_category_ids": 3}]}, "not a COCO-format"),
        ({"categories": "none"}, "not a COCO-format"),
    ],
)
def test_a_damaged_data_set_is_an_error_that_names_the_file(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=rf"instances\.json: .*{message}"):
        load_coco(write_coco(tmp_path, **changes))


def test_an_unknown_class_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no class horse; it has dog, cat, bird"):
        load_coco(write_coco(tmp_path), ("cat", "horse"))
    with pytest.raises(SourceError, match="not a COCO-format data set"):
        load_coco(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"a\.png: cannot be read"):
        load_coco(write_coco(tmp_path))[0][0].read()


def test_a_photo_is_read_as_rgb(tmp_path: Path) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 0] = 200
    cv2.imwrite(str(tmp_path / "red.png"), image[..., ::-1])
    photo = photo_of(tmp_path / "other.png", [])
    assert Photo(tmp_path / "red.png", photo.boxes, photo.classes, photo.exhaustive, False).read()[0, 0, 0] == 200


@pytest.mark.parametrize("zoom", [0.4, 1.0, 2.5])
def test_boxes_follow_their_objects_through_flip_scale_crop_and_colour(tmp_path: Path, zoom: float) -> None:
    photo = photo_of(tmp_path / "a.png", [[8, 10, 40, 50], [50, 60, 110, 80]])
    original = photo.boxes.copy()
    for seed in range(40):
        assert_boxes_lie_on_what_is_white(place(photo, 128, zoom, np.random.default_rng(seed)))
    np.testing.assert_array_equal(photo.boxes, original)


def test_boxes_follow_their_objects_into_a_mosaic(tmp_path: Path) -> None:
    photos = [photo_of(tmp_path / f"{i}.png", [[8 + i, 10, 40, 50], [50, 60, 110 - i, 80]]) for i in range(4)]
    mosaic = Augmentation(zoom=(0.5, 2.0), mosaic=1.0)
    counts = []
    for seed in range(40):
        sample = mosaic(photos, 128, np.random.default_rng(seed))
        assert_boxes_lie_on_what_is_white(sample)
        counts.append(len(sample.boxes))
    assert max(counts) > 4  # several photos give boxes


def test_augmentation_flips_moves_and_scales(tmp_path: Path) -> None:
    photo = photo_of(tmp_path / "a.png", [[0, 0, 30, 90]])  # the left quarter
    augmentation = Augmentation(zoom=(0.5, 1.0), mosaic=0.0)
    samples = [augmentation([photo], 128, np.random.default_rng(seed)) for seed in range(60)]
    boxes = np.concatenate([sample.boxes for sample in samples])
    assert len(boxes) == 60  # a photo that fits loses nothing
    columns = [np.flatnonzero((sample.canvas.mean(2) < BLACK).any(0)).mean() for sample in samples]
    flipped = boxes[:, [0, 2]].mean(1) > columns
    assert 15 < flipped.sum() < 45
    widths = boxes[:, 2] - boxes[:, 0]
    assert widths.min() < 128 / 4 * 0.6
    assert widths.max() > 128 / 4 * 0.85
    assert np.ptp(boxes[:, 1]) > 20


def test_a_photo_is_on_the_canvas_in_the_size_that_zoom_says_and_the_rest_is_the_letterbox_colour(
    tmp_path: Path,
) -> None:
    photo = photo_of(tmp_path / "a.png", [])
    for seed in range(20):
        canvas = place(photo, 128, 0.5, np.random.default_rng(seed)).canvas
        bars = (canvas == FILL).all(2)
        rows, columns = np.nonzero(~bars)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 64
        assert (~bars).sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


@pytest.mark.parametrize("size_wh", [(150, 120), (101, 70), (90, 60), (50, 50), (60, 100), (30, 20), (260, 200)])
def test_photos_are_resized_as_at_run_time(size_wh: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (140, 180, 3)).astype(np.uint8)
    spec = InputSpec(width=size_wh[0], height=size_wh[1], resize="stretch")
    np.testing.assert_array_equal(resize(image, size_wh), letterbox(image, spec)[0])


def test_a_stretched_photo_gets_a_usual_aspect_ratio_back(tmp_path: Path) -> None:
    photo = photo_of(tmp_path / "a.png", [], (100, 100), stretched=True)
    ratios = []
    for seed in range(40):
        rows, columns = np.nonzero((place(photo, 128, 0.9, np.random.default_rng(seed)).canvas < BLACK).all(2))
        ratios.append((np.ptp(columns) + 1) / (np.ptp(rows) + 1))
    upright = np.array(ratios) < 1
    assert 3 < upright.sum() < 20
    assert np.median(np.array(ratios)[~upright]) == pytest.approx(4 / 3, rel=0.1)
    assert np.median(np.array(ratios)[upright]) == pytest.approx(3 / 4, rel=0.1)


def test_what_is_cut_away_or_tiny_becomes_an_area_where_nothing_is_learnt() -> None:
    boxes = np.array(
        [
            [10, 10, 30, 30],  # inside
            [-10, 0, 10, 20],  # one half is left
            [95, 0, 115, 20],  # one quarter is left
            [120, 0, 140, 20],  # nothing is left
            [50, 50, 53, 53],  # tiny
            [50, 50, 53, 70],  # thin, but long enough
        ],
        np.float32,
    )
    original = boxes.copy()
    clipped, classes = crop_boxes(boxes, np.array([0, 1, 2, 3, 4, 5]), (0, 0, 100, 100))
    np.testing.assert_array_equal(clipped[:3], [[10, 10, 30, 30], [0, 0, 10, 20], [95, 0, 100, 20]])
    np.testing.assert_array_equal(classes, [0, 1, -1, -1, 5])
    np.testing.assert_array_equal(boxes, original)


def test_a_canvas_without_objects_has_no_boxes(tmp_path: Path) -> None:
    photos = [photo_of(tmp_path / "a.png", [])] * 4
    for mosaic in (0.0, 1.0):
        sample = Augmentation(mosaic=mosaic)(photos, 64, np.random.default_rng(0))
        assert sample.boxes.shape == (0, 4)
        assert sample.classes.shape == (0,)


def test_a_mosaic_is_complete_only_in_what_all_its_photos_are(tmp_path: Path) -> None:
    first, second = photo_of(tmp_path / "a.png", []), photo_of(tmp_path / "b.png", [])
    partly = Photo(second.path, second.boxes, second.classes, np.array([True, False, True]), False)
    sample = Augmentation(mosaic=1.0)([first, first, partly, first], 64, np.random.default_rng(0))
    np.testing.assert_array_equal(sample.exhaustive, [True, False, True])


def test_colours_vary_in_a_copy() -> None:
    image: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    original = image.copy()
    varied = [vary_colours(image, np.random.default_rng(seed)) for seed in range(100)]
    np.testing.assert_array_equal(image, original)
    assert all(other.shape == image.shape and other.dtype == np.uint8 for other in varied)
    means = np.array([other.mean() for other in varied])
    assert np.ptp(means) > 30
    grey = [float(np.ptp(other.astype(int), axis=2).mean()) < 25 for other in varied]
    assert 0 < sum(grey) < 20  # tinted a little, but all channels alike


def test_the_same_seed_gives_the_same_canvas(tmp_path: Path, coco_set: Callable[..., Path]) -> None:
    photos, _ = load_coco(coco_set())
    first, second = (Augmentation()(photos, 96, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.canvas, second.canvas)
    np.testing.assert_array_equal(first.boxes, second.boxes)
