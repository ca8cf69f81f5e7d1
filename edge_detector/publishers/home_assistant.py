"""What Home Assistant is told by MQTT, so that it shows the device and all its cameras without being set up.

One retained message for the device: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edge_detector import __version__

URL = "https://www.home-assistant.io/integrations/mqtt/"


def slug(text: str) -> str:
    """Return `text` with all that an id or a level of a topic may not have replaced by _."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)


def slugs(labels: Sequence[str]) -> dict[str, str]:
    """Return a slug for each label, no two alike."""
    made: dict[str, str] = {}
    for number, label in enumerate(labels):
        short = slug(label)
        if label not in made:
            made[label] = f"{short}_{number}" if short in made.values() or not short.strip("_") else short
    return made


def discovery(prefix: str, node: str, cameras: Mapping[str, Mapping[str, str]], *, qos: int = 1) -> dict[str, Any]:
    """Return the payload that describes the device `node` with its cameras.

    Args:
        prefix: of our topics.
        node: id of the device, unique in the house.
        cameras: by name the labels that are counted, with their slugs.
        qos: with which Home Assistant shall subscribe.
    """
    entities: dict[str, dict[str, Any]] = {}
    for camera, labels in cameras.items():
        for label, short in labels.items():
            entities |= _of_label(prefix, camera, label, short)
        entities |= _of_camera(prefix, camera)
    entities["temperature"] = {
        **_diagnostic("Temperature", prefix, "value_json.process.temperature_c", "°C"),
        "device_class": "temperature",
    }
    return {
        "dev": {"ids": [node], "name": node, "mf": "edge_detector", "mdl": "edge_detector", "sw": __version__},
        "o": {"name": "edge_detector", "sw": __version__, "url": URL},
        "availability": [{"topic": f"{prefix}/available"}],
        "qos": qos,
        "cmps": {key: {**entity, "unique_id": f"{node}_{key}"} for key, entity in entities.items()},
    }


def _of_label(prefix: str, camera: str, label: str, short: str) -> dict[str, dict[str, Any]]:
    key, topic = f"{slug(camera)}_{short}", f"{prefix}/{camera}/{short}"
    name = f"{camera} {label}"
    return {
        f"{key}_occupancy": {
            "p": "binary_sensor",
            "name": name,
            "device_class": "occupancy",
            "state_topic": topic,
            "value_template": "{{ 'ON' if value | int(0) > 0 else 'OFF' }}",
        },
        f"{key}_count": {"p": "sensor", "name": f"{name} count", "state_topic": topic, "state_class": "measurement"},
        f"{key}_snapshot": {"p": "image", "name": f"{name} snapshot", "image_topic": f"{topic}/snapshot"},
    }


def _of_camera(prefix: str, camera: str) -> dict[str, dict[str, Any]]:
    key, of = slug(camera), f"value_json.cameras['{camera}']"
    return {
        f"{key}_detect": {
            "p": "switch",
            "name": f"{camera} detection",
            "state_topic": f"{prefix}/{camera}/detect/state",
            "command_topic": f"{prefix}/{camera}/detect/set",
        },
        f"{key}_inference_fps": _diagnostic(f"{camera} inference rate", prefix, f"{of}.fps.inference", "fps"),
        f"{key}_camera_fps": _diagnostic(f"{camera} camera rate", prefix, f"{of}.fps.capture", "fps"),
        f"{key}_latency": {
            **_diagnostic(f"{camera} latency", prefix, f"{of}.latency_p50_s", "s"),
            "device_class": "duration",
        },
    }


def _diagnostic(name: str, prefix: str, value: str, unit: str) -> dict[str, Any]:
    return {
        "p": "sensor",
        "name": name,
        "state_topic": f"{prefix}/stats",
        "value_template": f"{{{{ {value} }}}}",
        "unit_of_measurement": unit,
        "state_class": "measurement",
        "entity_category": "diagnostic",
    }
