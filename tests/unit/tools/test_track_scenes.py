from __future__ import annotations

import numpy as np
import pytest

from tools.track.adapters import Norfair, Yardstick
from tools.track.compare import Cost, Outcome, report
from tools.track.metrics import Score
from tools.track.scenes import FPS, SCENES, SIZE_WH, Scene, approaching, assemble, edges, obstacle, person, seconds
from tools.track.scipy_baseline import Baseline
from tools.track.simulate import DetectorModel, inference_frames, simulate
from tools.track.worker import cut, follow

PERFECT = DetectorModel(
    jitter=0, miss=0, miss_run_every_s=1e9, false_positives=0, min_visible=0.4, interval_jitter=0, hiccup=0
)


def standing_people(count: int, duration_s: float = 60) -> Scene:
    t = seconds(duration_s)
    return assemble("still", [person(100 + 200.0 * k, 400.0, 150 + 0 * t) for k in range(count)])


@pytest.mark.parametrize("build", SCENES, ids=lambda build: build.__name__)
def test_every_scene_is_within_the_picture_and_the_same_for_a_seed(build) -> None:
    scene, again, other = (build(np.random.default_rng(seed)) for seed in (3, 3, 4))
    there = ~np.isnan(scene.xyxy[..., 0])
    boxes = scene.xyxy[there]
    assert (boxes >= 0).all()
    assert (boxes <= np.tile(SIZE_WH, 2)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (there.any(axis=0)).all()
    assert (scene.visible[~there] == 0).all()
    np.testing.assert_array_equal(scene.xyxy, again.xyxy)
    assert not np.array_equal(scene.xyxy, other.xyxy, equal_nan=True)


@pytest.mark.parametrize("build", SCENES, ids=lambda build: build.__name__)
def test_nobody_jumps(build) -> None:
    scene = build(np.random.default_rng(1))
    feet = scene.xyxy[..., 3]
    height = np.nanmax(scene.xyxy[..., 3] - scene.xyxy[..., 1], axis=0)
    assert np.nanmax(np.abs(np.diff(feet, axis=0)) / height) * FPS < 4  # heights a second


def test_the_nearer_person_covers_the_farther_one() -> None:
    t = seconds(0.1)
    scene = assemble("two", [person(300.0, 400.0, 100 + 0 * t), person(300.0, 420.0, 100 + 0 * t)])
    np.testing.assert_allclose(scene.visible[0], [0.2, 1.0])


def test_the_obstacle_hides_for_about_a_second() -> None:
    for seed in range(5):
        scene = obstacle(np.random.default_rng(seed))
        inside = scene.xyxy[:, 0, 2] - scene.xyxy[:, 0, 0] > 60
        assert 0.9 < (inside & (scene.visible[:, 0] < 0.4)).sum() / FPS < 1.2
        assert (scene.visible[:, 1] == 1).all()


def test_people_cross_all_four_edges() -> None:
    scene = edges(np.random.default_rng(0))
    x1, y1, x2, y2 = np.moveaxis(scene.xyxy, -1, 0)
    for touching in (x1 == 0, y1 == 0, x2 == SIZE_WH[0], y2 == SIZE_WH[1]):
        assert touching.any(axis=0).sum() >= 2


def test_who_walks_to_the_camera_grows_sixfold() -> None:
    height = np.diff(approaching(np.random.default_rng(0)).xyxy[:, 0, 1::2], axis=1)
    assert height[-1] / height[0] > 5
    assert (np.diff(height, axis=0) > 0).all()


@pytest.mark.parametrize("rate_hz", [1.0, 2.0, 5.0, 10.0])
def test_intervals_are_irregular_around_the_nominal_one(rate_hz: float) -> None:
    chosen = inference_frames(60 * 600, rate_hz, np.random.default_rng(0), DetectorModel())
    intervals = np.diff(chosen) / FPS
    assert np.median(intervals) == pytest.approx(1 / rate_hz, rel=0.1)
    assert intervals.std() > 0.2 / rate_hz
    assert intervals.max() > 2 / rate_hz
    assert intervals.min() >= 1 / FPS


def test_every_frame_is_shown_once_and_begins_with_the_one_inferred() -> None:
    scene = edges(np.random.default_rng(0))
    steps = list(simulate(scene, 5.0, 0))
    np.testing.assert_allclose([truth.at_s for step in steps for truth in step.shown], scene.times_s)
    assert all(step.shown[0] is step.truth and step.truth.at_s == step.at_s for step in steps)


def test_a_perfect_detector_finds_just_what_is_there() -> None:
    for step in simulate(standing_people(3, 5), 5.0, 0, PERFECT):
        boxes = step.detections.xyxy[np.argsort(step.detections.xyxy[:, 0])]
        np.testing.assert_allclose(boxes, step.truth.xyxy)


def test_hidden_people_are_not_detected() -> None:
    scene = obstacle(np.random.default_rng(0))
    counts = [(len(step.detections), step.truth.scored.sum()) for step in simulate(scene, 10.0, 0, PERFECT)]
    assert all(found == visible for found, visible in counts)
    assert {1, 2} <= {visible for _, visible in counts}


def test_the_detector_is_as_bad_as_it_says() -> None:
    model = DetectorModel(false_positives=0)
    steps = list(simulate(standing_people(6, 300), 5.0, 1, model))
    found = [len(step.detections) for step in steps]
    runs = model.miss_run_s / (model.miss_run_every_s + model.miss_run_s)
    assert np.mean(found) / 6 == pytest.approx((1 - model.miss) * (1 - runs), abs=0.03)
    x = np.concatenate([step.detections.xyxy[:, [0, 2]].mean(axis=1) for step in steps])
    offset = (x - 100 + 100) % 200 - 100
    assert offset.std() == pytest.approx(model.jitter * 60, rel=0.1)
    confidence = np.concatenate([step.detections.confidence for step in steps])
    assert 0.05 < (confidence < 0.4).mean() < 0.3
    assert all((np.diff(step.detections.confidence) <= 0).all() for step in steps)


def test_false_positives_are_as_frequent_as_asked_and_short() -> None:
    nobody = Scene("nobody", np.full((FPS * 600, 1, 4), np.nan), np.zeros((FPS * 600, 1)))
    counts = [len(step.detections) for step in simulate(nobody, 10.0, 0)]
    assert np.mean(counts) == pytest.approx(0.2, abs=0.04)
    assert max(counts) < 6


def test_a_seed_gives_the_same_detections() -> None:
    scene = standing_people(3, 5)
    first, again, other = ([s.detections.xyxy for s in simulate(scene, 5.0, seed)] for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=False))


def test_boxes_are_cut_at_the_edges_and_dropped_outside() -> None:
    boxes, ids = cut(np.array([[-10.0, 0, 30, 40], [1300, 0, 1400, 50]]), np.array([4, 5]))
    assert boxes.tolist() == [[0, 0, 30, 40]]
    assert ids.tolist() == [4]


def test_the_greedy_yardstick_keeps_the_ids_of_a_perfect_detector() -> None:
    at_inference, in_every_frame = follow(
        Yardstick(5.0, greedy=True), simulate(edges(np.random.default_rng(0)), 5.0, 0, PERFECT)
    )
    assert len(at_inference) < len(in_every_frame) == 600
    followed: dict[int, set[int]] = {}
    for frame in at_inference:
        for number, xyxy in zip(frame.truth.ids.tolist(), frame.truth.xyxy, strict=True):
            close = np.abs(frame.xyxy - xyxy).max(axis=1, initial=0) < 8
            followed.setdefault(number, set()).update(frame.ids[close].tolist())
    assert all(len(ids) == 1 for ids in followed.values())
    assert len(set.union(*followed.values())) == 12


def test_the_baseline_forgets_after_the_time_asked_for() -> None:
    steps = list(simulate(standing_people(1, 2), 5.0, 0, PERFECT))
    tracker = Baseline(lost_s=1.0, greedy=True)
    for step in steps:
        tracker.update(step.detections, step.at_s)
    for later_s, count in ((0.9, 1), (1.1, 0)):
        tracker.update(steps[0].detections[:0], steps[-1].at_s + later_s)
        assert len(tracker.objects(steps[-1].at_s + later_s)[1]) == count


def test_a_peer_that_is_not_installed_says_so() -> None:
    with pytest.raises(ModuleNotFoundError, match="norfair"):
        Norfair(5.0)


def test_the_report_has_a_row_per_tracker_and_sums_over_seeds() -> None:
    counts = vars(Score(objects=10, boxes=10, matched=5, switches=2, fragments=1, false_tracks=1, idtp=5, iou_sum=5.0))
    results = [
        {"scene": "crossing", "rate_hz": 5.0, "seed": seed, "at_inference": counts, "shown": counts} for seed in (0, 1)
    ]
    text = report([Outcome("greedy", Cost(0.0, 39.0, 0.2, 0.5), results, [])], [5.0])
    assert "| the same, greedy | 0 | 39 | 0.20 | 0.50 |" in text
    assert "| the same, greedy | 4 | 2 | 2 | 0.500 | 0.500 | 0.500 | 0.500 |" in text
