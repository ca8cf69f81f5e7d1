"""Trackers behind one small protocol; each package is imported only when its adapter is made."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections
from tools.track.scenes import SIZE_WH

Boxes = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

HIGH = 0.4
LOST_S = 2.0


class Adapter(Protocol):
    """A tracker for one scene."""

    def step(self, detections: Detections, at_s: float) -> tuple[Boxes, Ids]:
        """Take one inference's detections and return the (N, 4) boxes, xyxy pixels, and (N,) ids to show now."""
        ...


class Carrying(Protocol):
    """A tracker that can say where its objects are between two inferences; what others said last is kept."""

    def carried(self, at_s: float) -> tuple[Boxes, Ids]:
        """Return boxes and ids at a later moment than the last step's."""
        ...


class Ours:
    """edge_detector.tracking, without the help of optical flow."""

    def __init__(self, rate_hz: float) -> None:
        self._tracker = import_module("edge_detector.tracking.tracker").Tracker(min_hits=2, lost_s=LOST_S)

    def step(self, detections: Detections, at_s: float) -> tuple[Boxes, Ids]:
        """See Adapter."""
        self._tracker.update(detections, at_s)
        return self._shown()

    def carried(self, at_s: float) -> tuple[Boxes, Ids]:
        """See Carrying."""
        self._tracker.step(at_s)
        return self._shown()

    def _shown(self) -> tuple[Boxes, Ids]:
        objects = self._tracker.objects(SIZE_WH)
        return objects.xyxy.astype(np.float64), objects.tracker_id


class Yardstick:
    """tools/track/scipy_baseline.py."""

    def __init__(self, rate_hz: float, greedy: bool = False) -> None:
        self._tracker = import_module("tools.track.scipy_baseline").Baseline(HIGH, 2, LOST_S, greedy)

    def step(self, detections: Detections, at_s: float) -> tuple[Boxes, Ids]:
        """See Adapter."""
        self._tracker.update(detections, at_s)
        return self.carried(at_s)

    def carried(self, at_s: float) -> tuple[Boxes, Ids]:
        """See Carrying."""
        boxes, ids = self._tracker.objects(at_s)
        return boxes, ids


class Norfair:
    """Norfair with the IoU distance of its YOLO demos, called once per inference."""

    def __init__(self, rate_hz: float) -> None:
        self._norfair = import_module("norfair")
        self._tracker = self._norfair.Tracker(
            distance_function="iou",
            distance_threshold=0.7,
            hit_counter_max=max(2, round(LOST_S * rate_hz)),
            initialization_delay=1,
        )

    def step(self, detections: Detections, at_s: float) -> tuple[Boxes, Ids]:
        """See Adapter."""
        return _from_norfair(self._tracker.update(_to_norfair(self._norfair, detections)))


class NorfairPeriod:
    """Norfair called for each frame of a 30 fps camera, with `period` for the frames without an inference."""

    def __init__(self, rate_hz: float) -> None:
        self._norfair = import_module("norfair")
        self._tracker = self._norfair.Tracker(
            distance_function="iou",
            distance_threshold=0.7,
            hit_counter_max=round(LOST_S * 30),
            initialization_delay=max(1, round(30 / rate_hz)),
        )
        self._frame = self._detected = -max(1, round(30 / rate_hz))

    def step(self, detections: Detections, at_s: float) -> tuple[Boxes, Ids]:
        """See Adapter."""
        frame = round(at_s * 30)
        self.carried((frame - 1) / 30)
        period = frame - self._detected
        self._frame = self._detected = frame
        return _from_norfair(self._tracker.update(_to_norfair(self._norfair, detections), period=period))

    def carried(self, at_s: float) -> tuple[Boxes, Ids]:
        """See Carrying."""
        active = self._tracker.get_active_objects()
        while self._frame < round(at_s * 30):
            active = self._tracker.update()
            self._frame += 1
        return _from_norfair(active)


class Motpy:
    """Motpy with the motion model of its webcam example."""

    def __init__(self, rate_hz: float) -> None:
        self._motpy = import_module("motpy")
        lost_steps = max(2, round(LOST_S * rate_hz))
        self._tracker = self._motpy.MultiObjectTracker(
            dt=1 / rate_hz,
            model_spec={"order_pos": 1, "dim_pos": 2, "order_size": 0, "dim_size": 2, "q_var_pos": 5000.0},
            tracker_kwargs={"max_staleness": lost_steps},
            active_tracks_kwargs={"min_steps_alive": 2, "max_staleness": lost_steps},
        )
        self._numbers: dict[str, int] = {}

    def step(self, detections: Detections, at_s: float) -> tuple[Boxes, Ids]:
        """See Adapter."""
        strong = detections[detections.confidence >= HIGH]
        found = [
            self._motpy.Detection(box=box, score=float(score))
            for box, score in zip(strong.xyxy.astype(np.float64), strong.confidence, strict=True)
        ]
        tracks = self._tracker.step(found)
        numbers = [self._numbers.setdefault(track.id, len(self._numbers)) for track in tracks]
        return np.array([track.box for track in tracks]).reshape(-1, 4), np.array(numbers, np.int64)


class Roboflow:
    """A tracker of the package `trackers`, which takes a supervision.Detections."""

    def __init__(self, rate_hz: float, kind: str, timed: bool, strong_only: bool = False, **settings: Any) -> None:
        tracker_class = getattr(import_module("trackers"), kind)
        lost_frames = round(30 * LOST_S)  # "30 FPS frames", whatever the rate
        self._tracker = tracker_class(lost_track_buffer=lost_frames, frame_rate=rate_hz, **settings)
        self._timed, self._strong_only = timed, strong_only
        self._supervision = import_module("supervision")

    def step(self, detections: Detections, at_s: float) -> tuple[Boxes, Ids]:
        """See Adapter."""
        given = detections[detections.confidence >= HIGH] if self._strong_only else detections
        found = self._tracker.update(
            self._supervision.Detections(given.xyxy, confidence=given.confidence, class_id=given.class_id),
            timestamp=at_s if self._timed else None,
        )
        shown = found.tracker_id >= 0
        return found.xyxy[shown].astype(np.float64), found.tracker_id[shown]


class SupervisionByteTrack:
    """The ByteTrack that supervision had until 0.30."""

    def __init__(self, rate_hz: float) -> None:
        self._supervision = import_module("supervision")
        self._tracker = self._supervision.ByteTrack(
            track_activation_threshold=HIGH,
            lost_track_buffer=round(30 * LOST_S),
            frame_rate=rate_hz,
            minimum_consecutive_frames=2,
        )

    def step(self, detections: Detections, at_s: float) -> tuple[Boxes, Ids]:
        """See Adapter."""
        given = self._supervision.Detections(
            detections.xyxy, confidence=detections.confidence, class_id=detections.class_id
        )
        found = self._tracker.update_with_detections(given)
        return found.xyxy.astype(np.float64), found.tracker_id


class Nothing:
    """No tracker at all: the memory and time that the comparison itself takes."""

    def __init__(self, rate_hz: float) -> None:
        pass

    def step(self, detections: Detections, at_s: float) -> tuple[Boxes, Ids]:
        """See Adapter."""
        strong = detections[detections.confidence >= HIGH]
        return strong.xyxy.astype(np.float64), np.arange(len(strong))


def _to_norfair(norfair: Any, detections: Detections) -> list[Any]:
    strong = detections[detections.confidence >= HIGH]
    return [norfair.Detection(points=box.reshape(2, 2)) for box in strong.xyxy.astype(np.float64)]


def _from_norfair(objects: list[Any]) -> tuple[Boxes, Ids]:
    boxes = np.array([tracked.estimate.reshape(4) for tracked in objects]).reshape(-1, 4)
    return boxes, np.array([tracked.id for tracked in objects], np.int64)
