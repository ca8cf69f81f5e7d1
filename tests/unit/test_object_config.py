from __future__ import annotations

from typing import Any

import pytest

from edge_detector.config import Config, parse_config
from edge_detector.config_checks import check_coordinates, check_labels
from edge_detector.errors import ConfigError
from edge_detector.object_config import ObjectsConfig, ZoneConfig, parse_period

DOOR = {"coordinates": "0.1,0.5,0.4,0.5,0.4,1"}
IN_PIXELS = {"coordinates": "0,0,1200,0,1200,700"}


def settings(**keys: Any) -> Config:
    return parse_config(keys, "settings.yaml")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"zones": {"door": {"coordinats": ""}}},
            r"zones\.door\.coordinats: unknown key \(did you mean coordinates\?\); known here: coordinates, objects",
        ),
        ({"zones": {"door": {}}}, r"zones\.door\.coordinates: Field required"),
        (
            {"zones": {"door": {"coordinates": "0,0,1,1"}}},
            r"zones\.door\.coordinates: a polygon needs 3 .*, got '0,0,1,1'",
        ),
        ({"zones": {"door": {"coordinates": [0.0, 0, 1]}}}, r"zones\.door\.coordinates: holds 3 numbers"),
        ({"zones": {"front door": DOOR}}, r"zones\.front…: a name is made of letters, digits"),
        ({"zones": {"door": DOOR | {"inertia": 0}}}, r"zones\.door\.inertia: .*greater than or equal to 1, got 0"),
        ({"zones": {"door": DOOR | {"loitering_time": -1}}}, r"zones\.door\.loitering_time: "),
        ({"zones": {"door": "0,0,1,0,1,1"}}, r"zones\.door: must hold keys and values, not a text"),
        (
            {"lines": {"gate": {"coordinates": "0,0,1,0,1,1"}}},
            r"lines\.gate\.coordinates: a line needs 2 different points",
        ),
        (
            {"cameras": {"a": {"zones": {"door": {"coords": 1}}}}},
            r"cameras\.a\.zones\.door\.coords: unknown key \(did you mean coordinates\?\); known.*iner",
        ),
        (
            {"cameras": {"a": {"zones": {"door": {"coordinates": "x"}}}}},
            r"cameras\.a\.zones\.door\.coordinates: 'x' is no num",
        ),
        (
            {"cameras": {"a": {"objects": {"filters": {"car": {"area": 1}}}}}},
            r"car\.area: unknown key \(did you mean min_area\?\); known here: min_area",
        ),
        (
            {"objects": {"filters": {"car": {"min_area": 9, "max_area": 8}}}},
            r"filters\.car: min_area 9 is above max_area 8",
        ),
        (
            {"objects": {"filters": {"car": {"min_ratio": 2, "max_ratio": 1.5}}}},
            r"car: min_ratio 2 is above max_ratio 1\.5",
        ),
        (
            {"objects": {"filters": {"car": {"min_score": 1.1}}}},
            r"objects\.filters\.car\.min_score: .*less than or equal to 1",
        ),
        ({"objects": {"filters": {"car": {"threshold": 70}}}}, r"objects\.filters\.car\.threshold: "),
        ({"objects": {"filters": {"car": {"min_area": float("nan")}}}}, r"objects\.filters\.car\.min_area: "),
        ({"objects": {"mask": ["0,0,1,0,1,1", "0,0"]}}, r"objects\.mask\.1: a polygon needs 3"),
        ({"objects": {"track": "person"}}, r"objects\.track: .*valid list, got 'person'"),
        ({"tracking": {"min_hits": 0}}, r"tracking\.min_hits: "),
        ({"tracking": {"lost_s": 0}}, r"tracking\.lost_s: "),
        ({"motion": {"threshold": 256}}, r"motion\.threshold: .*less than or equal to 255"),
        ({"motion": {"min_area": 2}}, r"motion\.min_area: "),
        ({"regions": {"zoom": 0.5}}, r"regions\.zoom: "),
        ({"events": {"max_mb": 0}}, r"events\.max_mb: "),
        (
            {"rules": {"x": {"direction": "in"}}},
            r"rules\.x: would hold for every object: name a label, a zone or a line",
        ),
        ({"rules": {"x": {"label": "car", "direction": "in"}}}, r"rules\.x: direction is that of a line"),
        ({"rules": {"x": {"line": "gate", "min_count": 2}}}, r"rules\.x: min_count: objects cross a line one by one"),
        ({"rules": {"x": {"label": "car", "direction": "up"}}}, r"rules\.x\.direction: .*'in' or 'out'.*got 'up'"),
        (
            {"rules": {"x": {"label": "car", "between": "22-6"}}},
            r"rules\.x\.between: give a time of day as HH:MM-HH:MM",
        ),
        ({"rules": {"x": {"label": "car", "weekdays": ["friday"]}}}, r"rules\.x\.weekdays\.0: .*'friday'"),
        ({"rules": {"x": {"label": "car", "weekdays": []}}}, r"rules\.x\.weekdays: .*at least 1 item"),
        ({"rules": {"x": {"label": "car", "for_s": -1}}}, r"rules\.x\.for_s: "),
    ],
)
def test_mistake_is_named_with_the_path_of_its_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        settings(**keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"zone": "dor"}, r"settings\.yaml: rules\.x\.zone: no zone is named 'dor'; known here: door, yard"),
        ({"zone": "yard", "camera": "front"}, r"rules\.x\.zone: no zone is named 'yard'; known here: door"),
        ({"line": "gate"}, r"rules\.x\.line: no line is named 'gate'; known here: none"),
        ({"label": "car", "camera": "side"}, r"rules\.x\.camera: no camera is named 'side'; known here: back, front"),
    ],
)
def test_rule_that_names_what_there_is_not_is_refused(rule: dict[str, Any], message: str) -> None:
    cameras = {"front": {}, "back": {"zones": {"yard": DOOR}}}
    with pytest.raises(ConfigError, match=message):
        settings(cameras=cameras, zones={"door": DOOR}, rules={"x": rule})


def test_rule_may_name_the_zone_of_any_camera_and_the_camera_of_a_lone_source() -> None:
    settings(cameras={"front": {}, "back": {"zones": {"yard": DOOR}}}, rules={"x": {"zone": "yard"}})
    settings(source="csi://0", zones={"door": DOOR}, rules={"x": {"zone": "door", "camera": "camera"}})


def test_areas_in_different_units_are_not_compared_without_a_picture() -> None:
    settings(objects={"filters": {"car": {"min_area": 5000, "max_area": 0.5}}})


def test_blocks_of_frigate_can_be_moved_across() -> None:
    objects = ObjectsConfig.model_validate(
        {
            "track": ["person", "car"],
            "mask": "0,0,1000,0,1000,200,0,200",
            "filters": {
                "person": {"min_area": 5000, "max_area": 100000, "min_score": 0.5, "threshold": 0.7, "mask": ""}
            },
        }
    )
    assert objects.mask == [((0, 0), (1000, 0), (1000, 200), (0, 200))]
    assert objects.filters["person"].mask == []
    zone = ZoneConfig.model_validate(
        {"coordinates": "0.033,0.306,0.324,0.138,0.439,0.185", "inertia": 3, "loitering_time": 10, "objects": "person"}
    )
    assert zone.objects == ["person"]


@pytest.mark.parametrize(
    "mask", ["0,0,1,0,1,1", ["0,0,1,0,1,1"], [0, 0, 1, 0, 1, 1], [[[0, 0], [1, 0], [1, 1]]], [["0,0", "1,0", "1,1"]]]
)
def test_mask_is_one_polygon_or_a_list_of_them(mask: object) -> None:
    assert ObjectsConfig.model_validate({"mask": mask}).mask == [((0, 0), (1, 0), (1, 1))]


def test_camera_takes_the_blocks_that_it_lacks_from_the_top_level() -> None:
    config = settings(
        cameras={"front": {"zones": {}, "tracking": {"min_hits": 5}}, "back": {"zones": None}},
        zones={"door": DOOR},
        tracking={"flow": False},
        motion={"enabled": False},
    )
    front, back = config.feeds["front"], config.feeds["back"]
    assert (front.zones, front.tracking.min_hits, front.tracking.flow) == ({}, 5, True)
    assert (list(back.zones), back.tracking.min_hits, back.tracking.flow) == (["door"], 2, False)
    assert not front.motion.enabled
    assert front.regions == config.regions


def test_settings_survive_being_written_out_and_read_again() -> None:
    config = settings(
        cameras={"front": {"zones": {"door": DOOR}, "lines": {"gate": {"coordinates": [0, 0, 640, 480]}}}},
        objects={"mask": [0, 0, 1, 0, 1, 1]},
        rules={"x": {"zone": "door", "weekdays": ["mon"], "between": "22:00-06:00"}},
    )
    assert settings(**config.model_dump()) == config
    filled = settings(cameras={name: feed.model_dump() for name, feed in config.feeds.items()})
    assert filled.feeds == config.feeds


def test_coordinates_must_lie_in_a_picture_of_the_size_that_the_camera_is_asked_for() -> None:
    front = {"size": "1280x720", "zones": {"door": IN_PIXELS}}
    settings(cameras={"front": front})
    with pytest.raises(
        ConfigError, match=r"cameras\.front\.zones\.door\.coordinates: 1200,0 lies outside .* of 640x480$"
    ):
        settings(cameras={"front": front | {"size": "640x480"}})
    with pytest.raises(
        ConfigError, match=r"yaml: zones\.door\.coordinates: 1200,0 lies .* of 640x480 of camera front$"
    ):
        settings(cameras={"front": {"size": "640x480"}, "back": {}}, zones={"door": IN_PIXELS})


def test_picture_that_is_turned_has_its_sides_swapped() -> None:
    with pytest.raises(ConfigError, match=r"1200,0 lies outside the picture of 720x1280"):
        settings(cameras={"front": {"size": "1280x720", "rotation": 90, "zones": {"door": IN_PIXELS}}})


def test_size_in_the_uri_goes_before_the_key() -> None:
    settings(cameras={"a": {"source": "csi://0?size=1280x720", "size": "640x480", "zones": {"door": IN_PIXELS}}})


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (
            {"lines": {"gate": {"coordinates": "0,0,0,900"}}},
            r"cameras\.a\.lines\.gate\.coordinates: 0,900 lies outside",
        ),
        ({"motion": {"mask": ["0,0,1,0,1,1", "0,0,0,900,9,9"]}}, r"cameras\.a\.motion\.mask\.1: 0,900 lies outside"),
        ({"objects": {"mask": "0,0,0,900,9,9"}}, r"cameras\.a\.objects\.mask\.0: 0,900 lies outside"),
        (
            {"objects": {"filters": {"car": {"mask": "0,0,0,900,9,9"}}}},
            r"a\.objects\.filters\.car\.mask\.0: 0,900 lies",
        ),
    ],
)
def test_all_coordinates_are_checked_against_the_first_picture(camera: dict[str, Any], message: str) -> None:
    config = settings(cameras={"a": camera})
    check_coordinates(config, "a", (1600, 900))
    with pytest.raises(ConfigError, match=message):
        check_coordinates(config, "a", (640, 480))


def test_labels_that_the_model_does_not_have_are_all_named() -> None:
    config = settings(
        cameras={
            "a": {"objects": {"track": ["cat"]}, "lines": {"gate": {"coordinates": "0,0,1,1", "objects": ["cow"]}}}
        },
        objects={"track": ["person", "persn"], "filters": {"dog": {}}},
        zones={"door": DOOR | {"objects": ["person", "bird"]}},
        rules={"x": {"label": "fox"}, "y": {"label": "person"}},
    )
    with pytest.raises(ConfigError) as caught:
        check_labels(config, ("person", "???", "car"))
    assert str(caught.value) == (
        "objects.track: 'persn'; objects.filters: 'dog'; zones.door.objects: 'bird'; cameras.a.objects.track: 'cat'; "
        "cameras.a.lines.gate.objects: 'cow'; rules.x.label: 'fox': no label of the model, which knows: person, car"
    )


def test_labels_that_the_model_has_are_fine() -> None:
    check_labels(settings(objects={"track": ["car"]}, rules={"x": {"label": "person"}}), ("person", "car"))


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("22:00-06:00", (1320, 360)), ("8:30-17:45", (510, 1065)), ("18:00-24:00", (1080, 1440)), ("00:00-00:01", (0, 1))],
)
def test_period_is_read_as_minutes_after_midnight(text: str, minutes: tuple[int, int]) -> None:
    assert parse_period(text) == minutes


@pytest.mark.parametrize(
    "text",
    ["", "22:00", "22-06", "22:00-06:00 ", "06:00-06:00", "24:00-06:00", "22:60-06:00", "22:00-24:01", "22:00-25:00"],
)
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give a time of day as HH:MM-HH:MM"):
        parse_period(text)
