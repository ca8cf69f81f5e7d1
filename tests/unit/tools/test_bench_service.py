from __future__ import annotations

from pathlib import Path

import pytest

from tools.bench.running import RunningService, bare_invoke, viewers
from tools.bench.service import Load, Memory, Spread, _targets
from tools.bench.viewers import MJPEG, SOCKET

MODEL = Path(__file__).parents[2] / "fixtures" / "raw_heads_int8.tflite"
CAMERA = "synthetic://?width=320&height=240&fps=60"


@pytest.mark.parametrize("kind", [MJPEG, SOCKET])
def test_a_service_is_read_while_viewers_watch_it(tmp_path: Path, kind: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("person\ncar\n")
    settings = {
        "model": {"path": str(MODEL), "labelmap_path": str(labels), "num_threads": 1},
        "cameras": {"camera": {"source": CAMERA}},
    }

    with RunningService(settings, tmp_path) as service:
        with viewers(service.url, kind, 2):
            first = last = service.read()
            while last.inferred < first.inferred + 20 or last.encoded < first.encoded + 20:
                last = service.read()
        latencies_s = service.latencies_s(first.at_s, last.at_s)
        memory_mb = service.memory_mb()

    assert 0 < service.opened_s < service.first_detection_s
    assert last.inferred_s > first.inferred_s
    assert last.cpu_s > first.cpu_s
    assert latencies_s
    assert all(0 < latency_s < 60 for latency_s in latencies_s)
    assert memory_mb["anonymous"] + memory_mb["files"] == pytest.approx(memory_mb["rss"], rel=0.05)


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such model file"):
        RunningService({"model": {"path": "/nowhere.tflite"}}, tmp_path)


def test_bare_inference_runs_in_a_process_of_its_own() -> None:
    found = bare_invoke(MODEL, threads=1, seconds=0.2)

    assert found["fps"] > 0
    assert found["cores"] > 0


def load(kind: str, viewers: int, *, share: float, cores: float) -> Load:
    some = Spread(1.0, 1.0, 1.0)
    return Load(viewers, kind, some, Spread.of([share]), some, some, Spread.of([cores]), some, some, some)


def test_what_is_missed_is_said_and_on_a_busy_machine_not_judged() -> None:
    loads = [load(kind, n, share=0.91, cores=0.2 + 0.01 * n) for kind in (MJPEG, SOCKET) for n in (0, 1, 10)]
    memory = Memory(model=26.2, rss=160.0, anonymous=100.0, files=60.0, peak=170.0, above_model=133.8)
    start_s = Spread.of([1.4, 1.6, 1.7])

    def verdicts(side: int, quiet: bool) -> list[bool | None]:
        model = Path(f"ssd_{side}_int8.tflite")
        return [target.met for target in _targets(model, quiet, loads, loads, start_s, memory)]

    assert verdicts(320, quiet=True) == [True, True, False, False, False, False]
    assert verdicts(640, quiet=True) == [False, False, False, False, False, False]
    assert verdicts(320, quiet=False) == [None, None, False, False, False, None]
