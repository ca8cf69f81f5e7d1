from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_detector.abandoned import count_abandoned
from edge_detector.detector import Detector
from edge_detector.errors import ModelError, PublishError, SourceError, UnreadablePicture
from edge_detector.frame import Frame, FrameResult
from edge_detector.runtime.feed import Feed, Search
from edge_detector.runtime.pipeline import LivePipeline, RecordedPipeline
from edge_detector.sources.synthetic import SyntheticSource

BLUE = 2  # drawn last: never covered
MakeDetector = Callable[..., Detector]


class Collector:
    """A publisher that keeps what it gets; it fails on the results that `fails` names."""

    def __init__(self, name: str = "collector", fails: Callable[[FrameResult], bool] = lambda result: False) -> None:
        self.name = name
        self.results: list[FrameResult] = []
        self._fails = fails

    def publish(self, result: FrameResult) -> None:
        if self._fails(result):
            raise PublishError("disk full")
        self.results.append(result)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


def blue_box(result: FrameResult) -> np.ndarray:
    return result.detections.xyxy[result.detections.class_id == BLUE][0]


# Files: every frame, in order.


def test_every_frame_of_a_file_is_published_in_order_with_its_own_detections(color_detector: MakeDetector) -> None:
    source, out = SyntheticSource(160, 120, frames=40), Collector()
    stats = RecordedPipeline(Feed("camera", source, [out]), color_detector(), threading.Event()).run()
    assert [result.frame.frame_id for result in out.results] == list(range(40))
    for result in out.results:
        assert result.age_s == 0
        assert np.abs(blue_box(result) - source.boxes(result.frame.frame_id)[BLUE]).max() < 0.01
        assert result.timings_s == {}  # the same file gives the same results
    assert (stats.captured, stats.inferred, stats.published, stats.dropped) == (40, 40, 40, 0)


def test_two_runs_on_a_file_give_the_same_detections(color_detector: MakeDetector) -> None:
    runs = []
    for _ in range(2):
        out = Collector()
        RecordedPipeline(Feed("camera", SyntheticSource(frames=10), [out]), color_detector(), threading.Event()).run()
        runs.append(np.concatenate([result.detections.xyxy for result in out.results]))
    assert np.array_equal(*runs)


def test_progress_counts_up_to_the_total_with_unreadable_pictures(color_detector: MakeDetector) -> None:
    source = SyntheticSource(frames=6, faults={2: UnreadablePicture("2.jpg: damaged"), 5: UnreadablePicture("5.jpg")})
    out, progress = Collector(), list[tuple[int, int | None]]()
    pipeline = RecordedPipeline(
        Feed("camera", source, [out]),
        color_detector(),
        threading.Event(),
        lambda done, total: progress.append((done, total)),
    )
    stats = pipeline.run()
    assert [result.frame.frame_id for result in out.results] == [0, 1, 3, 4]
    assert stats.unreadable == 2
    assert progress[-1] == (6, 6)
    assert progress == sorted(progress)


def test_failing_file_is_raised_after_the_frames_before_it(color_detector: MakeDetector) -> None:
    source, out = SyntheticSource(frames=6, faults={3: SourceError("disk removed")}), Collector()
    with pytest.raises(SourceError, match="disk removed"):
        RecordedPipeline(Feed("camera", source, [out]), color_detector(), threading.Event()).run()
    assert [result.frame.frame_id for result in out.results] == [0, 1, 2]


def test_failing_model_ends_the_run_on_a_file(color_detector: MakeDetector) -> None:
    detector = color_detector(fails_at=2, error=ModelError("invoke failed"))
    out = Collector()
    with pytest.raises(ModelError, match="invoke failed"):
        RecordedPipeline(Feed("camera", SyntheticSource(frames=50), [out]), detector, threading.Event()).run()
    assert len(out.results) == 2


def test_stop_ends_a_long_file_soon(color_detector: MakeDetector) -> None:
    stop, out = threading.Event(), Collector()
    threading.Timer(0.2, stop.set).start()
    start_s = time.monotonic()
    RecordedPipeline(Feed("camera", SyntheticSource(frames=99_999), [out]), color_detector(delay_s=0.02), stop).run()
    assert time.monotonic() - start_s < 3
    assert 0 < len(out.results) < 99_999


def test_decoding_runs_ahead_of_inference(color_detector: MakeDetector) -> None:
    two_more_read = threading.Event()

    class WatchedSource(SyntheticSource):
        def read(self, timeout_s: float) -> Frame | None:
            frame = super().read(timeout_s)
            if frame is not None and frame.frame_id == 2:
                two_more_read.set()
            return frame

    class Patient(Collector):
        def publish(self, result: FrameResult) -> None:
            assert two_more_read.wait(20)  # while frame 0 is still being published
            super().publish(result)

    out = Patient()
    RecordedPipeline(Feed("camera", WatchedSource(frames=5), [out]), color_detector(), threading.Event()).run()
    assert len(out.results) == 5


def test_turns_go_on_while_a_file_gives_no_picture(color_detector: MakeDetector) -> None:
    turned, turns_with = threading.Event(), []
    out = Collector()

    class Stuck(SyntheticSource):  # as on a network drive that does not answer
        def read(self, timeout_s: float) -> Frame | None:
            assert turned.wait(20)
            return super().read(timeout_s)

    def on_turn() -> None:
        turns_with.append(len(out.results))
        turned.set()

    feed = Feed("camera", Stuck(frames=2), [out])
    RecordedPipeline(feed, color_detector(), threading.Event()).run(on_turn=on_turn)
    assert turns_with[0] == 0
    assert len(out.results) == 2


# Live: newest first.


def test_live_source_is_published_at_its_rate_while_slow_inference_drops_frames(color_detector: MakeDetector) -> None:
    source, out = SyntheticSource(160, 120, fps=50), Collector()
    stats = LivePipeline([Feed("camera", source, [out])], color_detector(delay_s=0.2), threading.Event()).run(
        duration_s=2
    )
    assert stats.published > 3 * stats.inferred  # publishing does not wait for inference
    assert 2 <= stats.inferred <= 11
    assert stats.dropped > 0
    # Every captured frame was detected, replaced, or lay in the slot or the model at the end.
    assert 0 <= stats.captured - stats.inferred - stats.dropped <= 2
    ids = [result.frame.frame_id for result in out.results]
    assert ids == sorted(set(ids))


def test_live_detections_are_those_of_the_frame_that_they_name(color_detector: MakeDetector) -> None:
    source, out = SyntheticSource(160, 120, fps=50), Collector()
    LivePipeline([Feed("camera", source, [out])], color_detector(delay_s=0.1), threading.Event()).run(duration_s=1)
    frame_ids = {result.frame.captured_at: result.frame.frame_id for result in out.results}
    detected = [result for result in out.results if result.detected_at in frame_ids]
    assert detected
    for result in detected:
        assert np.abs(blue_box(result) - source.boxes(frame_ids[result.detected_at])[BLUE]).max() < 0.01
        assert 0 <= result.age_s < 1
    assert max(result.age_s for result in detected) > 0.05
    assert out.results[-1].fps["capture"] > out.results[-1].fps["inference"] > 0


def test_before_the_first_inference_frames_are_published_without_detections(color_detector: MakeDetector) -> None:
    out = Collector()
    LivePipeline([Feed("camera", SyntheticSource(fps=50), [out])], color_detector(delay_s=0.3), threading.Event()).run(
        duration_s=0.6
    )
    assert len(out.results[0].detections) == 0
    assert out.results[0].detected_at is None
    assert len(out.results[-1].detections) == 3


def test_detections_follow_a_change_of_resolution(color_detector: MakeDetector) -> None:
    class Resized(SyntheticSource):
        """Doubles its pictures from frame 10 on."""

        def read(self, timeout_s: float) -> Frame | None:
            frame = super().read(timeout_s)
            if frame is None or frame.frame_id < 10:
                return frame
            image = np.ascontiguousarray(frame.image.repeat(2, 0).repeat(2, 1))
            return Frame(image, frame.frame_id, frame.captured_at, frame.wall_time, frame.source)

    source, out = Resized(160, 120, fps=50), Collector()
    LivePipeline([Feed("camera", source, [out])], color_detector(delay_s=0.15), threading.Event()).run(duration_s=0.7)
    frame_ids = {result.frame.captured_at: result.frame.frame_id for result in out.results}
    mixed = [r for r in out.results if r.detected_at is not None and frame_ids[r.detected_at] < 10 <= r.frame.frame_id]
    assert mixed
    for result in mixed:
        assert np.abs(blue_box(result) - 2 * source.boxes(frame_ids[result.detected_at])[BLUE]).max() < 0.01


@pytest.mark.parametrize("error", [SourceError("cable pulled"), RuntimeError("bug")])
def test_failing_camera_ends_the_run(color_detector: MakeDetector, error: Exception) -> None:
    stop = threading.Event()
    with pytest.raises(type(error), match=str(error)):
        LivePipeline([Feed("camera", SyntheticSource(fps=100, faults={5: error}), [])], color_detector(), stop).run(
            duration_s=20
        )
    assert not stop.is_set()  # it is the caller's


def test_failing_model_ends_a_live_run(color_detector: MakeDetector) -> None:
    detector = color_detector(fails_at=2, error=ModelError("invoke failed"))
    start_s = time.monotonic()
    with pytest.raises(ModelError, match="invoke failed"):
        LivePipeline([Feed("camera", SyntheticSource(fps=100), [])], detector, threading.Event()).run(duration_s=20)
    assert time.monotonic() - start_s < 5


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, ""), RuntimeError("can't start new thread")])
def test_shortage_of_memory_costs_a_picture_and_not_the_run(color_detector: MakeDetector, error: Exception) -> None:
    source, out = SyntheticSource(fps=50, faults={5: error}), Collector()
    pipeline = LivePipeline([Feed("camera", source, [out])], color_detector(fails_at=2, error=error), threading.Event())
    pipeline.run(duration_s=1.5)
    assert pipeline.stats.inferred > 3
    assert len({result.detected_at for result in out.results} - {None}) > 1
    assert {result.frame.frame_id for result in out.results} > {3, 4, 6, 7}


def test_stop_ends_a_live_run_soon_even_when_the_camera_is_silent(color_detector: MakeDetector) -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    start_s = time.monotonic()
    LivePipeline([Feed("camera", SyntheticSource(fps=0.01), [])], color_detector(), stop).run()
    assert time.monotonic() - start_s < 2


def test_duration_ends_a_live_run(color_detector: MakeDetector) -> None:
    start_s = time.monotonic()
    LivePipeline([Feed("camera", SyntheticSource(), [])], color_detector(), threading.Event()).run(duration_s=0.3)
    assert 0.3 <= time.monotonic() - start_s < 2


# Several cameras.


def test_cameras_share_the_model_fairly_whatever_their_rates(color_detector: MakeDetector) -> None:
    outs = [Collector(), Collector(), Collector()]
    feeds = [
        Feed(name, SyntheticSource(64, 48, fps=fps), [out])
        for name, fps, out in zip("abc", (200, 50, 100), outs, strict=True)
    ]
    LivePipeline(feeds, color_detector((64, 48), delay_s=0.03), threading.Event()).run(duration_s=2)
    inferred = [feed.stats.inferred for feed in feeds]
    assert min(inferred) > 10
    assert max(inferred) - min(inferred) <= 2
    for out, name in zip(outs, "abc", strict=True):
        assert {result.camera for result in out.results} == {name}


def test_inference_is_limited_to_a_rate_of_its_own(color_detector: MakeDetector) -> None:
    out = Collector()
    feed = Feed("camera", SyntheticSource(64, 48, fps=100), [out], detect_fps=10)
    LivePipeline([feed], color_detector((64, 48)), threading.Event()).run(duration_s=2)
    assert 10 <= feed.stats.inferred <= 22
    assert feed.stats.published > 3 * feed.stats.inferred


def test_boxes_that_are_too_old_are_not_shown(color_detector: MakeDetector) -> None:
    out = Collector()
    feed = Feed("camera", SyntheticSource(64, 48, fps=100), [out], detect_fps=2, max_age_s=0.2)
    LivePipeline([feed], color_detector((64, 48)), threading.Event()).run(duration_s=1.4)
    assert {len(result.detections) for result in out.results} == {0, 3}
    assert max(result.age_s for result in out.results) <= 0.2


def test_frame_that_waited_too_long_is_not_searched() -> None:
    feed = Feed("camera", SyntheticSource(), max_age_s=1.0)
    frame = SyntheticSource(frames=1).read(0)
    assert frame is not None
    feed.offer(Search(frame))
    assert feed.ready_in_s(frame.captured_at + 0.9) <= 0
    assert feed.ready_in_s(frame.captured_at + 1.1) == math.inf
    assert feed.stats.dropped == 1


def test_paused_camera_is_shown_without_boxes_and_searched_again_when_resumed(color_detector: MakeDetector) -> None:
    out = Collector()
    feed = Feed("camera", SyntheticSource(64, 48, fps=100), [out])
    pipeline = LivePipeline([feed], color_detector((64, 48)), threading.Event())
    for delay_s, on in ((0.3, False), (0.7, True)):
        threading.Timer(delay_s, pipeline.set_detecting, ("camera", on)).start()
    pipeline.run(duration_s=1.0)
    found = [len(result.detections) for result in out.results]
    paused_from = max(index for index, count in enumerate(found) if count == 0 and index > 5)
    assert 3 in found[: found.index(0, 5)]  # before the pause
    assert found[5:].count(0) > 10
    assert found[paused_from + 1 :].count(3) > 5  # after it


def test_latency_is_from_taking_a_picture_to_publishing_what_was_found(color_detector: MakeDetector) -> None:
    feed = Feed("camera", SyntheticSource(64, 48, fps=100), [Collector()])
    LivePipeline([feed], color_detector((64, 48), delay_s=0.1), threading.Event()).run(duration_s=1)
    p50_s, p95_s = feed.latency.percentile(50), feed.latency.percentile(95)
    assert p50_s is not None
    assert p95_s is not None
    assert 0.1 < p50_s <= p95_s < 1
    assert sum(feed.latency.histogram.counts) == pytest.approx(feed.stats.inferred, abs=1)


def test_slow_inference_does_not_hold_up_the_end(color_detector: MakeDetector) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start_s = time.monotonic()
    feed = Feed("camera", SyntheticSource(fps=50))
    LivePipeline([feed], color_detector(delay_s=3), stop).run()
    assert time.monotonic() - start_s < 1.5
    assert count_abandoned() == 1
    for thread in threading.enumerate():
        if thread.name == "inference":
            thread.join()
    assert count_abandoned() == 0


# Publishers.


def test_failing_publisher_is_counted_logged_once_and_does_not_stop_the_others(
    color_detector: MakeDetector, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Collector("broken", fails=lambda result: result.frame.frame_id >= 3)
    sound = Collector("sound")
    stats = RecordedPipeline(
        Feed("camera", SyntheticSource(frames=10), [broken, sound]), color_detector(), threading.Event()
    ).run()
    assert (len(broken.results), len(sound.results)) == (3, 10)
    assert stats.publish_errors == 7
    assert len(caplog.records) == 1
    assert "broken: disk full" in caplog.text
