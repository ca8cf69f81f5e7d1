"""The best picture of each object, as JPEG in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_detector.events import Alert, Event
from edge_detector.frame import FrameResult
from edge_detector.jpeg import encode_jpeg
from edge_detector.publishers.kept_files import KeptFiles
from edge_detector.publishers.sink_filter import SinkFilter
from edge_detector.publishers.worker import QueuedBoth
from edge_detector.sink_config import SnapshotsConfig

MARGIN = 0.4  # of the object's longer side, around it
BETTER = 1.1  # a picture is replaced by one that is so much better
OBJECTS_MAX = 200  # of whom pictures are kept in memory; then the oldest go


def open_snapshots(settings: SnapshotsConfig, labels: Sequence[str]) -> QueuedBoth:
    """Return a publisher that writes the best picture of each object that is wanted, when it ends and on alerts.

    They are `<path>/<camera>/<YYYY-MM-DD>/<HHMMSS>_<label>_<id>.jpg`, of the time when the object was first seen.

    Raises:
        PublishError: the folder cannot be made or written to.
    """
    return QueuedBoth(Snapshots(settings, labels))


@dataclass(slots=True)
class _Best:
    """The best picture of an object so far."""

    worth: float = 0.0
    jpeg: bytes = b""
    written: bool = False


class Snapshots:
    """A `BothSink` that keeps the best picture of each object in memory until it is written."""

    uses_image = True

    def __init__(self, settings: SnapshotsConfig, labels: Sequence[str]) -> None:
        self.name = str(settings.path)
        self._settings = settings
        self._filter = SinkFilter(settings, labels)
        self._files = KeptFiles(Path(self.name), (".jpg",), settings.max_age_days, settings.max_mb)
        self._files.prune()
        self._best: dict[tuple[str, int], _Best] = {}  # by camera and number, oldest first

    def write(self, result: FrameResult) -> bool:
        """Keep the picture for the objects of which it is the best: sure, large, not cut, found just now."""
        self._files.prune()
        if not self._filter.wants_camera(result.camera):
            return False
        rest = self._filter.rest_of(result)
        found, jpeg = rest.detections, b""
        if found.tracker_id is None or rest.ages_s is None or not len(found):
            return False
        sides = np.maximum(found.xyxy[:, 2:] - found.xyxy[:, :2], 1.0)
        cut = ((found.xyxy[:, :2] <= 2) | (found.xyxy[:, 2:] >= np.array(rest.frame.size_wh) - 2)).any(axis=1)
        worths = found.confidence * np.prod(sides, axis=1) ** 0.25 * np.where(cut, 0.7, 1.0) / (1 + rest.ages_s)
        for row, track_id in enumerate(found.tracker_id.tolist()):
            best = self._best.setdefault((result.camera, track_id), _Best())
            if worths[row] > best.worth * BETTER:
                whole = result.frame.image
                if self._settings.crop or not jpeg:  # that of the whole picture is the same for all
                    jpeg = encode_jpeg(
                        _part(whole, found.xyxy[row]) if self._settings.crop else whole, self._settings.quality
                    )
                best.worth, best.jpeg, best.written = float(worths[row]), jpeg, False
        while len(self._best) > OBJECTS_MAX:
            self._best.pop(next(iter(self._best)))
        return False

    def write_event(self, event: Event | Alert) -> bool:
        """Write the picture of an object that has ended, or made an alert; see `Sink.write`."""
        seen = event.object
        ended = isinstance(event, Event) and event.kind == "end"
        if not ended and not isinstance(event, Alert):
            return False
        key = seen.camera, seen.track_id
        best = self._best.pop(key, _Best()) if ended else self._best.get(key, _Best())
        was_large = bool(best.jpeg)  # of what is too small no picture is kept
        if not best.jpeg and isinstance(event, Event) and event.snapshot is not None:
            best.jpeg = encode_jpeg(event.snapshot, self._settings.quality)
        if best.written or not best.jpeg or not self._filter.takes_event(event, was_large=was_large):
            return False
        stem = self._files.stem(seen.camera, seen.start_ts, seen.label, seen.id)
        self._files.write(stem.with_name(stem.name + ".jpg"), best.jpeg, sync=True)
        best.written = True
        self._files.add(stem)
        self._files.prune()
        return True

    def rest(self) -> None:
        """Delete what is too old."""
        self._files.prune()

    def finish(self, complete: bool) -> None:
        """Forget all; objects have been ended before."""
        self._best.clear()


def _part(image: npt.NDArray[np.uint8], xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return what is around a box; at least a pixel."""
    height, width = image.shape[:2]
    margin = MARGIN * float(np.max(xyxy[2:] - xyxy[:2]))
    x1, y1 = np.clip(xyxy[:2] - margin, 0, [width - 1, height - 1]).astype(int).tolist()
    x2, y2 = np.clip(np.ceil(xyxy[2:] + margin), [x1 + 1, y1 + 1], [width, height]).astype(int).tolist()
    return image[y1:y2, x1:x2]
