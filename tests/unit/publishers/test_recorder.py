from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Event, ObjectState
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import open_publisher, tape, worker
from edge_detector.publishers.clips import Clips
from edge_detector.publishers.recorder import Recorder, open_clips
from edge_detector.sink_config import RecordingsConfig

av = pytest.importorskip("av", reason="needs PyAV")

MakeResult = Callable[..., FrameResult]
MakeObject = Callable[..., ObjectState]
LimitFiles = Callable[[int], AbstractContextManager[None]]
WaitUntil = Callable[..., None]
LABELS = ("person", "cat")
WALL_TS = 1700000000.0
FPS = 10.0


class Camera:
    """A recorder and a camera's results for it, at times that the test tells, in seconds from its beginning."""

    def __init__(self, folder: Path, make_result: MakeResult, make_object: MakeObject, **settings: Any) -> None:
        from edge_detector.publishers.clip import Clip

        quick = {"pre_roll_s": 1.0, "post_roll_s": 1.0, "overlay": False, "fps": FPS}
        config = RecordingsConfig(path=str(folder), **{**quick, **settings})
        self.clips = open_clips(config)
        self.recorder = Recorder(config, LABELS, OverlayRenderer(LABELS), self.clips, Clip)
        self.at_s = 0.0
        self._make_result = make_result
        self._make_object = make_object
        self._origin_s = time.monotonic() + 1000  # so that nothing is over while it runs

    def show(
        self, seconds: float, *, step_s: float = 0.1, size_wh: tuple[int, int] = (160, 120), **result: Any
    ) -> None:
        """Show pictures whose brightness tells when they were taken: 2 for each tenth of a second, from 20 on."""
        for _ in range(round(seconds / step_s)):
            shade = 20 + round(20 * self.at_s) % 230
            made = self._make_result(result.pop("boxes", []), size_wh=size_wh, color=shade, **result)
            frame = replace(
                made.frame, captured_at=self._origin_s + self.at_s, wall_time=WALL_TS + self.at_s, frame_id=0
            )
            self.recorder.write(replace(made, camera="front", frame=frame))
            self.at_s += step_s

    def tell(self, kind: Any, object_id: str = "o1", **fields: Any) -> None:
        fields = {"start_ts": WALL_TS + self.at_s, **fields}
        self.recorder.write_event(Event(kind, self._make_object(object_id, ended=kind == "end", **fields)))


@pytest.fixture
def camera(tmp_path: Path, make_result: MakeResult, make_object: MakeObject) -> Iterator[Callable[..., Camera]]:
    opened: list[Camera] = []

    def make(folder: str = "clips", **settings: Any) -> Camera:
        opened.append(Camera(tmp_path / folder, make_result, make_object, **settings))
        return opened[-1]

    yield make
    for one in opened:
        one.recorder.finish(True)


def decode(path: Path | None) -> tuple[list[float], list[float], Any]:
    """Return times from the beginning, brightness of all pictures, and the last picture."""
    assert path is not None
    times, shades, image = [], [], None
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="rgb24")
            times.append(float(frame.pts * frame.time_base))
            shades.append(float(image[:20, :20].mean()))
    return times, shades, image


def all_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_clip_begins_before_the_object_and_ends_after_it(camera: Callable[..., Camera]) -> None:
    front = camera()
    front.show(5)
    front.tell("new")
    front.show(2)
    front.tell("end")
    front.show(3)
    ((clip),) = front.clips.list_clips()
    times, shades, _ = decode(front.clips.clip_path(clip["id"]))
    assert clip["start_ts"] == pytest.approx(WALL_TS + 4.0, abs=0.11)
    assert clip["end_ts"] == pytest.approx(WALL_TS + 7.9, abs=0.11)
    assert clip["end_ts"] - clip["start_ts"] == pytest.approx(times[-1], abs=0.002)
    np.testing.assert_allclose(np.diff(times), 0.1, atol=0.001)
    expected = 20 + 20 * (clip["start_ts"] - WALL_TS + np.array(times))
    np.testing.assert_allclose(shades, expected, atol=4)


def test_object_that_is_told_late_is_recorded_from_before_it_was_seen(camera: Callable[..., Camera]) -> None:
    front = camera()
    front.show(8)
    front.tell("new", start_ts=WALL_TS + 5.0)
    front.show(1)
    assert front.clips.list_clips()[0]["start_ts"] == pytest.approx(WALL_TS + 4.0, abs=0.11)


def test_slow_board_records_a_clip_to_its_end(camera: Callable[..., Camera]) -> None:
    from edge_detector.publishers.clip import Clip

    class Slow(Clip):
        def add(self, *picture: Any) -> None:
            time.sleep(0.04)
            super().add(*picture)

    front = camera(pre_roll_s=5.0)
    front.recorder._open_clip = Slow
    front._origin_s -= 2000  # all is long over
    front.show(4)
    front.tell("new")
    front.tell("end")
    for _ in range(100):
        front.recorder.rest()
        if front.clips.list_clips() and front.clips.list_clips()[0]["end_ts"] is not None:
            break
    ((clip),) = front.clips.list_clips()
    times, shades, _ = decode(front.clips.clip_path(clip["id"]))
    assert len(times) == 40
    assert shades[-1] == pytest.approx(20 + 2 * 39, abs=4)
    assert clip["end_ts"] - clip["start_ts"] == pytest.approx(3.9, abs=0.01)


def test_clip_goes_on_for_another_object_and_names_all(camera: Callable[..., Camera]) -> None:
    front = camera()
    front.show(1)
    front.tell("new", "o1")
    front.show(1)
    front.tell("end", "o1")
    front.show(0.5)
    front.tell("new", "o2", label="cat")
    (running,) = front.clips.list_clips()
    assert running["end_ts"] is None
    front.show(2)
    front.tell("end", "o2", label="cat")
    front.show(2)
    (clip,) = front.clips.list_clips()
    assert (clip["objects"], clip["labels"], clip["camera"]) == (["o1", "o2"], ["cat", "person"], "front")
    path = front.clips.clip_path(clip["id"])
    assert path is not None
    assert json.loads(path.with_suffix(".json").read_bytes()) == clip
    assert clip["bytes"] == path.stat().st_size
    assert (clip["width"], clip["height"]) == (160, 120)


def test_long_clips_are_split_without_a_gap(camera: Callable[..., Camera]) -> None:
    front = camera(max_clip_s=3.0)
    front.tell("new")
    front.show(8)
    front.tell("end")
    front.show(2)
    clips = front.clips.list_clips()[::-1]
    shades = [shade for clip in clips for shade in decode(front.clips.clip_path(clip["id"]))[1]]
    assert [round(clip["start_ts"] - WALL_TS, 1) for clip in clips] == [0, 3, 6]
    assert all(clip["objects"] == ["o1"] for clip in clips)
    np.testing.assert_allclose(shades, 20 + 2 * np.arange(len(shades)), atol=4)


def test_pictures_keep_their_times_when_the_camera_stutters(camera: Callable[..., Camera]) -> None:
    front = camera(fps=100.0)
    front.tell("new")
    front.show(0.5)
    front.at_s += 2.5
    front.show(0.6, step_s=0.3)
    front.recorder.finish(True)
    (clip,) = front.clips.list_clips()
    times, _, _ = decode(front.clips.clip_path(clip["id"]))
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 3.0, 3.3], abs=0.002)


def test_rate_is_limited(camera: Callable[..., Camera]) -> None:
    front = camera(fps=5.0)
    front.tell("new")
    front.show(4, step_s=0.04)
    front.recorder.finish(True)
    (clip,) = front.clips.list_clips()
    assert len(decode(front.clips.clip_path(clip["id"]))[0]) == pytest.approx(20, abs=1)


def test_change_of_size_begins_a_new_clip_and_sides_are_even(camera: Callable[..., Camera]) -> None:
    front = camera(max_width=320)
    front.tell("new")
    front.show(1, size_wh=(161, 121))
    front.show(1, size_wh=(1280, 720))
    front.recorder.finish(True)
    sizes = [decode(front.clips.clip_path(clip["id"]))[2].shape for clip in front.clips.list_clips()[::-1]]
    assert sizes == [(120, 160, 3), (180, 320, 3)]


@pytest.mark.parametrize("overlay", [True, False])
def test_boxes_are_drawn_where_wanted_also_on_smaller_pictures(camera: Callable[..., Camera], overlay: bool) -> None:
    front = camera(overlay=overlay, max_width=320)
    front.show(0.5, size_wh=(640, 480), boxes=[(320, 240, 600, 440)])
    front.tell("new")
    front.show(0.5, size_wh=(640, 480))
    front.recorder.finish(True)
    (clip,) = front.clips.list_clips()
    path = front.clips.clip_path(clip["id"])
    assert path is not None
    with av.open(str(path)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    left_edge = np.abs(first[150:210, 158:163] - first[150, 230]).max()
    assert bool(left_edge > 60) == overlay


def test_only_wanted_objects_and_cameras_are_recorded(camera: Callable[..., Camera]) -> None:
    front = camera(labels=["cat"], min_score=0.8)
    front.show(1)
    front.tell("new", "o1", label="person")
    front.tell("new", "o2", label="cat", top_score=0.7)
    front.show(1)
    assert front.clips.list_clips() == []
    front.tell("update", "o2", label="cat", top_score=0.85)
    front.show(1)
    assert [clip["objects"] for clip in front.clips.list_clips()] == [["o2"]]
    back = camera("other", cameras=["back"])
    back.show(1)
    back.tell("new")
    back.show(1)
    assert back.clips.list_clips() == []
    assert all(not kept._pictures for kept in back.recorder._tapes.values())


def test_clips_are_listed_newest_first_by_what_is_asked(camera: Callable[..., Camera]) -> None:
    front = camera(pre_roll_s=0.0, post_roll_s=0.0)
    for number in range(3):
        front.tell("new", f"o{number}")
        front.show(1)
        front.tell("end", f"o{number}")
        front.show(1)

    def listed(**wanted: Any) -> list[str]:
        return [clip["objects"][0] for clip in front.clips.list_clips(**wanted)]

    assert listed() == ["o2", "o1", "o0"]
    assert listed(limit=1) == ["o2"]
    assert listed(limit=-1) == []
    assert listed(object_id="o1") == ["o1"]
    assert listed(camera="back") == []
    assert listed(after=WALL_TS + 1, before=WALL_TS + 3) == ["o1"]
    again = camera()
    assert again.clips.list_clips() == front.clips.list_clips()


@pytest.mark.parametrize("clip_id", ["", "..", "../../etc/passwd", "/etc/passwd", "front-1", "front", "\0", "x" * 9999])
def test_unknown_ids_are_no_paths(camera: Callable[..., Camera], clip_id: str) -> None:
    front = camera()
    front.tell("new")
    front.show(0.5)
    assert front.clips.clip_path(clip_id) is None


def test_clip_that_somebody_deleted_has_no_path(camera: Callable[..., Camera]) -> None:
    front = camera()
    front.tell("new")
    front.show(0.5)
    front.recorder.finish(True)
    (clip,) = front.clips.list_clips()
    path = front.clips.clip_path(clip["id"])
    assert path is not None
    path.unlink()
    assert front.clips.clip_path(clip["id"]) is None


def test_memory_of_what_is_kept_is_bounded_and_that_is_said_once(
    camera: Callable[..., Camera], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    front = camera(pre_roll_s=1.0)
    front.show(10)
    assert caplog.text == ""
    monkeypatch.setattr(tape, "KEPT_BYTES", 10_000)
    front = camera(pre_roll_s=60.0)
    front.show(10)
    assert caplog.text.count("clips of front lack pictures") == 1
    kept = front.recorder._tapes["front"]
    sizes = [len(picture.jpeg) for picture in kept._pictures]
    assert 5000 < sum(sizes) == kept._bytes <= 10_000


def test_oldest_clips_go_with_what_is_beside_them_and_nothing_else(
    tmp_path: Path, camera: Callable[..., Camera]
) -> None:
    now, day = time.time(), tmp_path / "clips" / "front" / "2024-01-31"
    day.mkdir(parents=True)
    for age_days, stem in [(8, "100000_cat_1706691600000"), (6, "100001_cat_1706691601000")]:
        end = {
            "id": f"front-{stem[-13:]}",
            "camera": "front",
            "start_ts": 1.0,
            "end_ts": 2.0,
            "objects": [],
            "labels": [],
        }
        for name, content in ((f"{stem}.mp4", b"x" * 50_000), (f"{stem}.json", json.dumps(end).encode())):
            (day / name).write_bytes(content)
            os.utime(day / name, (now - age_days * 86400,) * 2)
    (day / "holiday.mp4").write_bytes(b"x" * 50_000)
    front = camera(max_mb=0.06)
    assert all_files(day) == ["100001_cat_1706691601000.json", "100001_cat_1706691601000.mp4", "holiday.mp4"]
    for _ in range(2):
        front.tell("new")
        front.show(20)
        front.tell("end")
        front.show(4)
    assert all_files(day) == ["holiday.mp4"]
    assert [clip["objects"] for clip in front.clips.list_clips()] in ([["o1"]], [["o1"], ["o1"]])


def test_full_disk_ends_the_clip_and_recording_goes_on_when_there_is_room(
    tmp_path: Path,
    make_result: MakeResult,
    make_object: MakeObject,
    limit_files: LimitFiles,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tape, "RETRY_S", 0.3)
    monkeypatch.setattr(worker, "SURE_S", 0.5)
    settings = RecordingsConfig(path=str(tmp_path), pre_roll_s=0.5, post_roll_s=0.2, fps=100.0)
    clips = open_clips(settings)
    publisher: Any = open_publisher(
        "recordings", settings=settings, labels=LABELS, overlay=OverlayRenderer(LABELS), clips=clips
    )
    rng = np.random.default_rng(0)

    def show(until: Callable[[], bool], limit_s: float = 20.0) -> None:
        deadline_s = time.monotonic() + limit_s
        while not until():
            assert time.monotonic() < deadline_s
            made = make_result()
            noise = rng.integers(0, 255, made.frame.image.shape, np.uint8)
            publisher.publish(replace(made, frame=replace(made.frame, image=noise)))
            time.sleep(0.02)

    publisher.publish_event(Event("new", make_object(camera="camera")))
    show(lambda: any(path.stat().st_size > 100_000 for path in tmp_path.rglob("*.mp4")))
    with limit_files(20_000):  # less than a fragment
        show(lambda: publisher.failed >= 3)
    show(lambda: "works again after" in caplog.text)
    publisher.publish_event(Event("end", make_object(camera="camera", ended=True)))
    publisher.close()
    assert caplog.text.count("it is tried again with what comes next") == 1
    assert caplog.text.count("works again after") == 1
    found = clips.list_clips()
    assert len(found) == 2
    assert all(clip["end_ts"] is not None for clip in found)
    for clip in found:
        times, _, _ = decode(clips.clip_path(clip["id"]))
        assert len(times) > 5
    assert sorted(all_files(tmp_path)) == sorted(
        f"{stem}{suffix}" for stem in stems(clips) for suffix in (".mp4", ".json")
    )


def stems(clips: Clips) -> list[str]:
    paths = (clips.clip_path(clip["id"]) for clip in clips.list_clips())
    return [path.stem for path in paths if path is not None]


def test_clip_of_a_camera_that_gives_no_more_pictures_is_ended(
    tmp_path: Path, make_result: MakeResult, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    settings = RecordingsConfig(path=str(tmp_path), pre_roll_s=0.0, post_roll_s=0.1)
    clips = open_clips(settings)
    publisher: Any = open_publisher(
        "recordings", settings=settings, labels=LABELS, overlay=OverlayRenderer(LABELS), clips=clips
    )
    publisher.publish_event(Event("new", make_object(camera="camera")))
    publisher.publish(make_result())
    publisher.publish_event(Event("end", make_object(camera="camera", ended=True)))
    wait_until(lambda: [clip["end_ts"] is not None for clip in clips.list_clips()] == [True])
    with closing(publisher):
        ((clip),) = clips.list_clips()
        assert len(decode(clips.clip_path(clip["id"]))[0]) == 1


# Records for ever, with times that go on as quickly as it can; told its folder.
RECORDER = """
import sys, time
import numpy as np
from edge_detector.detections import Detections
from edge_detector.events import Event, ObjectState
from edge_detector.frame import Frame, FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.clip import Clip
from edge_detector.publishers.recorder import Recorder, open_clips
from edge_detector.sink_config import RecordingsConfig

settings = RecordingsConfig(path=sys.argv[1], pre_roll_s=0.0, max_clip_s=100000.0)
recorder = Recorder(settings, ("person",), OverlayRenderer(("person",)), open_clips(settings), Clip)
box = (0.0, 0.0, 1.0, 1.0)
recorder.write_event(Event("new", ObjectState("o1", "front", 1, "person", 0.9, 0.9, box, box, 0.0, 0.0)))
start_s, rng = time.monotonic() + 1000, np.random.default_rng(0)
for number in range(10**9):
    image = rng.integers(0, 255, (120, 160, 3), np.uint8)
    frame = Frame(image, number, start_s + number / 10, 1700000000.0 + number / 10, "clip")
    recorder.write(FrameResult(frame, Detections.empty(), None, camera="front"))
"""


@pytest.mark.parametrize("enough_bytes", [400_000, 1_234_567])
def test_kill_loses_a_second_at_most_and_the_next_start_ends_the_clip(
    tmp_path: Path, repository: Path, camera: Callable[..., Camera], enough_bytes: int
) -> None:
    folder = tmp_path / "clips"
    command = [sys.executable, "-c", RECORDER, str(folder)]
    with subprocess.Popen(command, cwd=repository, env={**os.environ, "PYTHONPATH": str(repository)}) as child:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            videos = list(folder.rglob("*.mp4"))
            if videos and videos[0].stat().st_size > enough_bytes:
                break
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
    (video,) = folder.rglob("*.mp4")
    left = video.stat().st_size
    assert left > enough_bytes
    before, _, _ = decode(video)
    front = camera()
    (clip,) = front.clips.list_clips()
    times, _, _ = decode(front.clips.clip_path(clip["id"]))
    assert times == before
    np.testing.assert_allclose(np.diff(times), 0.1, atol=0.001)
    assert clip["end_ts"] == pytest.approx(clip["start_ts"] + times[-1], abs=0.01)
    assert clip["objects"] == ["o1"]
    per_second = video.stat().st_size / (times[-1] + 0.1)
    assert left - video.stat().st_size < 2 * per_second
    assert camera().clips.list_clips() == [clip]


@pytest.mark.parametrize("cut", [0, 30, 700, 1000])
def test_clip_of_which_nothing_plays_is_deleted_after_a_kill(camera: Callable[..., Camera], cut: int) -> None:
    front = camera()
    front.tell("new")
    front.show(0.5)
    (clip,) = front.clips.list_clips()
    path = front.clips.clip_path(clip["id"])
    assert path is not None
    copy = path.read_bytes()[:cut]
    shape = path.with_suffix(".json").read_bytes()
    front.recorder.finish(True)
    path.write_bytes(copy)
    path.with_suffix(".json").write_bytes(shape)
    assert camera().clips.list_clips() == []
    assert not path.exists()
    assert not path.with_suffix(".json").exists()


@pytest.mark.parametrize("spoilt", [None, b"", b"\0" * 100, b"[]", b'{"id": "x"}'])
def test_clip_whose_json_a_power_cut_has_spoilt_is_found_by_its_name(
    camera: Callable[..., Camera], spoilt: bytes | None
) -> None:
    front = camera()
    front.tell("new")
    front.show(3)
    front.recorder.finish(True)
    (clip,) = front.clips.list_clips()
    path = front.clips.clip_path(clip["id"])
    assert path is not None
    path.with_suffix(".json").unlink()
    if spoilt is not None:
        path.with_suffix(".json").write_bytes(spoilt)
    (found,) = camera().clips.list_clips()
    kept = ("id", "camera", "start_ts", "labels", "bytes")
    assert {key: found[key] for key in kept} == {key: clip[key] for key in kept}
    assert found["end_ts"] == pytest.approx(clip["end_ts"], abs=0.01)


def test_clip_that_cannot_be_begun_for_whatever_reason_leaves_nothing(
    camera: Callable[..., Camera], tmp_path: Path
) -> None:
    def open_clip(path: Path, *settings: Any) -> Any:
        path.write_bytes(b"half")
        raise RuntimeError("a defect")

    front = camera()
    front.recorder._open_clip = open_clip
    front.tell("new")
    with pytest.raises(RuntimeError, match="a defect"):
        front.show(0.1)
    assert front.clips.list_clips() == []
    assert all_files(tmp_path) == []


def test_value_that_the_encoder_does_not_take_is_a_publish_error(tmp_path: Path) -> None:
    from edge_detector.publishers.clip import Clip

    with pytest.raises(PublishError, match=r"cannot write .*clip\.mp4"):
        Clip(tmp_path / "clip.mp4", (64, 48), float("nan"))  # a ValueError, as also of an encoder that is missing


def test_camera_whose_clip_cannot_be_ended_keeps_no_other_from_its_end(
    camera: Callable[..., Camera], make_object: MakeObject, make_result: MakeResult
) -> None:
    from edge_detector.publishers.clip import Clip

    class Full(Clip):
        full = False

        def add(self, *picture: Any) -> None:
            if "/front/" in str(self._path):
                if self.full:
                    raise OSError(28, "No space left on device")
                time.sleep(0.05)  # so that some are left
            super().add(*picture)

    front = camera(pre_roll_s=3.0)
    front.recorder._open_clip = Full
    front.show(3)
    front.tell("new")
    front.show(0.5)
    front.recorder.write_event(Event("new", make_object("o2", camera="back")))
    front.recorder.write(replace(make_result(), camera="back"))
    Full.full = True
    with pytest.raises(OSError, match="No space left"):
        front.recorder.finish(True)
    assert {clip["camera"]: clip["end_ts"] is not None for clip in front.clips.list_clips()} == {
        "front": True,
        "back": True,
    }


def test_clip_for_which_there_is_no_room_is_not_listed(
    camera: Callable[..., Camera], limit_files: LimitFiles, tmp_path: Path
) -> None:
    front = camera()
    with limit_files(10):
        front.tell("new")
        with pytest.raises(OSError, match="File too large"):
            front.show(0.1)
    assert front.clips.list_clips() == []
    assert all_files(tmp_path) == []


def test_missing_library_is_an_error_that_says_what_to_install(tmp_path: Path, repository: Path) -> None:
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from edge_detector.publishers.recorder import open_clips\n"
        "from edge_detector.sink_config import RecordingsConfig\n"
        "open_clips(RecordingsConfig(path=sys.argv[1]))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=repository)
    assert (
        "PublishError: recordings need PyAV, which is not installed: pip install 'edge-detector[stream]'" in ran.stderr
    )


def test_folder_that_cannot_be_written_to_is_a_publish_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match=r"Not a directory; choose another folder"):
        open_clips(RecordingsConfig(path=str(tmp_path / "file" / "x")))
