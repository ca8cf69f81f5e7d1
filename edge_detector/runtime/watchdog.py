"""Watchdog: notices a stage that completes no work any more, and tells systemd how the service is."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

from edge_detector.runtime.metrics import ServiceStatus
from edge_detector.runtime.notify import Notifier

logger = logging.getLogger(__name__)

LIMIT_S = 30.0  # without completed work, where systemd does not say how long it waits
STATUS_S = 5.0
STOOD_STILL_S = 2.0  # between two looks: the whole process was stopped, or the machine asleep


class Watchdog:
    """Looked through by the main thread, several times a second.

    Systemd gets a sign of life only while every stage that has work completes some: one that hangs has half of the time
    that systemd waits, then it is named in the log, and systemd starts the service anew.

    `beats` returns by stage when it last completed work, or had none, in seconds of the monotonic clock.
    """

    def __init__(
        self,
        notifier: Notifier,
        beats: Callable[[], Mapping[str, float]],
        status: Callable[[], ServiceStatus],
    ) -> None:
        self._notifier = notifier
        self._beats = beats
        self._status = status
        self._limit_s = LIMIT_S if notifier.watchdog_s is None else notifier.watchdog_s / 2
        self._alive_every_s = min(self._limit_s / 3, 10.0)
        self._ready = False
        self._alive_s = self._told_s = -math.inf
        self._looked_s = self._awake_s = time.monotonic()
        self._hanging: set[str] = set()
        self._line = ""

    def reloading(self) -> None:
        """Tell that new settings are taken, until the service is ready again."""
        if self._ready:
            self._ready = False
            self._notifier.reloading()

    def look(self, *, ready: bool) -> None:
        """Look once; the service is `ready` when the model has run and its settings are taken."""
        now_s = time.monotonic()
        if now_s - self._looked_s > STOOD_STILL_S:
            self._awake_s = now_s
        self._looked_s = now_s
        hanging = {
            stage for stage, beat_s in self._beats().items() if now_s - max(beat_s, self._awake_s) > self._limit_s
        }
        for stage in sorted(hanging - self._hanging):
            logger.error("%s has completed nothing for %.0f s; it hangs", stage, self._limit_s)
        for stage in sorted(self._hanging - hanging):
            logger.info("%s goes on", stage)
        self._hanging = hanging
        if not hanging and now_s - self._alive_s >= self._alive_every_s:
            self._alive_s = now_s
            self._notifier.alive()
        if now_s - self._told_s >= STATUS_S or (ready and not self._ready):
            self._told_s = now_s
            self._tell(ready)

    def _tell(self, ready: bool) -> None:
        line = describe(self._status())
        if self._hanging:
            line = f"{', '.join(sorted(self._hanging))}: hangs; {line}"
        if ready and not self._ready:
            self._ready = True
            self._notifier.ready(line)
        elif line != self._line:
            self._notifier.status(line)
        self._line = line


def describe(status: ServiceStatus) -> str:
    """Return a line that says how the service is."""
    cameras, detector = status.cameras, status.detector
    away = [f"{name} {camera.state}" for name, camera in cameras.items() if camera.state != "live"]
    live = f"{len(cameras) - len(away)} of {len(cameras)} cameras live" + (f" ({', '.join(away)})" if away else "")
    fps = {key: sum(camera.fps[key] for camera in cameras.values()) for key in ("capture", "inference")}
    device = detector.device + (f" in place of {detector.wanted}" if detector.state != "ok" else "")
    return f"{live}, {fps['capture']:.1f} pictures/s, {fps['inference']:.1f} inferences/s on {device}"
