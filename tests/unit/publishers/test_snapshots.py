from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event, ObjectState
from edge_detector.frame import FrameResult
from edge_detector.publishers import open_publisher, worker
from edge_detector.publishers.snapshots import Snapshots
from edge_detector.publishers.worker import QueuedBoth
from edge_detector.sink_config import SnapshotsConfig

MakeResult = Callable[..., FrameResult]
MakeObject = Callable[..., ObjectState]
LimitFiles = Callable[[int], AbstractContextManager[None]]
WaitUntil = Callable[..., None]
LABELS = ("person", "cat")
BOX = (40, 30, 80, 90)


def opened(folder: Path, **settings: Any) -> QueuedBoth:
    return open_publisher("snapshots", settings=SnapshotsConfig(path=str(folder), **settings), labels=LABELS)  # type: ignore[return-value]


def seen(make_result: MakeResult, color: int, boxes: Sequence[Sequence[float]] = (BOX,), age_s: float = 0) -> Any:
    made = make_result(boxes, color=color, tracker_ids=range(1, len(boxes) + 1))
    return replace(made, camera="front", ages_s=np.full(len(boxes), age_s, np.float32), zones=[()] * len(boxes))


def pictures(folder: Path) -> dict[str, Any]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): cv2.imread(str(path)) for path in paths}


def end(make_object: MakeObject, **fields: Any) -> Event:
    return Event("end", make_object(ended=True, **fields))


def test_best_whole_picture_is_written_when_the_object_ends(
    tmp_path: Path, make_result: MakeResult, make_object: MakeObject
) -> None:
    with closing(opened(tmp_path)) as publisher:
        publisher.publish(seen(make_result, 10, [(40, 30, 60, 60)]))
        publisher.publish(seen(make_result, 50))  # larger
        publisher.publish(seen(make_result, 90, age_s=5.0))  # carried along, not found
        publisher.publish(seen(make_result, 130, [(0, 0, 42, 64)]))  # cut by the edge
        assert pictures(tmp_path) == {}
        publisher.publish_event(end(make_object))
    day, clock = time.strftime("%Y-%m-%d %H%M%S", time.localtime(1700000000)).split()
    ((name, picture),) = pictures(tmp_path).items()
    assert name == f"front/{day}/{clock}_person_front-1.jpg"
    assert picture.shape == (120, 160, 3)
    assert picture.mean() == pytest.approx(50, abs=2)


def test_crop_is_the_object_with_its_surroundings_in_full_size(
    tmp_path: Path, make_result: MakeResult, make_object: MakeObject
) -> None:
    with closing(opened(tmp_path, crop=True)) as publisher:
        publisher.publish(seen(make_result, 50))
        publisher.publish_event(end(make_object))
    (picture,) = pictures(tmp_path).values()
    assert picture.shape == (60 + 2 * 24, 40 + 2 * 24, 3)


def test_alert_writes_at_once_and_the_end_what_is_better(
    tmp_path: Path, make_result: MakeResult, make_object: MakeObject, wait_until: WaitUntil
) -> None:
    with closing(opened(tmp_path)) as publisher:
        publisher.publish(seen(make_result, 50, [(40, 30, 60, 60)]))
        publisher.publish_event(Alert("visit", 1.0, make_object()))
        wait_until(lambda: len(pictures(tmp_path)) == 1)
        publisher.publish(seen(make_result, 200))
        publisher.publish_event(end(make_object))
    (picture,) = pictures(tmp_path).values()
    assert picture.mean() == pytest.approx(200, abs=2)


def test_picture_of_the_event_stands_in_where_no_result_came(tmp_path: Path, make_object: MakeObject) -> None:
    with closing(opened(tmp_path)) as publisher:
        publisher.publish_event(replace(end(make_object), snapshot=np.full((20, 30, 3), 70, np.uint8)))
        publisher.publish_event(end(make_object, object_id="none", track_id=2))
    (picture,) = pictures(tmp_path).values()
    assert picture.shape == (20, 30, 3)


def test_only_wanted_objects_are_written(tmp_path: Path, make_result: MakeResult, make_object: MakeObject) -> None:
    with closing(opened(tmp_path, labels=["cat"], min_score=0.7)) as publisher:
        for number, (label, score) in enumerate([("cat", 0.9), ("cat", 0.6), ("person", 0.9)], 1):
            state = make_object(f"o{number}", track_id=number, label=label, top_score=score)
            result = seen(make_result, 50, [BOX] * number)
            found = replace(result.detections, class_id=np.full(number, LABELS.index(label)))
            publisher.publish(replace(result, detections=found))
            publisher.publish_event(Event("end", state))
    assert [name.rpartition("_")[2] for name in pictures(tmp_path)] == ["o1.jpg"]


def test_object_that_is_small_when_it_leaves_is_written_as_it_was(
    tmp_path: Path, make_result: MakeResult, make_object: MakeObject
) -> None:
    with closing(opened(tmp_path, min_area=2000.0)) as publisher:
        small: dict[str, Any] = {"box": (60.0, 50.0, 70.0, 60.0), "box_norm": (0.375, 0.42, 0.44, 0.5)}
        publisher.publish(seen(make_result, 50))
        publisher.publish(seen(make_result, 90, [(60, 50, 70, 60)]))
        publisher.publish_event(end(make_object, **small))
        publisher.publish(seen(make_result, 130, [BOX, (60, 50, 70, 60)]))
        publisher.publish_event(end(make_object, object_id="o2", track_id=2, **small))
    (picture,) = pictures(tmp_path).values()
    assert picture.mean() == pytest.approx(50, abs=2)


def test_odd_labels_stay_in_the_folder(tmp_path: Path, make_result: MakeResult, make_object: MakeObject) -> None:
    with closing(opened(tmp_path)) as publisher:
        publisher.publish(seen(make_result, 50))
        publisher.publish_event(end(make_object, label="../../étoile / " + "x" * 99))
    (name,) = pictures(tmp_path)
    assert len(name.split("/")) == 3
    assert "_.._.._étoile_xxx" in name


def test_oldest_pictures_of_ours_make_room_and_no_other_file(
    tmp_path: Path, make_result: MakeResult, make_object: MakeObject
) -> None:
    now, day = time.time(), tmp_path / "front" / "2024-01-31"
    day.mkdir(parents=True)
    for age_days, name in [(40, "100000_cat_a.jpg"), (40, "holiday.jpg"), (3, "100001_cat_b.jpg"), (2, "100002_x.png")]:
        (day / name).write_bytes(b"x" * 9000)
        os.utime(day / name, (now - age_days * 86400,) * 2)
    (tmp_path / "100000_cat_a.jpg").write_bytes(b"a picture of somebody's")
    (day / ".0123456789abcdef0123456789abcdef.part").write_bytes(b"half")
    with closing(opened(tmp_path, max_mb=0.01)) as publisher:
        assert sorted(path.name for path in day.iterdir()) == ["100001_cat_b.jpg", "100002_x.png", "holiday.jpg"]
        for number in (1, 2):
            publisher.publish(seen(make_result, 50, [BOX] * number))
            publisher.publish_event(end(make_object, object_id=f"o{number}", track_id=number))
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name in names if "front" not in name and "_person_" not in name] == [
        "100000_cat_a.jpg",
        "100002_x.png",
        "holiday.jpg",
    ]
    assert sum("_person_" in name for name in names) == 2


def test_full_disk_is_outlived_and_said_once(
    tmp_path: Path,
    make_result: MakeResult,
    make_object: MakeObject,
    limit_files: LimitFiles,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(worker, "SURE_S", 0.0)
    publisher = opened(tmp_path)
    with limit_files(100):
        for number in range(1, 4):
            publisher.publish(seen(make_result, 50, [BOX] * number))
            publisher.publish_event(end(make_object, object_id=f"o{number}", track_id=number))
        wait_until(lambda: publisher.failed == 3)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    publisher.publish(seen(make_result, 50, [BOX] * 4))
    publisher.publish_event(end(make_object, object_id="o4", track_id=4))
    publisher.close()
    assert [name.rpartition("_")[2] for name in pictures(tmp_path)] == ["o4.jpg"]
    assert caplog.text.count("it is tried again with what comes next") == 1
    assert caplog.text.count("works again after") == 1


def test_memory_is_bounded(tmp_path: Path, make_result: MakeResult) -> None:
    sink = Snapshots(SnapshotsConfig(path=str(tmp_path)), LABELS)
    sink.write(seen(make_result, 50, [BOX] * 500))
    assert len(sink._best) == 200


def test_folder_that_cannot_be_written_to_is_a_publish_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match=r"cannot write to .*file/x: Not a directory; choose another folder"):
        opened(tmp_path / "file" / "x")
