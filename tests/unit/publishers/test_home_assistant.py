from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from edge_detector.publishers.home_assistant import discovery, slugs

CAMERAS = {
    "front": {"person": "person", "traffic light": "traffic_light"},
    "back-door": {"person": "person"},
    "attic": {},
}


@pytest.fixture
def payload() -> dict[str, Any]:
    return discovery("home/eyes", "pi-1", CAMERAS, qos=1)


def test_every_label_has_occupancy_count_and_picture_and_every_camera_a_switch(payload: dict[str, Any]) -> None:
    entities = payload["cmps"]
    kinds = {key: entity["p"] for key, entity in entities.items()}
    assert kinds["front_traffic_light_occupancy"] == "binary_sensor"
    assert kinds["front_traffic_light_count"] == "sensor"
    assert kinds["front_traffic_light_snapshot"] == "image"
    assert [key for key, kind in kinds.items() if kind == "switch"] == [
        "front_detect",
        "back-door_detect",
        "attic_detect",
    ]
    assert entities["front_traffic_light_count"]["state_topic"] == "home/eyes/front/traffic_light"
    assert entities["attic_detect"]["command_topic"] == "home/eyes/attic/detect/set"
    assert len({entity["unique_id"] for entity in entities.values()}) == len(entities)


def test_slugs_are_valid_and_no_two_are_alike() -> None:
    made = slugs(["person", "人", "traffic light", "狗", "traffic_light", "person", "a/b#+"])
    assert made == {
        "person": "person",
        "人": "__1",
        "traffic light": "traffic_light",
        "狗": "__3",
        "traffic_light": "traffic_light_4",
        "a/b#+": "a_b__",
    }


def test_measurements_of_the_device_are_diagnostic(payload: dict[str, Any]) -> None:
    of_stats = [entity for entity in payload["cmps"].values() if entity.get("state_topic") == "home/eyes/stats"]
    assert len(of_stats) == 3 * len(CAMERAS) + 1
    assert {entity["entity_category"] for entity in of_stats} == {"diagnostic"}


CHECK = """
import importlib, json, sys
import jinja2
from homeassistant.components.mqtt import discovery
given = json.load(sys.stdin)
device = discovery._parse_device_payload(None, json.dumps(given["payload"]), "pi-1", None)
assert device, "the device's payload is not valid"
environment, shown = jinja2.Environment(), {}
environment.filters["int"] = lambda value, default=0: int(value) if str(value).isdigit() else default
for key, entity in device["components"].items():
    platform = entity.pop("platform")
    entity["device"], entity["origin"] = device["device"], device["origin"]
    discovery._merge_common_device_options(entity, device)
    module = importlib.import_module("homeassistant.components.mqtt." + platform)
    checked = module.DISCOVERY_SCHEMA(dict(entity))
    lost = set(entity) - set(checked) - {"availability", "name"}
    assert not lost, f"{key}: Home Assistant knows nothing of {lost}"
    if "value_template" in entity:
        text = environment.from_string(entity["value_template"])
        shown[key] = text.render(value="2", value_json=given["stats"])
print(json.dumps(shown))
"""


def test_home_assistants_own_schemas_accept_it_and_its_templates_give_values(payload: dict[str, Any]) -> None:
    python = os.environ.get("EDGE_DETECTOR_HOMEASSISTANT_PYTHON")
    if not python:
        pytest.skip("EDGE_DETECTOR_HOMEASSISTANT_PYTHON names no Python that has homeassistant 2025.1")
    camera = {"fps": {"inference": 2.5, "capture": 25.0}, "latency_p50_s": 0.4}
    stats = {"process": {"temperature_c": 51.5}, "cameras": dict.fromkeys(CAMERAS, camera)}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", CHECK],
        input=json.dumps({"payload": payload, "stats": stats}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["front_person_occupancy"] == "ON"
    assert shown["back-door_inference_fps"] == "2.5"
    assert shown["attic_latency"] == "0.4"
    assert shown["temperature"] == "51.5"
