from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edge_detector.detections import Detections
from tools.track.chains import Reference, link, reference, scene_reference
from tools.track.flicker import Flicker, flicker, lasting
from tools.track.flicker_commands import on_scenes
from tools.track.scenes import crossing
from tools.track.simulate import simulate

Box = tuple[float, float, float, float]
SIZE_WH = (20.0, 40.0)
FRAMES = 20
EVERYWHERE = range(FRAMES)


def walker(frame: int, x: float = 50.0, pace: float = 3.0) -> Box:
    left = x + pace * frame
    return left, 100.0, left + SIZE_WH[0], 100.0 + SIZE_WH[1]


def detections(*boxes: Box, scores: float | Sequence[float] = 0.9) -> Detections:
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    confidence = np.broadcast_to(np.array(scores, np.float32), (len(boxes),)).copy()
    return Detections(xyxy, confidence, np.zeros(len(boxes), np.int64))


def walk(frames: Sequence[int] | range, x: float = 50.0, pace: float = 3.0) -> list[Detections]:
    """Return a walker's box in these frames of all."""
    return [detections(walker(n, x, pace)) if n in frames else detections() for n in EVERYWHERE]


def together(*walks: Sequence[Detections]) -> list[Detections]:
    return [
        Detections(
            *(np.concatenate([getattr(one, name) for one in ones]) for name in ("xyxy", "confidence", "class_id"))
        )
        for ones in zip(*walks, strict=True)
    ]


def truth(frames: range = EVERYWHERE, x: float = 50.0, hidden: Sequence[int] = ()) -> Reference:
    boxes = np.array([walker(n, x) for n in frames])
    return Reference(frames.start, boxes, np.array([n not in hidden for n in frames]))


def without(*missing: int) -> list[int]:
    return [n for n in EVERYWHERE if n not in missing]


# Chains.


def test_boxes_that_overlap_in_neighbouring_frames_are_one_chain_each() -> None:
    chains = link(together(walk(EVERYWHERE), walk(range(5, 15), x=300)), 3)
    assert [(chain.frames[0], len(chain.frames)) for chain in chains] == [(0, 20), (5, 10)]
    np.testing.assert_allclose(chains[1].xyxy[2], walker(7, 300))


@pytest.mark.parametrize(("missing", "chains"), [((9,), 1), ((8, 9, 10), 1), ((8, 9, 10, 11), 2)])
def test_gaps_are_bridged_up_to_the_longest(missing: tuple[int, ...], chains: int) -> None:
    assert len(link(walk(without(*missing)), 3)) == chains


def test_gap_is_bridged_at_the_pace_of_the_walker() -> None:
    fast = walk(without(8, 9, 10), pace=8.0)  # 32 pixels over the gap: the boxes do not overlap
    assert len(link(fast, 3)) == 1
    stands = [walk(range(8))[n] if n < 8 else detections((500, 100, 520, 140)) for n in EVERYWHERE]
    assert len(link(stands, 3)) == 2


def test_boxes_of_other_classes_are_other_chains() -> None:
    found = walk(range(2))[:2]
    other = Detections(found[1].xyxy, found[1].confidence, np.ones(1, np.int64))
    assert len(link([found[0], other], 0)) == 2


# The reference.


def test_reference_is_one_smooth_way_without_gaps() -> None:
    rng = np.random.default_rng(0)
    shaky = [
        Detections((one.xyxy + rng.normal(0, 1.5, one.xyxy.shape)).astype(np.float32), one.confidence, one.class_id)
        for one in walk(without(6, 7, 8, 9))
    ]
    (one,) = reference(shaky, 0.4)
    true = np.array([walker(n) for n in EVERYWHERE])
    assert (one.begin, len(one.xyxy)) == (0, FRAMES)
    assert np.flatnonzero(~one.asked).tolist() == [6, 7, 8, 9]
    off = np.abs(one.xyxy - true).mean()
    assert off < 0.7 * np.mean([np.abs(s.xyxy - true[n]).mean() for n, s in enumerate(shaky) if len(s)])


def test_smoothing_keeps_a_steady_way_up_to_its_ends() -> None:
    (one,) = reference(walk(EVERYWHERE), 0.4)
    np.testing.assert_allclose(one.xyxy, [walker(n) for n in EVERYWHERE], atol=1e-3)


@pytest.mark.parametrize(("strong", "counts"), [(9, False), (10, True)])
def test_what_is_confident_in_less_than_half_of_its_frames_is_no_object(strong: int, counts: bool) -> None:
    found = [detections(walker(n), scores=0.5 if n < strong else 0.3) for n in EVERYWHERE]
    assert len(reference(found, 0.4)) == counts


def test_what_lasts_for_less_than_ten_frames_is_no_object() -> None:
    assert reference(walk(range(9)), 0.4) == []
    assert len(reference(walk(range(10)), 0.4)) == 1


def test_objects_of_a_scene_are_asked_for_where_they_can_be_seen() -> None:
    steps = list(simulate(crossing(np.random.default_rng(0)), 10.0, 0))
    objects = scene_reference(steps)
    assert len(objects) == 2
    assert sum(int(one.asked.sum()) for one in objects) == sum(int(step.truth.scored.sum()) for step in steps)
    assert any(not one.asked.all() for one in objects)
    assert all(one.asked[[0, -1]].all() for one in objects)
    at = objects[0].begin + 5
    assert objects[0].xyxy[5].tolist() in steps[at].truth.xyxy.tolist()


def test_only_confident_detections_of_what_lasts_are_kept() -> None:
    person = [detections(walker(n), scores=0.3 if n == 5 else 0.9) for n in EVERYWHERE]
    stone = [detections((400, 10, 420, 50), scores=0.5 if n % 4 == 0 else 0.3) for n in EVERYWHERE]
    kept = lasting(together(person, stone), 0.4)
    assert [len(one) for one in kept] == [n != 5 for n in EVERYWHERE]
    np.testing.assert_allclose(kept[8].xyxy, [walker(8)])


# The figures.


def test_what_is_there_all_the_time_does_not_flicker() -> None:
    got = flicker(walk(EVERYWHERE), walk(EVERYWHERE), [truth()])
    assert (got.objects, got.shown, got.gaps, got.flashes, got.breaks, got.extra, got.never) == (20, 20, 0, 0, 0, 0, 0)
    assert (got.late, got.left) == ([0], [])
    assert max(got.corners) == pytest.approx(0, abs=1e-6)
    assert got.ious == pytest.approx([1] * 20)


def test_short_gaps_are_flicker_and_long_ones_are_breaks_only() -> None:
    got = flicker(walk(without(4, 8, 9, 10, 14, 15, 16, 17)), walk(EVERYWHERE), [truth()])
    assert (got.gaps, got.breaks, got.shown) == (2, 3, 12)
    assert got.per_100(got.gaps) == pytest.approx(10)


@pytest.mark.parametrize(("frames", "flashes"), [(1, 1), (2, 1), (3, 0)])
def test_what_comes_and_goes_within_two_frames_is_a_flash(frames: int, flashes: int) -> None:
    got = flicker(together(walk(EVERYWHERE), walk(range(7, 7 + frames), x=300)), walk(EVERYWHERE), [truth()])
    assert (got.flashes, got.extra) == (flashes, frames)


def test_coming_or_going_that_was_not_seen_makes_no_flash() -> None:
    assert flicker(walk(range(2)), walk(EVERYWHERE), []).flashes == 0
    assert flicker(walk(range(18, 20)), walk(EVERYWHERE), []).flashes == 0


def test_jitter_is_what_goes_beyond_steady_motion_in_heights() -> None:
    shaking = walk(EVERYWHERE)
    for n in range(0, FRAMES, 2):
        shaking[n].xyxy[:, 1::2] += 4.0  # up and down: two of four sides, by 4 of 40 pixels, each time
    got = flicker(shaking, shaking, [truth()])
    assert got.corners == pytest.approx([0.05] * 18)


def test_score_jitter_is_the_change_from_frame_to_frame() -> None:
    shown = [detections(walker(n), scores=0.5 + 0.1 * (n % 2)) for n in EVERYWHERE]
    got = flicker(shown, shown, [truth()])
    assert got.scores == pytest.approx([0.1] * 19)


def test_hiding_at_first_is_late_and_hiding_for_ever_is_never() -> None:
    confident = walk(range(3, 20))
    assert flicker(walk(range(7, 20)), confident, [truth()]).late == [4]
    hidden = flicker(walk([]), confident, [truth()])
    assert (hidden.gaps, hidden.late, hidden.never, hidden.shown) == (0, [], 1, 0)
    assert flicker(walk([]), walk([]), [truth()]).never == 0


def test_holding_on_is_counted_as_left_and_not_as_extra() -> None:
    gone = truth(range(12))
    got = flicker(walk(range(16)), walk(range(12)), [gone])
    assert (got.left, got.extra) == ([4], 0)
    stays = flicker(walk(EVERYWHERE), walk(EVERYWHERE), [truth()])
    assert stays.left == []


def test_box_beside_an_object_that_is_there_is_extra() -> None:
    double = together(walk(EVERYWHERE), walk(range(5, 15), x=54.0))
    assert flicker(double, walk(EVERYWHERE), [truth()]).extra == 10


def test_hidden_frames_are_neither_asked_for_nor_held_against_a_box() -> None:
    hidden = (8, 9, 10)
    for shown in (walk(EVERYWHERE), walk(without(*hidden))):
        got = flicker(shown, walk(EVERYWHERE), [truth(hidden=hidden)])
        assert (got.objects, got.shown, got.breaks, got.extra) == (17, 17, 0, 0)


def test_figures_add_up() -> None:
    one = flicker(walk(without(5)), walk(EVERYWHERE), [truth()])
    both = one + one
    assert (both.gaps, both.objects, len(both.ious)) == (2, 40, 38)
    assert both.per_100(both.gaps) == one.per_100(one.gaps)
    assert np.isnan(Flicker().per_100(1))


def test_scenes_are_judged_at_every_inference_of_every_seed() -> None:
    perfect = on_scenes(lambda steps: (_true(step.truth.xyxy[step.truth.scored]) for step in steps), 1.0, range(1))
    nothing = on_scenes(lambda steps: (detections() for _ in steps), 1.0, range(1))
    assert (perfect.breaks, perfect.never, perfect.shown) == (0, 0, perfect.objects)
    assert (nothing.shown, nothing.late, nothing.extra) == (0, [], 0)
    assert nothing.never > 20


def _true(xyxy: np.typing.NDArray[np.float64]) -> Detections:
    return detections(*xyxy.tolist())
