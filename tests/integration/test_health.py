"""What the running service says of its health, to people and to a real Prometheus."""

from __future__ import annotations

import fcntl
import json
import math
import os
import queue
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_detector.config import parse_config
from edge_detector.publishers.web import readiness
from edge_detector.runtime import metrics
from edge_detector.runtime.service import run_service

REPOSITORY = Path(__file__).resolve().parents[2]
MONITORING = REPOSITORY / "systemd" / "monitoring"
MODEL = REPOSITORY / "tests" / "fixtures" / "detection_op.tflite"
LIMIT_S = 30.0


class Asked:
    """A server that is asked."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        return json.loads(self.get(path)[1])

    def post(self, path: str, content: Any) -> None:
        headers = {**self._headers, "Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, json.dumps(content).encode(), headers), timeout=10
        ):
            pass

    def metric(self, name: str) -> float:
        text = self.get("/metrics")[1]
        match = re.search(rf"^edge_detector_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert match is not None, (name, text)
        return float(match[1])


def wait_for(met: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + LIMIT_S
    while not (found := met()):
        assert time.monotonic() < deadline_s, f"{what} did not come"
        time.sleep(0.05)
    return found


@contextmanager
def running(settings: dict[str, Any], token: str | None = None) -> Iterator[Asked]:
    """Run the service, and stop it."""
    given = {"model": {"path": str(MODEL)}, "http": "127.0.0.1:0"} | settings
    lines: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    thread = threading.Thread(target=run_service, args=(parse_config(given, "test"), stop, None, lines.put))
    thread.start()
    try:
        match = re.search(r"http://127\.0\.0\.1:\d+", lines.get(timeout=LIMIT_S))
        assert match is not None
        yield Asked(match[0], token)
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def tool() -> Callable[..., str]:
    """Return a function that runs promtool and returns what it says, if it is content."""
    if shutil.which("promtool") is None or shutil.which("prometheus") is None:
        pytest.skip("needs Prometheus and its promtool: apt install prometheus")

    def run(*arguments: object, given: str = "") -> str:
        words = ["promtool", *map(str, arguments)]
        result = subprocess.run(words, input=given, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    return run


Tool = Callable[..., str]


def synthetic(faults: str = "", **settings: Any) -> dict[str, Any]:
    source = f"synthetic://?width=64&height=48&fps=50&faults={faults}"
    return {"cameras": {"camera": {"source": source, **settings}}}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is silent for half a second is so."""
    monkeypatch.setattr(readiness, "SILENT_S", 0.5)
    monkeypatch.setattr(metrics, "HANGS_S", 0.5)


def ready(service: Asked) -> bool:
    return service.get("/readyz") == (200, "ok\n")


def test_service_is_ready_with_its_first_inference_and_not_while_its_camera_stalls(impatient: None) -> None:
    with running(synthetic("stall@100", stall_s=30.0)) as service:
        wait_for(lambda: ready(service), "readiness")
        status, reason = wait_for(lambda: (answer := service.get("/readyz"))[0] == 503 and answer, "stall")
        assert re.fullmatch(r"camera: no picture for \d+ s \(live\)\n", reason), (status, reason)
        assert service.get("/healthz") == (200, "ok\n")
        assert service.metric("ready") == 0
        assert service.metric('picture_age_seconds{camera="camera"}') > 0.5


def test_service_is_ready_again_when_its_camera_is_back_and_says_why_it_was_started_again(impatient: None) -> None:
    with running(synthetic("unplug@100", stall_s=0.5)) as service:
        wait_for(lambda: ready(service), "readiness")
        wait_for(lambda: "(reconnecting)" in service.get("/readyz")[1], "unplugging")
        wait_for(lambda: ready(service), "readiness")
        assert service.metric('camera_restarts_total{camera="camera",cause="error"}') >= 1
        assert service.metric('camera_restarts_total{camera="camera",cause="hang"}') == 0


def test_service_whose_detection_is_paused_is_ready(impatient: None) -> None:
    with running(synthetic()) as service:
        wait_for(lambda: ready(service), "readiness")
        service.post("/api/control", {"detect": False})
        wait_for(lambda: service.metric('inference_age_seconds{camera="camera"}') > 1.5, "pause")
        wait_for(lambda: ready(service), "readiness")
        assert service.metric('inference_pending_seconds{camera="camera"}') == 0


def test_service_whose_inference_hangs_is_alive_and_not_ready(
    impatient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to build the delegate that hangs on command")
    library, compiled, command = tmp_path / "delegate.so", tmp_path / "twin_edgetpu.tflite", tmp_path / "command"
    source = REPOSITORY / "tests" / "fixtures" / "fault_delegate.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    compiled.write_bytes(MODEL.read_bytes() + b"edgetpu-custom-op")
    command.write_text("invoke hang 50")
    monkeypatch.setenv("FAULT_DELEGATE_COMMAND", str(command))
    monkeypatch.setenv("FAULT_DELEGATE_RECORD", str(tmp_path / "record"))
    model = {"path": str(MODEL), "edgetpu_path": str(compiled), "delegate_library": str(library)}
    model |= {"device": "edgetpu:usb:0", "invoke_timeout_s": 4.0}
    with running(synthetic() | {"model": model}) as service:
        wait_for(lambda: "inference has stopped" in service.get("/readyz")[1], "hang")
        assert service.get("/healthz")[0] == 200
        command.write_text("create fail")
        wait_for(lambda: ready(service), "the CPU")
        assert service.metric('device_failures_total{cause="hang"}') == 1
        assert service.metric("device_ok") == 0
        assert service.metric('device_state{state="ok"}') == 0


def test_sink_that_hangs_is_seen_while_the_service_is_ready(impatient: None, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    os.mkfifo(path)
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
    try:
        with running(synthetic() | {"output": {"jsonl": str(path)}}) as service:
            wait_for(lambda: service.metric('sink_state{sink="output.jsonl",state="hanging"}'), "hanging")
            assert service.metric('sink_trouble_seconds{sink="output.jsonl"}') > 0.5
            wait_for(lambda: service.metric('queue_dropped_total{queue="output.jsonl"}'), "drops")
            told = service.json("/api/status")["service"]["sinks"]["output.jsonl"]
            assert (told["state"], told["error"]) == ("hanging", "it does not answer")
            wait_for(lambda: ready(service), "readiness")
            with open(end, "rb", closefd=False) as drain:  # it is read, and works again

                def works() -> bool:
                    drain.read()
                    return service.metric('sink_state{sink="output.jsonl",state="ok"}') == 1

                wait_for(works, "work")
    finally:
        os.close(end)


def test_sinks_are_named_as_in_the_settings() -> None:
    hooks = {name: {"url": f"http://127.0.0.1:9/{name}"} for name in ("first", "second")}
    with running(synthetic() | {"webhooks": hooks, "mqtt": {"host": "127.0.0.1", "port": 9}}) as service:
        wait_for(lambda: service.metric('sink_state{sink="mqtt",state="failing"}'), "failing")
        named = {"webhooks.first", "webhooks.second", "mqtt", "the store of events"}
        assert set(service.json("/api/status")["service"]["sinks"]) == named
        assert service.metric('queue_depth{queue="webhooks.second"}') >= 0


# With the real Prometheus. Empty on a machine without such a sensor.
MAY_BE_EMPTY = ("edge_detector_temperature_celsius", "edge_detector_throttled")
STAGES = ("wait", "preprocess", "inference", "postprocess", "track", "publish", "overlay", "encode")
TOKEN = "prometheus-reads-with-this-token"


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Asked]:
    """Run Prometheus with the settings that are shipped, on `target` and every second."""
    shutil.copy(MONITORING / "alerts.yml", folder)
    (folder / "token").write_text(TOKEN)
    text = (MONITORING / "prometheus.yml").read_text().replace("15s", "1s").replace("localhost:8080", target)
    (folder / "prometheus.yml").write_text(text.replace("# authorization:", "authorization:"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = {"config.file": "prometheus.yml", "storage.tsdb.path": "data", "web.listen-address": address}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", *(f"--{key}={value}" for key, value in options.items())], cwd=folder, stdout=log, stderr=log
        )
    try:
        asked = Asked(f"http://{address}")

        def up() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                return asked.get("/-/ready")[0] == 200
            except OSError:
                return False

        wait_for(up, "Prometheus")
        yield asked
    finally:
        process.terminate()
        process.wait(20)


def query(server: Asked, expression: str) -> list[float]:
    answer = server.json(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    assert answer["status"] == "success", (expression, answer)
    return [float(one["value"][1]) for one in answer["data"]["result"]]


def test_prometheus_scrapes_the_service_and_answers_the_dashboard(tool: Tool, tmp_path: Path) -> None:
    settings = {
        "model": {"path": "ssd_resnet50_fpn_person_320_int8"},
        "source": "demo",
        "web": {"token": TOKEN},
        "output": {"jsonl": str(tmp_path / "out.jsonl")},
        "webhooks": {"away": {"url": "http://127.0.0.1:9/"}},
    }
    with running(settings, TOKEN) as service, prometheus(tmp_path, service.url.partition("//")[2]) as server:
        wait_for(lambda: ready(service), "readiness")
        for _ in range(3):
            assert service.get("/snapshot.jpg?width=320")[0] == 200
        # Two scrapes after that.
        wait_for(lambda: query(server, "count_over_time(edge_detector_inferred_total[1m] offset 3s) > 2"), "scrapes")
        assert tool("check", "metrics", given=service.get("/metrics")[1]) == ""

        (target,) = server.json("/api/v1/targets")["data"]["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        rules = server.json("/api/v1/rules")["data"]["groups"][0]["rules"]
        assert len(rules) == 12
        assert {(rule["health"], rule.get("lastError", "")) for rule in rules} == {("ok", "")}
        assert {rule["state"] for rule in rules} <= {"inactive", "pending"}

        dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
        for panel in dashboard["panels"]:
            for wanted in panel["targets"]:
                expression = re.sub(r"\$(instance|camera)\b", ".*", wanted["expr"].replace("$__rate_interval", "5s"))
                values = query(server, expression)
                if not any(name in expression for name in MAY_BE_EMPTY):
                    assert any(map(math.isfinite, values)), (panel["title"], expression, values)
        for variable in dashboard["templating"]["list"]:
            series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            match = urllib.parse.urlencode({"match[]": series.replace("$instance", ".*")})
            values = server.json(f"/api/v1/label/{label}/values?{match}")["data"]
            assert values == [service.url.partition("//")[2] if label == "instance" else "camera"]

        stages = server.json("/api/v1/label/stage/values")["data"]
        assert stages == sorted(STAGES)


def test_settings_and_alerts_are_what_prometheus_takes(tool: Tool) -> None:
    assert "12 rules found" in tool("check", "rules", MONITORING / "alerts.yml")
    tool("check", "config", MONITORING / "prometheus.yml")


def test_each_alert_fires_when_it_should_and_only_then(tool: Tool) -> None:
    tests = REPOSITORY / "tests" / "fixtures" / "alerts_test.yml"
    tool("test", "rules", tests)
    named = set(re.findall(r"alertname: (\w+)", tests.read_text()))
    assert named == set(re.findall(r"alert: (\w+)", (MONITORING / "alerts.yml").read_text()))
