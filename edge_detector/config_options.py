"""Options of the command line in the place of settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from edge_detector.config import Config, load_config, parse_config

logger = logging.getLogger(__name__)


def with_options(path: Path | None, given: dict[str, Any]) -> Config:
    """Return the settings of a file, or the defaults, with the options that were given in their place.

    A source takes the place of the one camera, which keeps what is done with its objects, or of all of several; the
    other keys of "camera" hold for each. Options that are None were not given.

    Raises:
        ConfigError: the file, or an option, is wrong.
    """
    settings = Config() if path is None else load_config(path)
    merged = settings.model_dump()
    given = dict(given)
    camera = {name: option for name, option in given.pop("camera", {}).items() if option is not None}
    if "source" in camera:
        merged |= _with_source(settings, camera.pop("source"))
        settings = parse_config(merged, "command line")
    if camera:
        merged["source"] = None
        merged["cameras"] = {name: feed.model_dump() | camera for name, feed in settings.feeds.items()}
    for key, value in given.items():
        if isinstance(value, dict):
            merged[key] |= {name: option for name, option in value.items() if option is not None}
        elif value is not None:
            merged[key] = value
    return parse_config(merged, "command line")


def _with_source(settings: Config, source: str) -> dict[str, Any]:
    """Return what changes in the settings when `source` is read in place of their cameras."""
    if len(settings.cameras) == 1:
        ((name, only),) = settings.cameras.items()
        picture = {"source", "size", "fps", "format", "rotation", "stream", "controls"}
        return {"cameras": {name: only.model_dump(exclude=picture) | {"source": source}}}
    rules = {name: rule for name, rule in settings.rules.items() if rule.camera not in settings.cameras}
    hooks = {name: hook for name, hook in settings.webhooks.items() if not {*hook.cameras} & {*settings.cameras}}
    gone = sorted({*settings.rules, *settings.webhooks} - {*rules, *hooks})
    if gone:
        logger.warning("%s: their cameras are not read now", ", ".join(gone))
    return {
        "source": source,
        "cameras": {},
        "rules": {name: rule.model_dump() for name, rule in rules.items()},
        "webhooks": {name: hook.model_dump() for name, hook in hooks.items()},
    }
