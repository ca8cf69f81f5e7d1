"""FeedMaker: from settings, sources and a model to feeds and their followers."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from edge_detector.config import Config, FeedConfig
from edge_detector.config_checks import check_coordinates, check_labels
from edge_detector.detector import Detector
from edge_detector.object_config import RuleConfig
from edge_detector.overlay_shapes import Shape
from edge_detector.runtime.feed import Feed
from edge_detector.sources import Source
from edge_detector.tracking.follower import Follower, FollowerOptions
from edge_detector.tracking.polygons import to_fractions

logger = logging.getLogger(__name__)

HANGS_AFTER_S = 5.0  # beyond the time in which a camera itself notices that no picture comes


class FeedMaker:
    """Makes feeds of sources, and anew the followers that other settings need.

    Attributes:
        shapes: what the settings want drawn, by camera; filled when a camera's first picture has come.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.shapes: dict[str, list[Shape]] = {}
        self._sources = sources
        self._recorded = any(not source.live for source in sources.values())

    def feeds(self, config: Config, detector: Detector) -> list[Feed]:
        """Return a feed for each source; the detector's threshold becomes the lowest that one of them needs.

        Raises:
            ConfigError: the settings name a label that the model does not have.
        """
        check_labels(config, detector.manifest.labels)
        followers = self.followers(config, detector)
        set_threshold(config, detector, followers)
        return [
            Feed(
                name,
                self._sources[name],
                detecting=camera.detect,
                follower=followers.get(name),
                **self.pace(config, name),
            )
            for name, camera in config.feeds.items()
        ]

    def pace(self, config: Config, name: str) -> dict[str, Any]:
        """Return how often a camera is searched, and how old what belongs to it may be, as `Feed` takes it."""
        camera, fps = config.feeds[name], self._sources[name].fps
        patience_s = max(camera.stall_s + HANGS_AFTER_S, 3 / (fps or 1))
        return {"detect_fps": camera.detect_fps, "max_age_s": camera.max_age_s, "patience_s": patience_s}

    def followers(self, config: Config, detector: Detector) -> dict[str, Follower]:
        """Return a follower for each camera and video; photos have nothing to do with each other."""
        manifest = detector.manifest

        def on_size(camera: str, size_wh: tuple[int, int]) -> None:
            check_coordinates(config, camera, size_wh)
            self.shapes.pop(camera, None)
            if config.overlay.zones:
                self.shapes[camera] = _shapes(config.feeds[camera], size_wh)

        options = FollowerOptions(
            labels=manifest.labels,
            threshold=base_threshold(config, detector),
            canvas_wh=(manifest.input.width, manifest.input.height),
            rules=_at_any_time(config.rules) if self._recorded else config.rules,
            on_size=on_size,
            update_s=config.events.update_s,
            run_id="" if self._recorded else f"{secrets.token_hex(2)}-",  # the same file gives the same ids
        )
        return {
            name: Follower(name, camera, options)
            for name, camera in config.feeds.items()
            if self._sources[name].live or self._sources[name].fps is not None
        }


def base_threshold(config: Config, detector: Detector) -> float:
    """Return the score from which on a detection counts, unless the settings of its label say otherwise."""
    threshold = config.model.score_threshold
    return detector.manifest.nms.score_threshold if threshold is None else threshold


def set_threshold(config: Config, detector: Detector, followers: Mapping[str, Follower]) -> None:
    """Let the detector find what the followers need."""
    lowest = [follower.lowest_score for follower in followers.values()]
    detector.set_threshold(min([base_threshold(config, detector), *lowest]))


def follows(config: Config, name: str) -> dict[str, Any]:
    """Return all of the settings that a camera's follower depends on."""
    camera = {"objects", "zones", "lines", "motion", "regions", "tracking", "max_age_s"}
    return {
        **config.feeds[name].model_dump(include=camera),
        "rules": {name: rule.model_dump() for name, rule in config.rules.items()},
        "update_s": config.events.update_s,
        "overlay": config.overlay.model_dump(),
        "threshold": config.model.score_threshold,
    }


def _at_any_time(rules: Mapping[str, RuleConfig]) -> dict[str, RuleConfig]:
    """Return the rules without times of day and week, which nobody knows of a file."""
    timed = ", ".join(name for name, rule in rules.items() if rule.between or rule.weekdays)
    if timed:
        logger.warning("rules %s: between and weekdays are ignored, because it is not known when the file is of", timed)
    return {name: rule.model_copy(update={"between": None, "weekdays": None}) for name, rule in rules.items()}


def _shapes(camera: FeedConfig, size_wh: tuple[int, int]) -> list[Shape]:
    """Return the zones and lines of a camera with pictures of `size_wh`, to be drawn."""
    zones = [Shape("zone", name, to_fractions(one.coordinates, size_wh, name)) for name, one in camera.zones.items()]
    lines = [Shape("line", name, to_fractions(one.coordinates, size_wh, name)) for name, one in camera.lines.items()]
    return zones + lines
