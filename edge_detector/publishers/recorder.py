"""Clips around wanted objects, begun before they came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edge_detector.errors import PublishError
from edge_detector.events import Alert, Event
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.clips import Clips
from edge_detector.publishers.sink_filter import SinkFilter
from edge_detector.publishers.tape import OpenClip, Tape
from edge_detector.publishers.worker import QueuedBoth
from edge_detector.sink_config import RecordingsConfig

DRAIN_S = 0.4  # at the end, for what is still to be recorded
REMEDY = "recordings need PyAV, which is not installed: pip install 'edge-detector[stream]'"


def open_recordings(
    settings: RecordingsConfig, labels: Sequence[str], overlay: OverlayRenderer, clips: Clips | None = None
) -> QueuedBoth:
    """Return a publisher that writes clips of wanted objects, where `clips` says; see `open_clips`.

    Raises:
        PublishError: the folder cannot be made or written to, or PyAV is not installed.
    """
    try:
        from edge_detector.publishers.clip import Clip
    except ImportError as error:
        raise PublishError(REMEDY) from error
    clips = clips or open_clips(settings)
    return QueuedBoth(Recorder(settings, labels, overlay, clips, Clip))


def open_clips(settings: RecordingsConfig) -> Clips:
    """Return the clips in the folder that the settings name, those that a kill has interrupted brought to an end.

    Raises:
        PublishError: the folder cannot be made or written to, or PyAV is not installed.
    """
    try:
        from edge_detector.publishers.clip import mend
    except ImportError as error:
        raise PublishError(REMEDY) from error
    return Clips(Path(settings.path or ""), settings.max_age_days, settings.max_mb, mend)


class Recorder:
    """A `BothSink` with a `Tape` for each camera."""

    uses_image = True

    def __init__(
        self,
        settings: RecordingsConfig,
        labels: Sequence[str],
        overlay: OverlayRenderer,
        clips: Clips,
        open_clip: OpenClip,
    ) -> None:
        self.name = str(settings.path)
        self._settings = settings
        self._overlay = overlay if settings.overlay else None
        self._clips = clips
        self._open_clip = open_clip
        self._filter = SinkFilter(settings, labels)
        self._tapes: dict[str, Tape] = {}

    def write(self, result: FrameResult) -> bool:
        """Keep a picture, or record it; see `Sink.write`."""
        wrote = self._filter.wants_camera(result.camera) and self._tape(result.camera).take(result)
        self._end_what_is_over()
        return wrote

    def write_event(self, event: Event | Alert) -> bool:
        """Begin to record when a wanted object comes, and plan the end when the last has gone."""
        if isinstance(event, Alert):
            return False
        seen = event.object
        tape = self._tape(seen.camera)
        if event.kind == "end":
            if seen.id in tape.there:
                tape.gone(seen)
        elif seen.id not in tape.there and self._filter.takes_event(event):
            tape.came(seen)
        return False

    def rest(self) -> None:
        """End the clips of cameras that give no pictures any more, and delete old ones."""
        self._end_what_is_over()

    def finish(self, complete: bool) -> None:
        """End all clips."""
        self._of_each(lambda tape: tape.close(DRAIN_S / len(self._tapes)))

    def _end_what_is_over(self) -> None:
        self._clips.prune()
        self._of_each(Tape.end_if_over)

    def _of_each(self, action: Callable[[Tape], None]) -> None:
        """Do it with all tapes, and then raise what the first that failed raised."""
        errors = []
        for tape in self._tapes.values():
            try:
                action(tape)
            except Exception as error:  # noqa: BLE001 - one must not keep the others from their ends
                errors.append(error)
        if errors:
            raise errors[0]

    def _tape(self, camera: str) -> Tape:
        if camera not in self._tapes:
            self._tapes[camera] = Tape(camera, self._settings, self._overlay, self._clips, self._open_clip)
        return self._tapes[camera]
