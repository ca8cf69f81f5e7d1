from __future__ import annotations

import itertools
import json
import os
import subprocess

import numpy as np
import pytest

from tools.track.assignment import assign, match
from tools.track.metrics import Score, Shown, iou_matrix, score
from tools.track.scenes import crossing, group
from tools.track.simulate import Truth, simulate

A, B, FAR = (0, 0, 10, 20), (100, 0, 110, 20), (500, 500, 510, 520)
Box = tuple[float, float, float, float]


def shown(at_s: float, objects: dict[int, Box], tracks: dict[int, Box], hidden: tuple[int, ...] = ()) -> Shown:
    truth = Truth(
        at_s,
        np.array(list(objects), np.int64),
        np.array(list(objects.values()), np.float64).reshape(-1, 4),
        np.array([number not in hidden for number in objects], np.bool_),
    )
    return Shown(truth, np.array(list(tracks.values()), np.float64).reshape(-1, 4), np.array(list(tracks), np.int64))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 3), (4, 4), (6, 6)])
def test_assignment_is_as_cheap_as_the_best_of_all_permutations(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    for _ in range(30):
        cost = rng.normal(size=shape).round(1)  # rounded, so that there are ties
        short, long = sorted(shape)
        wide = cost if shape[0] == short else cost.T
        best = min(wide[range(short), list(order)].sum() for order in itertools.permutations(range(long), short))
        rows, columns = assign(cost)
        assert cost[rows, columns].sum() == pytest.approx(best)
        assert len(set(rows)) == len(set(columns)) == short


def test_match_prefers_many_pairs_and_never_takes_a_forbidden_one() -> None:
    rows, columns = match(np.array([[0.9, 0.6, 0.0], [0.8, 0.1, 0.0]]), 0.5)
    assert list(zip(rows, columns, strict=True)) == [(0, 1), (1, 0)]
    assert len(match(np.full((2, 2), 0.4), 0.5)[0]) == 0
    assert len(match(np.zeros((0, 3)), 0.5)[0]) == 0


def test_iou_of_boxes_without_area_is_0() -> None:
    assert iou_matrix(np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10], [3.0, 3, 3, 3]])).tolist() == [
        [pytest.approx(1 / 3), 0]
    ]


def test_perfect_tracks_have_full_marks() -> None:
    result = score([shown(t, {1: A, 2: B}, {7: A, 8: B}) for t in range(4)])
    assert result == Score(objects=8, boxes=8, matched=8, idtp=8, iou_sum=8.0)
    assert (result.coverage, result.precision, result.idf1, result.mean_iou) == (1, 1, 1, 1)


def test_tracks_that_swap_are_two_switches_and_half_of_the_identities() -> None:
    result = score([shown(t, {1: A, 2: B}, {7: A, 8: B} if t < 2 else {7: B, 8: A}) for t in range(4)])
    assert (result.switches, result.fragments, result.coverage, result.idf1) == (2, 0, 1.0, 0.5)


def test_a_new_id_after_a_gap_is_a_switch_and_a_fragment_and_the_longer_one_counts_for_idf1() -> None:
    result = score([shown(t, {1: A}, {} if t == 3 else {7 if t < 3 else 8: A}) for t in range(5)])
    assert (result.switches, result.fragments, result.matched, result.idtp) == (1, 1, 4, 3)
    assert result.idf1 == pytest.approx(2 * 3 / (5 + 4))


def test_a_track_that_was_never_on_an_object_is_false() -> None:
    result = score([shown(t, {1: A}, {7: A, 8: FAR}) for t in range(3)])
    assert (result.false_tracks, result.precision, result.switches) == (1, 0.5, 0)
    assert result.mean_iou == 0.5


def test_a_track_that_stays_behind_is_not_false_but_costs_precision() -> None:
    result = score([shown(t, {1: A} if t < 2 else {}, {7: A}) for t in range(4)])
    assert (result.false_tracks, result.precision, result.coverage) == (0, 0.5, 1.0)


def test_a_hidden_object_is_neither_asked_for_nor_held_against_its_track() -> None:
    without = score([shown(t, {1: A}, {} if t == 1 else {7: A}, (1,) if t == 1 else ()) for t in range(3)])
    with_box = score([shown(t, {1: A}, {7: A}, (1,) if t == 1 else ()) for t in range(3)])
    assert without == with_box == Score(objects=2, boxes=2, matched=2, idtp=2, iou_sum=2.0)


def test_a_new_id_after_hiding_is_a_switch_without_a_fragment() -> None:
    result = score([shown(t, {1: A}, {7 if t < 1 else 8: A}, (1,) if t == 1 else ()) for t in range(3)])
    assert (result.switches, result.fragments) == (1, 0)


def test_a_pair_goes_on_although_another_track_fits_better() -> None:
    near = (0, 0, 10, 16)  # IoU 0.8
    result = score([shown(0, {1: A}, {7: A}), shown(1, {1: A}, {7: near, 8: A})])
    assert (result.switches, result.matched, result.false_tracks) == (0, 2, 1)


def test_scores_add_up() -> None:
    one = score([shown(0, {1: A}, {7: A, 8: FAR})])
    assert (one + one).false_tracks == 2
    assert (one + one).precision == one.precision == 0.5
    assert np.isnan(Score().idf1)


ORACLE = """
import json, sys
import motmetrics, numpy as np
names = ["num_switches", "num_fragmentations", "num_detections", "num_objects", "num_predictions", "idtp", "idf1"]
answers = []
for scene in json.load(sys.stdin):
    acc = motmetrics.MOTAccumulator(auto_id=True)
    for objects, tracks, distances in scene:
        d = np.array(distances, float).reshape(len(objects), len(tracks))
        acc.update(objects, tracks, np.where(d <= 0.5, d, np.nan))
    summary = motmetrics.metrics.create().compute(acc, metrics=names)
    answers.append({name: float(summary[name].iloc[0]) for name in names})
print(json.dumps(answers))
"""


def noisy_tracks(seed: int) -> list[Shown]:
    """Return tracks of a real scene that swap, vanish, come back with new ids and drift."""
    rng = np.random.default_rng(seed)
    scene = group(rng) if seed % 2 else crossing(rng)
    names = {number: number for number in range(scene.visible.shape[1])}
    frames = []
    for step in simulate(scene, 5.0, seed):
        if rng.random() < 0.2:
            first, second = rng.choice(list(names), 2)
            names[first], names[second] = names[second], names[first]
        if rng.random() < 0.2:
            names[int(rng.choice(list(names)))] = 100 + len(frames)
        keep = rng.random(len(step.truth.ids)) < 0.85
        boxes = step.truth.xyxy[keep] + rng.normal(0, 12, (keep.sum(), 4))
        ids = np.array([names[int(number)] for number in step.truth.ids[keep]], np.int64)
        everybody = np.ones(len(step.truth.ids), np.bool_)
        frames.append(Shown(Truth(step.at_s, step.truth.ids, step.truth.xyxy, everybody), boxes, ids))
    return frames


def test_agrees_with_motmetrics() -> None:
    oracle = os.environ.get("EDGE_DETECTOR_MOTMETRICS_PYTHON")
    if not oracle:
        pytest.skip("EDGE_DETECTOR_MOTMETRICS_PYTHON names no Python that has motmetrics 1.4")
    scenes = [noisy_tracks(seed) for seed in range(6)]
    told = [
        [
            (f.truth.ids.tolist(), f.ids.tolist(), (1 - iou_matrix(f.truth.xyxy, f.xyxy)).ravel().tolist())
            for f in frames
        ]
        for frames in scenes
    ]
    done = subprocess.run([oracle, "-c", ORACLE], input=json.dumps(told), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for frames, wanted in zip(scenes, json.loads(done.stdout), strict=True):
        result = score(frames)
        assert result.switches == wanted["num_switches"] > 0
        assert result.fragments == wanted["num_fragmentations"] > 0
        assert (result.matched, result.objects) == (wanted["num_detections"], wanted["num_objects"])
        assert (result.boxes, result.idtp) == (wanted["num_predictions"], wanted["idtp"])
        assert result.idf1 == pytest.approx(wanted["idf1"])
