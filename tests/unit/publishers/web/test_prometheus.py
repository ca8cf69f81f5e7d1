"""What `/metrics` says, and that dashboard and alerts ask for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from edge_detector.publishers.web.prometheus import ServerStatus, to_prometheus
from edge_detector.runtime.metrics import (
    CameraStatus,
    DetectorStatus,
    LatencyMeter,
    PipelineStats,
    ProcessStatus,
    ServiceStatus,
    SinkStatus,
    StageMeters,
)

FPS = {"capture": 10.0, "inference": 5.0, "process": 9.5, "skipped": 4.5}


def camera(**changes: Any) -> CameraStatus:
    latency, stages = LatencyMeter(), StageMeters()
    for latency_s in (0.04, 0.07, 20.0):
        latency.add(latency_s)
    stages.add("inference", 0.03)
    fields: dict[str, Any] = {
        "source": "csi://0",
        "state": "live",
        "state_s": 7.0,
        "error": None,
        "detecting": True,
        "silent_s": 0.1,
        "fps": FPS,
        "stats": PipelineStats(captured=100, inferred=50),
        "recovery": {"reopened": 1, "recreated": 2, "freezes": 3, "abandoned": 4},
        "latency": latency.histogram,
        "latency_p50_s": 0.07,
        "latency_p95_s": 20.0,
        "restarts": {"error": 3, "hang": 2, "freeze": 1},
        "searched_s": 0.2,
        "pending_s": 0.05,
        "stages": stages.histograms,
    }
    return CameraStatus(**(fields | changes))


def service(**changes: Any) -> ServiceStatus:
    fields: dict[str, Any] = {
        "detector": DetectorStatus("tiny", "LiteRT 2.3.0, 2 threads", "edgetpu", "cpu", "fallback", causes={"hang": 2}),
        "process": ProcessStatus(60.0, 7, 20, 200_000_000, 1, 61.5, 12.5, {"under_voltage": True, "throttled": False}),
        "cameras": {"front": camera()},
        "sinks": {
            "mqtt://broker:1883": SinkStatus("failing", 30.0, "it is away", 21, 108, 3, 0),
            "out.jsonl": SinkStatus("ok", 0.0, None, 1, 0, 0, 99),
        },
        "reloads": {"ok": 1, "failed": 0},
    }
    return ServiceStatus(**(fields | changes))


def samples(status: ServiceStatus, server: ServerStatus | None = None) -> dict[str, float]:
    text = to_prometheus(status, server or ServerStatus()).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device_ok", 0),
        ("device_state{state=fallback}", 1),
        ("device_state{state=ok}", 0),
        ("device_failures_total{cause=hang}", 2),
        ("device_failures_total{cause=crash}", 0),
        ("reloads_total{result=ok}", 1),
        ("cpu_seconds_total", 12.5),
        ("temperature_celsius", 61.5),
        ("throttled{reason=under_voltage}", 1),
        ("camera_fps{camera=front}", 10),
        ("detection_fps{camera=front}", 5),
        ("process_fps{camera=front}", 9.5),
        ("skipped_fps{camera=front}", 4.5),
        ("picture_age_seconds{camera=front}", 0.1),
        ("inference_age_seconds{camera=front}", 0.2),
        ("inference_pending_seconds{camera=front}", 0.05),
        ("camera_up{camera=front,source=csi://0,state=live}", 1),
        ("camera_restarts_total{camera=front,cause=hang}", 2),
        ("latency_seconds_bucket{camera=front,le=0.05}", 1),
        ("latency_seconds_bucket{camera=front,le=10.0}", 2),
        ("latency_seconds_bucket{camera=front,le=+Inf}", 3),
        ("stage_seconds_bucket{camera=front,le=0.025,stage=inference}", 0),
        ("stage_seconds_bucket{camera=front,le=0.05,stage=inference}", 1),
        ("stage_seconds_count{camera=front,stage=encode}", 1),
        ("queue_dropped_total{queue=mqtt://broker:1883}", 108),
        ("queue_dropped_total{queue=viewers}", 17),
        ("queue_depth{queue=mqtt://broker:1883}", 21),
        ("sink_state{sink=mqtt://broker:1883,state=failing}", 1),
        ("sink_state{sink=mqtt://broker:1883,state=ok}", 0),
        ("sink_state{sink=out.jsonl,state=ok}", 1),
        ("sink_trouble_seconds{sink=mqtt://broker:1883}", 30),
        ("sink_failures_total{sink=mqtt://broker:1883}", 3),
        ("sink_written_total{sink=out.jsonl}", 99),
        ("pictures_encoded_total{camera=front}", 5),
        ("ready", 0),
        ("viewers", 2),
        ("websockets", 3),
    ],
)
def test_figures_have_their_names(name: str, value: float) -> None:
    stages = StageMeters()
    stages.add("encode", 0.004)
    server = ServerStatus(False, 2, 3, {"viewers": 17}, {"front": 5}, {"front": stages.histograms})
    assert samples(service(), server)[f"edge_detector_{name}"] == value


def test_build_says_version_python_and_runtime() -> None:
    (build,) = [name for name in samples(service()) if name.startswith("edge_detector_build_info")]
    assert re.fullmatch(r"\S+\{python=3\.\d+\.\d+\S*,runtime=LiteRT 2\.3\.0,version=\d\S+\}", build)


def test_what_is_not_known_is_left_out() -> None:
    bare = service(
        process=ProcessStatus(1.0, 1, None, None, 0), cameras={"front": camera(silent_s=None, searched_s=None)}
    )
    names = " ".join(samples(bare))
    for name in ("temperature", "open_fds", "resident", "throttled", "picture_age", "inference_age"):
        assert f"edge_detector_{name}" not in names


def test_labels_with_quotes_and_line_breaks_stay_one_line() -> None:
    odd = 'a"b\\c\nd'
    found = samples(service(sinks={odd: SinkStatus("ok", 0.0, None, 0, 0, 0, 5)}))
    assert found[f"edge_detector_sink_written_total{{sink={odd}}}"] == 5


def expressions(repository: Path) -> Iterator[str]:
    folder = repository / "systemd" / "monitoring"
    for panel in json.loads((folder / "grafana-dashboard.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for rule in yaml.safe_load((folder / "alerts.yml").read_text())["groups"][0]["rules"]:
        yield rule["expr"]


def test_dashboard_and_alerts_ask_for_what_there_is(repository: Path) -> None:
    there = {name.partition("{")[0] for name in samples(service(), ServerStatus(encoded={"front": 1}))}
    asked = {name for expr in expressions(repository) for name in re.findall(r"\bedge_detector_\w+", expr)}
    assert len(asked) > 30
    assert asked <= there


def test_dashboard_asks_for_its_source_and_its_panels_lie_side_by_side(repository: Path) -> None:
    """As Grafana's documentation has it of what is imported: "Dashboard JSON model", "Import dashboards"."""
    dashboard = json.loads((repository / "systemd" / "monitoring" / "grafana-dashboard.json").read_text())
    (source,) = dashboard["__inputs"]
    assert (source["type"], source["pluginId"]) == ("datasource", "prometheus")
    wanted = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    panels, cells = dashboard["panels"], set()
    assert dashboard["id"] is None
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["type"] for panel in panels} == {
        one["id"] for one in dashboard["__requires"] if one["type"] == "panel"
    }
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not mine & cells, panel["title"]
        cells |= mine
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) > 0
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == wanted
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert all(one["datasource"] == wanted for one in variables.values())
    used = set(re.findall(r'"\$(\w+)', " ".join(target["expr"] for panel in panels for target in panel["targets"])))
    assert used == set(variables)


def test_json_tells_sinks_and_the_mean_of_each_stage_in_milliseconds() -> None:
    document = service().to_json()
    assert document["cameras"]["front"]["stages"] == {"inference": 30.0}
    assert document["sinks"]["out.jsonl"]["state"] == "ok"
    json.dumps(document, allow_nan=False)
