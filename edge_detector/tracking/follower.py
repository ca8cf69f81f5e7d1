"""Follower: all that is known of the objects in front of one camera, picture by picture."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.config import FeedConfig
from edge_detector.detections import Detections
from edge_detector.events import Alert, Direction, EndReason, Event
from edge_detector.frame import Frame
from edge_detector.object_config import RuleConfig
from edge_detector.tracking.event_book import EventBook
from edge_detector.tracking.filters import ObjectFilter, min_scores
from edge_detector.tracking.flow import Luma, displacements, to_luma
from edge_detector.tracking.motion_gate import MotionGate, Movement
from edge_detector.tracking.polygons import to_fractions
from edge_detector.tracking.regions import Region, Regions, whole_in
from edge_detector.tracking.rules import Rules
from edge_detector.tracking.tracker import Looked, Tracker
from edge_detector.tracking.zones import Lines, Presence, Zones

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

LEAVE = 0.75  # an object goes on with scores from this part of the threshold on, unless the settings say so
_LUMAS = 300  # small pictures that are kept for results that come late
_SHORT_LOOK_S = 0.5  # for so long the scene is searched at the full rate after what may be a mere flicker
_SLOW = 0.1  # of an object's size, per second
_FLOW_GAP_S = 1.0  # after a longer gap, optical flow is not asked
_NOWHERE = np.zeros((0, 4))


@dataclass(frozen=True, slots=True)
class FollowerOptions:
    """What the followers of all cameras have in common.

    Attributes:
        labels: of the model, by class id.
        threshold: score from which on a detection begins an object, unless the settings say so.
        canvas_wh: size of the model's input in pixels.
        rules: what alerts are given for.
        update_s: an object that stays is told anew this often.
        run_id: makes the ids of objects unique over starts of the program.
        on_size: is called with the camera's name and the size of its first picture, and raises `ConfigError` if the
            settings do not fit it.
    """

    labels: Sequence[str]
    threshold: float
    canvas_wh: tuple[int, int] = (640, 640)
    rules: Mapping[str, RuleConfig] | None = None
    update_s: float = 10.0
    run_id: str = ""
    on_size: Callable[[str, tuple[int, int]], None] = lambda camera, size_wh: None


class Follower:
    """Follows the objects of one camera between inferences, and says when and where to search. Used by one thread only.

    Every picture goes to `look`, in the order in which they were taken; if `wants_search` then says so, it is to be
    searched, and what was found goes to `found`, sooner or later. `objects` is where everything is now, `take_events`
    what has happened.

    Raises:
        ConfigError: at the first picture, if zones, lines or masks lie outside of it.
    """

    def __init__(self, camera: str, config: FeedConfig, options: FollowerOptions) -> None:
        self.still = False
        self._out_of_order = False
        self._camera = camera
        self._config = config
        self._options = options
        self._tracking = config.tracking.enabled
        self._leave = LEAVE if self._tracking else 1.0
        self._floor_s = min(config.motion.floor_s, config.max_age_s / 2)  # what is older is not shown any more
        self._regions = Regions(config.regions, options.canvas_wh)
        self._at_s = -math.inf
        self._moved_s = -math.inf
        self._asked_s = -math.inf
        self._movement = Movement(_NOWHERE)
        self._raw = Detections.empty()
        self._lumas: deque[tuple[float, Luma]] = deque(maxlen=_LUMAS)
        self._size_wh = (0, 0)  # of the first picture, which coordinates refer to

    @property
    def lowest_score(self) -> float:
        """The score below which no detection is of use."""
        return min(min_scores(self._config.objects, self._options.labels, self._leave, self._options.threshold))

    @property
    def line_counts(self) -> Mapping[str, Mapping[Direction, int]]:
        """Objects that went over each line, "in" and "out"."""
        return self._book.line_counts if self._size_wh != (0, 0) else {}

    def look(self, frame: Frame) -> bool:
        """Take the next picture; return False for one that is not newer than the last, which is left out."""
        at_s = frame.captured_at
        if at_s <= self._at_s:
            if not self._out_of_order:
                logger.warning("%s: pictures come out of order; those that are late are not searched", self._camera)
            self._out_of_order = True
            return False
        if self._size_wh == (0, 0):
            self._begin(frame.size_wh)
        luma = to_luma(frame.image)
        moved = bool(self._movement)
        if self._config.motion.enabled:
            self._movement = self._gate.look(luma, at_s)
        if self._tracking:
            if self._lumas and self._lumas[-1][1].shape != luma.shape:
                self._tracker.rescale(np.divide(luma.shape[::-1], self._lumas[-1][1].shape[::-1]))
                self._lumas.clear()
            self._tracker.step(at_s, self._shift_xy(luma, at_s))
            self._lumas.append((at_s, luma))
        self._at_s = at_s
        if (self._movement and moved and not self._movement.new_scene) or not self._config.motion.enabled:
            self._moved_s = at_s
        elif self._movement:  # in one picture only so far, or everywhere: a short look is enough
            self._moved_s = max(self._moved_s, at_s - self._config.motion.hold_s + _SHORT_LOOK_S)
        self.still = at_s - self._moved_s > self._config.motion.hold_s
        return True

    def wants_search(self) -> bool:
        """Return whether the picture looked at last is worth an inference; call it once per picture."""
        due = self._at_s - self._asked_s >= self._floor_s
        if self.still and not due and not self._is_in_doubt():
            return False
        self._asked_s = self._at_s
        return True

    def _is_in_doubt(self) -> bool:
        """Return whether somebody was found too seldom to count, and is looked for again until missed."""
        return self._size_wh != (0, 0) and any(
            not track.confirmed
            and track.missed_s == 0
            and (track.hits == 1 or track.found_s - track.first_s < _SHORT_LOOK_S)
            for track in self._tracker.tracks
        )

    def propose_region(self, size_wh: tuple[int, int]) -> Region | None:
        """Return which part of the newest picture, of `size_wh` pixels, should be searched; None for the whole."""
        boxes = [self._movement.xyxy]
        if self._tracking and self._size_wh != (0, 0) and self._tracker.tracks:
            boxes.append(self._tracker.motion.xyxy / self._luma_wh4())
        return self._regions.propose(np.concatenate(boxes), size_wh)

    def searching(self, frame: Frame, region: Region | None) -> None:
        """Note that a picture is being searched; `found` follows."""
        self._regions.searched(region, frame.size_wh, frame.captured_at)

    def found(self, found: Detections, frame: Frame, region: Region | None = None) -> None:
        """Take what an inference on `frame` found, in its pixels, possibly while newer pictures were looked at."""
        if self._size_wh == (0, 0):
            self._begin(frame.size_wh)
        reference = np.tile(np.divide(self._size_wh, frame.size_wh), 2)
        if region is not None:
            found = found[whole_in(region, frame.size_wh, found.xyxy)]
        kept = self._filter.keep(replace(found, xyxy=(found.xyxy * reference).astype(np.float32)))
        if not self._tracking:
            self._raw = replace(kept, xyxy=(kept.xyxy / reference / np.tile(frame.size_wh, 2)).astype(np.float32))
            return
        to_small = self._luma_wh4() / np.tile(self._size_wh, 2)
        small = replace(kept, xyxy=(kept.xyxy * to_small).astype(np.float32))
        looked = None if region is None else self._looked(region, frame.size_wh)
        gone = self._tracker.update(small, frame.captured_at, lambda xyxy: self._carry(xyxy, frame.captured_at), looked)
        self._book.end([track.track_id for track in gone], "gone")
        there = self._tracker.searched.xyxy / self._luma_wh4()
        self._book.see(self._tracker.tracks, there, frame)
        while len(self._lumas) > 1 and self._lumas[1][0] <= frame.captured_at:
            self._lumas.popleft()

    def objects(
        self, size_wh: tuple[int, int]
    ) -> tuple[Detections, npt.NDArray[np.float32] | None, list[tuple[str, ...]]]:
        """Return the objects in pixels of a picture of `size_wh`, now.

        Returns:
            The detections; where objects are followed with `tracker_id`, how long ago the model found each, (N,)
            seconds, and the zones that each is in.
        """
        picture = np.tile(size_wh, 2).astype(np.float64)
        if not self._tracking or self._size_wh == (0, 0):
            return replace(self._raw, xyxy=(self._raw.xyxy * picture).astype(np.float32)), None, []
        height, width = self._lumas[-1][1].shape
        shown = self._tracker.objects((width, height))
        xyxy = shown.xyxy / self._luma_wh4() * picture
        inside = np.all(xyxy[:, 2:] - xyxy[:, :2] >= 1, axis=1)
        shown = replace(shown, xyxy=xyxy.astype(np.float32))[inside]
        ids = np.asarray(shown.tracker_id).tolist()
        found_s = {track.track_id: track.found_s for track in self._tracker.tracks}
        ages_s = np.array([max(0.0, self._at_s - found_s[track_id]) for track_id in ids], np.float32)
        return shown, ages_s, [self._book.zones_of(track_id) for track_id in ids]

    def end(self, reason: EndReason) -> None:
        """End all objects: nobody looks any more."""
        self._raw = Detections.empty()
        if self._size_wh != (0, 0) and self._tracking:
            self._tracker.drop_all()
            self._book.end_all(reason)
            while len(self._lumas) > 1:
                self._lumas.popleft()

    def take_events(self) -> list[Event | Alert]:
        """Return what has happened since the last call."""
        return self._book.take() if self._size_wh != (0, 0) else []

    def _begin(self, size_wh: tuple[int, int]) -> None:
        config, options = self._config, self._options
        options.on_size(self._camera, size_wh)
        self._filter = ObjectFilter(config.objects, options.labels, size_wh, self._leave, options.threshold)
        motion = config.motion
        masks = [to_fractions(mask, size_wh, f"motion.mask.{number}") for number, mask in enumerate(motion.mask)]
        self._gate = MotionGate(motion.threshold, motion.min_area, _drawn(masks) if masks else None)
        self._tracker = Tracker(config.tracking.min_hits, config.tracking.lost_s, self._filter.threshold_of)
        self._presence = Presence(Zones(config.zones, size_wh), Lines(config.lines, size_wh))
        rules = Rules(options.rules or {})
        self._book = EventBook(self._camera, options.labels, self._presence, rules, options.run_id, options.update_s)
        self._size_wh = size_wh

    def _shift_xy(self, luma: Luma, at_s: float) -> Floats | None:
        """Return how far the tracks moved since the last picture, (N, 2) in pixels of the small picture."""
        tracker = self._tracker
        if not tracker.tracks or not self._lumas or not self._config.tracking.flow:
            return None
        before_s, before = self._lumas[-1]
        if at_s - before_s > _FLOW_GAP_S:
            return None
        motion = tracker.motion
        if self.still:  # nothing to be seen; what moves all the same is as bright as the ground
            slow = np.hypot(*motion.speed[:, :2].T) < _SLOW * np.sqrt(np.prod(motion.place[:, 2:], axis=1))
            return np.where(slow[:, np.newaxis], 0.0, np.nan).repeat(2, axis=1)
        return displacements(before, luma, motion.xyxy, motion.speed[:, :2] * (at_s - before_s))

    def _carry(self, xyxy: Floats, at_s: float) -> Floats:
        """Return how far boxes (N, 4) of the picture of `at_s` have moved until the newest one."""
        lumas = [luma for taken_s, luma in self._lumas if taken_s == at_s]
        newest_s, newest = self._lumas[-1]
        if not self._config.tracking.flow or not lumas or newest_s == at_s:
            return np.full((len(xyxy), 2), np.nan)
        return displacements(lumas[0], newest, xyxy, np.zeros((len(xyxy), 2)))

    def _looked(self, region: Region, size_wh: tuple[int, int]) -> Looked:
        scale = self._luma_wh4() / np.tile(size_wh, 2)
        return lambda xyxy: whole_in(region, size_wh, xyxy / scale)

    def _luma_wh4(self) -> Floats:
        """Return width, height, width, height of the small picture."""
        height, width = self._lumas[-1][1].shape
        return np.array([width, height, width, height], np.float64)


def _drawn(polygons: Sequence[Floats]) -> npt.NDArray[np.bool_]:
    """Return a picture of (180, 320) in which polygons, in fractions, are set."""
    mask = np.zeros((180, 320), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.rint(polygon * (320, 180)).astype(np.int32)], 1)
    return mask > 0
