"""The trackers compared, each set up as its users would for this detector.

All get the nominal rate of inferences where they count frames, keep an object for 2 s, show it from its second
detection on, and take detections from 0.4 on; trackers with a second stage for weak detections get these too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tools.track.adapters import (
    HIGH,
    Adapter,
    Motpy,
    Norfair,
    NorfairPeriod,
    Nothing,
    Ours,
    Roboflow,
    SupervisionByteTrack,
    Yardstick,
)


@dataclass(frozen=True)
class Peer:
    """A tracker, the name of its virtual environment, and what pip installs there beside NumPy and OpenCV."""

    name: str
    venv: str
    requirements: tuple[str, ...]
    make: Callable[[float], Adapter]


def _byte(kind: str, timed: bool) -> Callable[[float], Adapter]:
    settings: dict[str, Any] = {
        "track_activation_threshold": HIGH,
        "minimum_consecutive_frames": 2,
        "high_conf_det_threshold": HIGH,
    }
    return partial(Roboflow, kind=kind, timed=timed, **settings)


_SORT: dict[str, Any] = {"kind": "SORTTracker", "strong_only": True, "minimum_consecutive_frames": 2}
_OCSORT: dict[str, Any] = {"kind": "OCSORTTracker", "minimum_consecutive_frames": 2, "high_conf_det_threshold": HIGH}

PEERS: dict[str, Peer] = {
    "nothing": Peer("no tracker", "base", (), Nothing),
    "ours": Peer("edge_detector", "base", (), Ours),
    "hungarian": Peer("Hungarian (scipy)", "scipy", ("scipy",), Yardstick),
    "greedy": Peer("the same, greedy", "base", (), partial(Yardstick, greedy=True)),
    "norfair": Peer("Norfair", "norfair", ("norfair",), Norfair),
    "norfair-period": Peer("Norfair, each camera frame", "norfair", ("norfair",), NorfairPeriod),
    "motpy": Peer("motpy", "motpy", ("motpy",), Motpy),
    "sort": Peer("trackers SORT", "trackers", ("trackers",), partial(Roboflow, timed=False, **_SORT)),
    "bytetrack": Peer("trackers ByteTrack", "trackers", ("trackers",), _byte("ByteTrackTracker", timed=False)),
    "bytetrack-timed": Peer(
        "trackers ByteTrack, timestamps", "trackers", ("trackers",), _byte("ByteTrackTracker", timed=True)
    ),
    "ocsort": Peer("trackers OC-SORT", "trackers", ("trackers",), partial(Roboflow, timed=False, **_OCSORT)),
    "cbiou-timed": Peer("trackers C-BIoU, timestamps", "trackers", ("trackers",), _byte("CBIoUTracker", timed=True)),
    "supervision": Peer("supervision ByteTrack", "supervision", ("supervision<0.31",), SupervisionByteTrack),
}
