from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_detector.config import Config
from edge_detector.detections import Detections
from edge_detector.frame import Frame
from edge_detector.tracking.follower import Follower, FollowerOptions
from tools.track.video import agreement, best_ious, count_searches, empty_scene, later, still_stretch, wake_delay

YARD = np.random.default_rng(0).integers(70, 120, (24, 32, 1)).repeat(10, 0).repeat(10, 1).repeat(3, 2)


def picture(number: int, walker_x: float | None = None) -> Frame:
    image = (YARD + np.random.default_rng(number).normal(0, 2, YARD.shape)).clip(0, 255).astype(np.uint8)
    if walker_x is not None:
        image[90:150, max(0, int(walker_x)) : int(walker_x) + 24] = 230
    return Frame(image, number, number / 10, number / 10, "yard")


def walk(frames: int = 60) -> list[Frame]:
    return [picture(number, 5.0 * number) for number in range(frames)]


def follower() -> Follower:
    (camera,) = Config().feeds.values()
    return Follower("yard", camera, FollowerOptions(("person",), 0.4))


def detections(*boxes: tuple[float, ...], score: float = 0.9) -> Detections:
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(xyxy, np.full(len(boxes), score, np.float32), np.zeros(len(boxes), np.int64))


def test_each_box_has_the_iou_with_its_own_one() -> None:
    truth = np.array([(0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)], np.float32)
    own = np.array([(25, 0, 35, 10), (0, 0, 10, 10), (1, 0, 11, 10)], np.float32)
    np.testing.assert_allclose(best_ious(own, truth), [1, 1 / 3, 0])


def test_agreement_counts_boxes_that_are_not_shown() -> None:
    found = [
        detections((0, 0, 10, 10)),
        detections((0, 0, 10, 10), (20, 0, 30, 10)),
        detections(),
        detections((1, 1, 2, 2), score=0.1),
    ]
    shown: list[npt.NDArray[np.float32]] = [one.xyxy[:1] for one in found]
    got = agreement(iter(shown), found, 0.4, [1.0, 3.0])
    assert (got.mean_iou, got.half, got.boxes, got.ms) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 0.75, 2.0)


def test_empty_scene_is_what_is_behind_the_walker() -> None:
    assert np.abs(empty_scene(walk()) - YARD).mean() < 3


@pytest.mark.parametrize("kind", ["still", "exposure", "ramp", "flicker", "rain", "infrared"])
def test_still_stretch_goes_on_after_the_video_and_changes_as_it_is_called(kind: str) -> None:
    frames = walk()
    stretch = still_stretch(frames, kind, 20.0, 10.0)
    assert len(stretch) == 200
    assert stretch[0].captured_at == pytest.approx(6.0)
    assert np.diff([frame.captured_at for frame in stretch]) == pytest.approx(0.1)
    changes = [np.abs(frame.image.astype(float) - YARD).mean() for frame in stretch]
    assert (max(changes) > 4) == (kind != "still")


def test_later_moves_both_times() -> None:
    (moved,) = later([picture(3)], 20.0)
    assert (moved.captured_at, moved.wall_time) == (20.3, 20.3)


def test_searches_that_motion_asks_for_are_counted() -> None:
    ms: list[float] = []
    moving = count_searches(follower(), walk(), None, ms)
    still = count_searches(follower(), [picture(number) for number in range(60)], None, ms)
    assert moving > 50
    assert still < 15
    assert len(ms) == 120


def test_object_that_moves_wakes_the_gate_and_one_that_stands_does_not() -> None:
    frames = [picture(number, 100 + 5.0 * number if number >= 10 else None) for number in range(60)]
    boxes = {number: np.array([100 + 5 * number, 90, 124 + 5 * number, 150], np.float32) for number in range(10, 40)}
    assert wake_delay(follower(), frames, empty_scene([picture(n) for n in range(40)]), 10, boxes) <= 0.1
    standing = {number: np.array([100, 90, 124, 150], np.float32) for number in range(10, 40)}
    nobody = [picture(number) for number in range(60)]
    assert wake_delay(follower(), nobody, empty_scene(nobody), 10, standing) == np.inf
