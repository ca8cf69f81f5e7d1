"""What holds for every publisher."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_detector.errors import ConfigError, PublishError
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import PUBLISHERS, Publisher, open_publisher
from edge_detector.runtime.metrics import DetectorStatus, ProcessStatus, ServiceStatus
from edge_detector.sink_config import MqttConfig, RecordingsConfig, SnapshotsConfig, UdpConfig
from edge_detector.stream_config import StreamConfig

MakeResult = Callable[..., FrameResult]
LABELS = ("person",)


def settings(kind: str, folder: Path) -> dict[str, Any]:
    overlay = OverlayRenderer(LABELS)
    return {
        "live_video": {"camera": "camera", "overlay": overlay, "settings": StreamConfig()},
        "jsonl": {"target": folder / "out.jsonl", "labels": LABELS, "model_name": "tiny"},
        "mqtt": {
            "settings": MqttConfig(host="127.0.0.1", port=9),  # where nobody answers
            "labels": LABELS,
            "model_name": "tiny",
            "cameras": {},
            "status": lambda: ServiceStatus(DetectorStatus("tiny", "cpu"), ProcessStatus(1.0, 5, 11, 10**8, 0)),
            "set_detecting": lambda name, on: None,
        },
        "pictures": {"directory": folder / "pictures", "overlay": overlay},
        "recordings": {
            "settings": RecordingsConfig(path=str(folder / "recordings")),
            "labels": LABELS,
            "overlay": overlay,
        },
        "snapshots": {"settings": SnapshotsConfig(path=str(folder / "snapshots")), "labels": LABELS},
        "udp": {"settings": UdpConfig(address="127.0.0.1:9"), "labels": LABELS, "model_name": "tiny"},
        "video": {"path": folder / "out.mp4", "overlay": overlay, "fps": 10.0},
        "web": {"overlay": overlay, "labels": LABELS, "model_name": "tiny", "port": 0},
    }[kind]


@pytest.fixture(params=sorted(PUBLISHERS))
def publisher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Publisher]:
    if request.param in ("live_video", "recordings"):
        pytest.importorskip("av", reason="needs PyAV: pip install av")
    opened = open_publisher(request.param, **settings(request.param, tmp_path))
    yield opened
    opened.close()


def test_publisher_has_a_name_for_messages(publisher: Publisher) -> None:
    assert publisher.name
    assert "\n" not in publisher.name


def test_results_with_and_without_detections_are_taken(publisher: Publisher, make_result: MakeResult) -> None:
    publisher.publish(make_result([]))
    publisher.publish(make_result([(1, 2, 30, 40), (-5, -5, 500, 500)], frame_id=1, tracker_ids=[1, 2]))
    publisher.publish(make_result(frame_id=2, age_s=3))


def test_picture_is_never_written_to(publisher: Publisher, make_result: MakeResult) -> None:
    result = make_result()
    result.frame.image.setflags(write=False)
    publisher.publish(result)
    publisher.close()


def test_close_can_be_called_twice_and_ends_the_threads(publisher: Publisher, make_result: MakeResult) -> None:
    publisher.publish(make_result())
    publisher.close()
    publisher.close()
    assert not [
        thread.name for thread in threading.enumerate() if publisher.name in thread.name or "web" in thread.name
    ]


def test_publishing_after_close_is_an_error(publisher: Publisher, make_result: MakeResult) -> None:
    publisher.close()
    with pytest.raises(PublishError):
        publisher.publish(make_result())


def test_unknown_kind_is_a_config_error_that_lists_the_kinds() -> None:
    with pytest.raises(
        ConfigError,
        match="unknown publisher 'fax'; choose from jsonl, mqtt, pictures, recordings, snapshots, udp, video, web",
    ):
        open_publisher("fax")


def test_importing_the_contract_imports_no_publisher() -> None:
    heavy = {"aiohttp", "cv2", "edge_detector.publishers.web"}
    code = f"import sys, edge_detector.publishers; print(*{heavy} & set(sys.modules))"
    repository = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
    assert result.stdout.split() == []
