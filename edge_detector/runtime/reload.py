"""Reload: new settings for a service that goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_detector.abandoned import leave_behind
from edge_detector.config import Config, ModelConfig, parse_config
from edge_detector.config_checks import check_coordinates, check_labels
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, EdgeDetectorError, ModelError
from edge_detector.registry import resolve_model
from edge_detector.runtime.feed_maker import FeedMaker, base_threshold, follows, set_threshold
from edge_detector.runtime.outputs import Outputs
from edge_detector.runtime.pipeline import LivePipeline

logger = logging.getLogger(__name__)

_ANSWER = {"answer": True}  # shown however often it is asked for

JOIN_S = 0.5
HANGS_S = 60.0  # a large model takes a slow Pi half of that
WITH_COORDINATES = ("zones", "lines", "objects", "motion")  # keys of a camera
# What a camera is opened with; and what the whole service is built on.
OF_CAMERAS = frozenset(
    {"source", "size", "fps", "format", "rotation", "stream", "controls", "stall_s", "frozen_s", "give_up_s"}
)
FIXED: tuple[str, ...] = ("source", "http", "web", "stream", "events.path", "events.max_age_days", "events.max_mb")
FIXED += ("recordings.path", "recordings.max_age_days", "recordings.max_mb")

OpenDetector = Callable[[ModelConfig], Detector]


@dataclass(frozen=True, slots=True)
class Reload:
    """How new settings come: `wanted` is set when they are there, `read` returns them or raises `ConfigError`."""

    wanted: threading.Event
    read: Callable[[], Config]


@dataclass(slots=True)
class Running:
    """A live service, as far as new settings can change it.

    Attributes:
        model_files: when the model's files were written that are in use.
    """

    config: Config
    pipeline: LivePipeline
    maker: FeedMaker
    outputs: Outputs
    model_files: Mapping[Path, float]


class Reloader:
    """Reads the settings anew when that is wanted, on a thread of its own, and lets the running service have them.

    What cannot be changed while it runs stays as it is, and the log says that it needs a new start. Settings with an
    error change nothing.

    """

    def __init__(self, running: Running, reload: Reload, open_detector: OpenDetector) -> None:
        self._running = running
        self._wanted, self._read = reload.wanted, reload.read
        self._open_detector = open_detector
        self._thread: threading.Thread | None = None
        self._begun_s, self._told = 0.0, False  # that it hangs

    @property
    def busy(self) -> bool:
        """Whether it is under way."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self) -> bool:
        """Begin, if it is wanted and the one before is over; return whether it does."""
        if self.busy:
            self._say_if_it_hangs()
            return False
        if not self._wanted.is_set():
            return False
        self._wanted.clear()
        self._begun_s, self._told = time.monotonic(), False
        thread = threading.Thread(target=self._run, name="reload", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no room for a thread
            logger.warning("the new settings are not taken yet: %s", error, extra=_ANSWER)
            self._wanted.set()
            return False
        self._thread = thread
        return True

    def close(self) -> None:
        """Wait for its end, not for long."""
        if self._thread is not None:
            self._thread.join(JOIN_S)
            if self._thread.is_alive():
                leave_behind(self._thread)

    def _say_if_it_hangs(self) -> None:
        if not self._told and time.monotonic() - self._begun_s > HANGS_S:
            self._told = True
            told = "the new settings are still not taken after %.0f s: a file of theirs hangs; others wait until then"
            logger.error(told, HANGS_S, extra=_ANSWER)

    def _run(self) -> None:
        result = "failed"
        try:
            self._reload()
            result = "ok"
        except EdgeDetectorError as error:
            logger.error("the new settings are not taken, all stays as it was: %s", error, extra=_ANSWER)
        except Exception:
            logger.exception("the new settings are not taken", extra=_ANSWER)
        self._running.outputs.reloads[result] += 1

    def _reload(self) -> None:
        running = self._running
        old, new = running.config, self._read()
        changed, refused = set(_changes(old.model_dump(), new.model_dump())), set()
        config = _with_fixed(old, new)
        if config != new:
            refused = set(_changes(config.model_dump(), new.model_dump()))
            logger.warning("these settings need a new start: %s", ", ".join(sorted(refused)), extra=_ANSWER)
        pipeline = running.pipeline
        detector, files = self._new_detector(config.model)
        try:
            manifest = (detector or pipeline.detector).manifest
            check_labels(config, manifest.labels)
            for name, feed in pipeline.feeds.items():
                _check_coordinates(old, config, name, feed.size_wh)
        except EdgeDetectorError:
            if detector is not None:
                detector.close()
            raise
        self._apply(config, detector)
        running.config, running.model_files = config, files
        taken = sorted(changed - refused) + ([f"model {manifest.name}"] if detector is not None else [])
        logger.info("new settings: %s", ", ".join(taken) or "no change", extra=_ANSWER)

    def _new_detector(self, model: ModelConfig) -> tuple[Detector | None, Mapping[Path, float]]:
        """Return the model that the settings name, warm, or None where it is the one that runs; and its files.

        Raises:
            ModelError: it cannot be used, or not without a new start.
        """
        running, files = self._running, model_files(model)
        only_threshold = {"score_threshold"}
        if files == running.model_files and model.model_dump(exclude=only_threshold) == running.config.model.model_dump(
            exclude=only_threshold
        ):
            return None, files
        if running.pipeline.detector.status().wanted != "cpu":
            raise ModelError("an accelerator cannot hold two models at the same time; start the service anew")
        detector = self._open_detector(model)
        try:
            if detector.manifest.labels != running.pipeline.detector.manifest.labels:
                raise ModelError(f"{detector.manifest.name} has other labels; start the service anew")
            detector.warm_up()
        except EdgeDetectorError:
            detector.close()
            raise
        return detector, files

    def _apply(self, config: Config, detector: Detector | None) -> None:
        running = self._running
        pipeline, maker, before = running.pipeline, running.maker, running.config
        used = detector or pipeline.detector
        followers = maker.followers(config, used)
        set_threshold(config, used, followers)
        other = _looks_for(config, used) != _looks_for(before, pipeline.detector)
        if detector is not None:
            pipeline.swap(detector).close()
        running.outputs.reload(config, used.manifest)
        for name, feed in pipeline.feeds.items():
            feed.set_pace(**maker.pace(config, name))
            if other or follows(config, name) != follows(before, name):
                feed.follow_with(followers[name])
            if config.feeds[name].detect != before.feeds[name].detect:
                feed.detecting = config.feeds[name].detect


def model_files(model: ModelConfig) -> dict[Path, float]:
    """Return when the files of a model were written, of those that are there."""
    path = resolve_model(model.path)
    named = [path, path.with_suffix(".json"), *map(Path, filter(None, (model.labelmap_path, model.edgetpu_path)))]
    return {file: file.stat().st_mtime for file in named if file.exists()}


def _with_fixed(old: Config, new: Config) -> Config:
    """Return the new settings with the old ones where these cannot be changed.

    Raises:
        ConfigError: the new settings do not go with what stays.
    """
    kept, merged = old.model_dump(), new.model_dump()
    for path in FIXED:
        block, _, key = path.partition(".")
        if key:
            merged[block][key] = kept[block][key]
        else:
            merged[block] = kept[block]
    cameras = {name: camera.model_dump() for name, camera in old.cameras.items()}
    for name, camera in new.cameras.items():
        if name in cameras:
            cameras[name] = camera.model_dump(exclude=set(OF_CAMERAS)) | old.cameras[name].model_dump(
                include=set(OF_CAMERAS)
            )
    merged["cameras"] = cameras
    try:
        return parse_config(merged, "settings")
    except ConfigError as error:
        raise ConfigError(f"they need a new start: {error}") from error


def _check_coordinates(old: Config, new: Config, camera: str, size_wh: tuple[int, int] | None) -> None:
    """Check that the coordinates of a camera lie within its pictures, of `size_wh` pixels; None before the first.

    Raises:
        ConfigError: they do not, or are new, in pixels, and of a camera whose pictures nobody knows: if one turned out
            to lie outside, that would end the service when the camera comes.
    """
    if size_wh is not None:
        check_coordinates(new, camera, size_wh)
    elif any(getattr(new.feeds[camera], key) != getattr(old.feeds[camera], key) for key in WITH_COORDINATES):
        try:
            check_coordinates(new, camera, (1, 1))
        except ConfigError as error:
            raise ConfigError(
                f"camera {camera} has given no picture yet that pixels could be of; reload when it has, or give "
                "coordinates as fractions from 0 to 1"
            ) from error


def _looks_for(config: Config, detector: Detector) -> tuple[int, int, float]:
    """Return what of a model its followers depend on."""
    size = detector.manifest.input
    return size.width, size.height, base_threshold(config, detector)


def _changes(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of keys with different values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path
