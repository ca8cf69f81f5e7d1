"""The settings as they may be shown."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from edge_detector.config import SECRET_KEYS, Config
from edge_detector.sources import redact

HIDDEN = "***"


def without_secrets(config: Config) -> dict[str, Any]:
    """Return the settings as JSON values, `HIDDEN` in place of what is secret, addresses without credentials."""
    shown: dict[str, Any] = _shown(config)
    shown["web"]["users"] = dict.fromkeys(config.web.users, HIDDEN)
    for name, sink in config.sinks.items():  # what of its options is secret nobody knows
        shown["sinks"][name]["options"] = dict.fromkeys(sink.options, HIDDEN)
    return shown


def _shown(value: Any, key: str = "") -> Any:
    if isinstance(value, BaseModel):
        return {name: _shown(getattr(value, name), name) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {name: _shown(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    if isinstance(value, str) and "://" in value and not key.endswith("url"):
        return redact(value)
    return HIDDEN if isinstance(value, str) and key.endswith(SECRET_KEYS) and key != "source" else value
