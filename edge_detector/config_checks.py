"""What one key of the settings cannot tell alone: names that must exist, coordinates that must fit the picture."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from edge_detector.errors import ConfigError
from edge_detector.frame import parse_size
from edge_detector.labels import UNUSED
from edge_detector.object_config import Part
from edge_detector.sink_config import SinkFilterConfig
from edge_detector.tracking.polygons import Points, to_fractions

if TYPE_CHECKING:
    from edge_detector.config import CameraConfig, Config, FeedConfig
    from edge_detector.object_config import RuleConfig


class ConfigMistakes(ValueError):  # noqa: N818 - named as one reads it
    """Several mistakes at once; each of the `messages` begins with the path of its key."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("; ".join(messages))
        self.messages = tuple(messages)


def check_labels(config: Config, labels: Sequence[str]) -> None:
    """Check that the model knows all labels that the settings name.

    Raises:
        ConfigError: it does not; the message names the keys' paths and the labels of the model.
    """
    unknown = [f"{path}: {label!r}" for path, label in unknown_labels(config, labels)]
    if unknown:
        raise ConfigError(f"{'; '.join(unknown)}: no label of the model, which knows: {known_labels(labels)}")


def unknown_labels(config: Config, labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return the labels that the settings name and the model does not have, each with the path of its key."""
    return [(path, label) for path, label in _labels(config) if label not in labels]


def known_labels(labels: Sequence[str]) -> str:
    """Return the labels of a model, for a message."""
    return ", ".join(label for label in labels if label != UNUSED)


def check_coordinates(config: Config, camera: str, size_wh: tuple[int, int]) -> None:
    """Check that all zones, lines and masks of a camera lie within its pictures of `size_wh` pixels.

    Raises:
        ConfigError: they do not; the message names the keys' paths.
    """
    wrong = list(_coordinate_errors(config, camera, size_wh))
    if wrong:
        raise ConfigError("; ".join(wrong))


def together_errors(config: Config) -> Iterator[str]:
    """Yield what is wrong between keys, with their paths, as far as the settings alone tell."""
    feeds = config.feeds
    for name, feed in feeds.items():
        if feed.regions.enabled and not feed.tracking.enabled:
            of = f" of camera {name}" if config.cameras else ""
            yield f"regions.enabled{of}: needs tracking.enabled, which remembers what is elsewhere"
        if feed.size is not None and not re.search("size=|rotation=", feed.source):  # the URI wins
            width, height = parse_size(feed.size)
            turned = feed.rotation in (90, 270)
            yield from _coordinate_errors(config, name, (height, width) if turned else (width, height))
    yield from _path_errors(config)
    zones = {zone for feed in feeds.values() for zone in feed.zones}
    for path, wanted in _sink_filters(config):
        for camera in wanted.cameras:
            if camera not in feeds:
                yield f"{path}.cameras: {_unknown('camera', camera, feeds)}"
        for zone in wanted.zones:
            if zone not in zones:
                yield f"{path}.zones: {_unknown('zone', zone, zones)}"
    for name, rule in config.rules.items():
        if rule.camera is not None and rule.camera not in feeds:
            yield f"rules.{name}.camera: {_unknown('camera', rule.camera, feeds)}"
        else:
            watched = [feed for camera, feed in feeds.items() if rule.camera in (None, camera)]
            yield from _rule_errors(f"rules.{name}", rule, watched)


def _path_errors(config: Config) -> Iterator[str]:
    folders = {"snapshots.path": config.snapshots.path, "recordings.path": config.recordings.path}
    files = {"events.path": config.events.path, "events.jsonl": config.events.jsonl}
    files |= {"output.jsonl": config.output.jsonl, "output.video": config.output.video}
    for name, sink in config.sinks.items():
        named = {key: sink.options.get(key) for key in ("target", "path")}
        files |= {f"sinks.{name}.options.{key}": path for key, path in named.items() if isinstance(path, str)}
    for kind, paths in (("folders", folders), ("files", files)):
        for (key, path), (other, other_path) in combinations(paths.items(), 2):
            if path and path != "-" and other_path and os.path.realpath(path) == os.path.realpath(other_path):
                yield f"{key} and {other}: must be two {kind}, both are {path}"


def _sink_filters(part: Any, path: str = "") -> Iterator[tuple[str, SinkFilterConfig]]:
    """Yield all blocks of the settings that say what goes to a sink, with their paths."""
    if isinstance(part, SinkFilterConfig):
        yield path, part
    for key, value in part.items() if isinstance(part, dict) else part:
        if isinstance(value, Part | dict):
            yield from _sink_filters(value, f"{path}.{key}" if path else str(key))


def _rule_errors(path: str, rule: RuleConfig, feeds: Sequence[FeedConfig]) -> Iterator[str]:
    zones = {zone for feed in feeds for zone in feed.zones}
    lines = {line for feed in feeds for line in feed.lines}
    if rule.zone is not None and rule.zone not in zones:
        yield f"{path}.zone: {_unknown('zone', rule.zone, zones)}"
    if rule.line is not None and rule.line not in lines:
        yield f"{path}.line: {_unknown('line', rule.line, lines)}"


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    return f"no {kind} is named {name!r}; known here: {', '.join(sorted(known)) or 'none'}"


def _coordinate_errors(config: Config, camera: str, size_wh: tuple[int, int]) -> Iterator[str]:
    own = config.cameras.get(camera)
    for part, path, points in _shapes(config.feeds[camera]):
        try:
            to_fractions(points, size_wh, path)
        except ConfigError as error:
            if own is None:
                yield str(error)
            else:
                yield f"{error} of camera {camera}" if getattr(own, part) is None else f"cameras.{camera}.{error}"


def _shapes(feed: FeedConfig) -> Iterator[tuple[str, str, Points]]:
    """Yield the block, path and points of all coordinates of a camera."""
    for name, zone in feed.zones.items():
        yield "zones", f"zones.{name}.coordinates", zone.coordinates
    for name, line in feed.lines.items():
        yield "lines", f"lines.{name}.coordinates", line.coordinates
    masks = {"motion.mask": feed.motion.mask, "objects.mask": feed.objects.mask}
    masks |= {f"objects.filters.{label}.mask": one.mask for label, one in feed.objects.filters.items()}
    for path, mask in masks.items():
        for number, polygon in enumerate(mask):
            yield path.partition(".")[0], f"{path}.{number}", polygon


def _labels(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the path of every label that the settings name, and the label."""
    parts: dict[str, Config | CameraConfig] = {"": config}
    parts |= {f"cameras.{name}.": camera for name, camera in config.cameras.items()}
    for prefix, part in parts.items():
        if part.objects is not None:
            yield from ((f"{prefix}objects.track", label) for label in part.objects.track or ())
            yield from ((f"{prefix}objects.filters", label) for label in part.objects.filters)
        for name, zone in (part.zones or {}).items():
            yield from ((f"{prefix}zones.{name}.objects", label) for label in zone.objects)
        for name, line in (part.lines or {}).items():
            yield from ((f"{prefix}lines.{name}.objects", label) for label in line.objects)
    for path, wanted in _sink_filters(config):
        yield from ((f"{path}.labels", label) for label in wanted.labels)
    for name, rule in config.rules.items():
        if rule.label is not None:
            yield f"rules.{name}.label", rule.label
