from __future__ import annotations

import json

import pytest

from edge_detector.config import parse_config
from edge_detector.passwords import hash_password
from edge_detector.runtime.shown_settings import HIDDEN, without_secrets


def test_no_secret_is_shown_and_all_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DETECTOR_PASSWORD", "hunter2")
    config = parse_config(
        {
            "cameras": {"door": {"source": "rtsp://me:{EDGE_DETECTOR_PASSWORD}@192.168.1.9/1", "fps": 5.0}},
            "mqtt": {"host": "192.168.1.5", "user": "eyes", "password": "hunter2"},
            "webhooks": {"phone": {"url": "https://example.org/hunter2", "secret": "hunter2"}},
            "stream": {"rtsp_push": "rtsp://me:hunter2@192.168.1.5:8554/door"},
            "sinks": {"own": {"kind": "jsonl", "options": {"target": "a.jsonl", "password": "hunter2"}}},
            "web": {"users": {"ada": hash_password("hunter2")}},
            "zones": {"porch": {"coordinates": "0,0,1,0,1,1"}},
        },
        "test",
    )
    shown = without_secrets(config)
    text = json.dumps(shown)
    assert "hunter2" not in text
    assert "$scrypt" not in text
    assert shown["web"]["users"] == {"ada": HIDDEN}
    assert shown["cameras"]["door"]["source"] == "rtsp://***@192.168.1.9/1"
    assert shown["stream"]["rtsp_push"] == "rtsp://***@192.168.1.5:8554/door"
    assert (shown["mqtt"]["host"], shown["mqtt"]["password"]) == ("192.168.1.5", HIDDEN)
    assert shown["webhooks"]["phone"]["url"] == HIDDEN
    assert shown["cameras"]["door"]["fps"] == 5.0
    assert shown["zones"]["porch"]["coordinates"] == [[0, 0], [1, 0], [1, 1]]
