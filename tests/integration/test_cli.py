"""The command as users run it: a child process, its exit code, and what it prints and writes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_detector.config import DEFAULT_MODEL

COMMAND = (sys.executable, "-m", "edge_detector")
REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
MODEL = FIXTURES / "detection_op.tflite"  # 2 classes; the redder the mean colour, the surer it is
DEMO_CLIP = REPOSITORY / "edge_detector" / "assets" / "demo.mp4"
EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_CANTCREAT, EX_CONFIG = 2, 65, 66, 73, 78

Result = subprocess.CompletedProcess[str]


def call(*arguments: str | Path, cwd: Path = REPOSITORY) -> Result:
    environment = {"PATH": "", "PYTHONPATH": str(REPOSITORY), "HOME": str(cwd)}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=cwd, env=environment
    )


def error_of(result: Result) -> str:
    """Return the one error line; no traceback may be there."""
    assert "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("edge-detector: error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def red_picture(path: Path, width: int = 320, height: int = 240) -> Path:
    cv2.imwrite(str(path), np.full((height, width, 3), (30, 30, 230), np.uint8))
    return path


def red_video(path: Path, frames: int = 12) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 120))
    for number in range(frames):
        writer.write(np.full((120, 160, 3), (5 * number, 30, 230), np.uint8))
    writer.release()
    return path


def results(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# What works.


def test_pictures_are_annotated_and_described(tmp_path: Path) -> None:
    first, second = red_picture(tmp_path / "a.png"), red_picture(tmp_path / "b.jpg", 64, 48)
    result = call("detect", first, second, "--model", MODEL, "--output", tmp_path / "out", "--jsonl", tmp_path / "l")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_boxes.jpg", "b_boxes.jpg"]
    annotated = cv2.imread(str(tmp_path / "out" / "a_boxes.jpg"))
    assert annotated.shape == (240, 320, 3)
    assert np.ptp(annotated.reshape(-1, 3), axis=0).max() > 100  # the original is of one colour
    lines = results(tmp_path / "l")
    assert [(line["source"], line["width"], line["height"]) for line in lines] == [
        (str(first), 320, 240),
        (str(second), 64, 48),
    ]
    assert all(line["detections"] for line in lines)


def test_video_is_annotated_frame_by_frame_at_its_own_speed(tmp_path: Path) -> None:
    clip = red_video(tmp_path / "clip.avi")
    result = call("detect", clip, "--model", MODEL, "--output", tmp_path / "out", "--jsonl", tmp_path / "l")
    assert result.returncode == 0, result.stderr
    assert [line["frame_id"] for line in results(tmp_path / "l")] == list(range(12))
    video = cv2.VideoCapture(str(tmp_path / "out" / "clip_boxes.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 12
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10, abs=0.1)
    video.release()


def test_clips_of_the_same_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        red_video(tmp_path / folder / "clip.avi", 3)
    result = call("detect", "x/clip.avi", "y/clip.avi", "--model", MODEL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in (tmp_path / "detections").iterdir())
    assert names == ["clip_boxes.mp4", "clip_boxes_2.mp4"]


def test_lines_on_standard_output_are_alone_there(tmp_path: Path) -> None:
    result = call("detect", red_picture(tmp_path / "a.png"), "--model", MODEL, "--jsonl", "-")
    assert result.returncode == 0
    assert json.loads(result.stdout)["source"] == str(tmp_path / "a.png")
    assert len(result.stdout.splitlines()) == 1


def test_threshold_drops_what_is_below(tmp_path: Path) -> None:
    picture = red_picture(tmp_path / "a.png")
    counts = [
        len(
            json.loads(call("detect", picture, "--model", MODEL, "--jsonl", "-", "--threshold", t).stdout)["detections"]
        )
        for t in ("0.01", "0.5", "1")
    ]
    assert counts[0] > counts[1] > counts[2] == 0


def test_models_lists_names_whole_also_through_a_pipe() -> None:
    result = call("models")
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line for line in result.stdout.splitlines()[1:]}
    assert set(rows) == {path.stem for path in (REPOSITORY / "models").glob("*.tflite")}
    assert [name for name, row in rows.items() if row.rstrip().endswith("*")] == [DEFAULT_MODEL]


def test_bench_reports_every_stage_as_json() -> None:
    result = call("bench", "--model", MODEL, "--frames", "4", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert list(report["stages_ms"]) == ["letterbox", "normalize", "invoke", "decode + NMS", "total"]
    assert all(0 < row["min"] <= row["p50"] <= row["p95"] for row in report["stages_ms"].values())
    assert report["service_fps"] > 0


def test_version_is_printed() -> None:
    assert re.fullmatch(r"edge-detector \d+\.\d+\.\d+\n", call("--version").stdout)


# The service.


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running service on a free port, and the address that it printed."""
    arguments = ["run", "--source", "demo", "--model", str(MODEL), "--http", "127.0.0.1:0"]
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        assert process.stderr is not None
        for line in process.stderr:
            if match := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield process, match[0]
                break
        else:
            pytest.fail("the service printed no address")
        watchdog.cancel()
        process.kill()


def download(address: str) -> bytes:
    """Return what is there, as soon as the service has taken its first picture."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 503 or time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_service_answers_and_stops_cleanly_on_a_signal(
    service: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    process, address = service
    picture = cv2.imdecode(np.frombuffer(download(address + "snapshot.jpg"), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (576, 768, 3)
    process.send_signal(number)
    rest = process.stderr.read() if process.stderr else ""
    assert process.wait(20) == 0
    assert "Traceback" not in rest
    assert "stopped: " in rest


def test_service_goes_on_while_its_log_cannot_be_written() -> None:
    arguments = ["run", "--source", "demo", "--model", str(MODEL), "--http", "127.0.0.1:0", "--duration", "1"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([*COMMAND, *arguments], stderr=full, timeout=60, cwd=REPOSITORY)
    assert result.returncode == 0


def test_service_runs_without_standard_input(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(f"source: demo\nmodel: {{path: {MODEL}}}\nhttp: null\n")
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "run", "--config", str(config), "--duration", "0.5"]
    result = subprocess.run(closed, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr


def test_service_stops_after_the_duration_and_appends_its_lines(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text('{"kept": true}\n')
    arguments = ("--source", "demo", "--model", MODEL, "--http", "127.0.0.1:0", "--jsonl", lines, "--duration", "1.5")
    result = call("run", *arguments)
    assert result.returncode == 0, result.stderr
    assert len(results(lines)) > 5
    assert results(lines)[0] == {"kept": True}


def test_service_shows_the_demo_clip_where_there_is_no_camera() -> None:
    if list(Path("/dev").glob("video*")):
        pytest.skip("this machine has a camera")
    result = call("run", "--model", MODEL, "--http", "127.0.0.1:0", "--duration", "0.5")
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if "WARNING" in line and "demo" in line]
    assert len(warnings) == 1


def test_settings_come_from_a_file_and_options_win_over_it(tmp_path: Path) -> None:
    lines, settings = tmp_path / "lines", tmp_path / "settings.yaml"
    clip = red_video(tmp_path / "clip.avi", 4)
    settings.write_text(f"source: {clip}\nhttp: null\nmodel: {{path: absent.tflite}}\noutput: {{jsonl: {lines}}}\n")
    result = call("run", "--config", settings, "--model", MODEL)
    assert result.returncode == 0, result.stderr
    assert len(results(lines)) == 4
    assert "http://" not in result.stderr


def test_zones_rules_and_events_of_a_camera_can_be_tried_on_a_file(tmp_path: Path) -> None:
    clip, settings, events = red_video(tmp_path / "clip.avi", 12), tmp_path / "settings.yaml", tmp_path / "events.jsonl"
    settings.write_text(f"""
cameras:
  front:
    source: v4l2:///dev/video99
    size: 1280x720
    zones: {{all: {{coordinates: "0,0,160,0,160,120,0,120"}}}}
rules: {{visit: {{camera: front, zone: all, between: "22:00-06:00"}}}}
events: {{jsonl: {events}, path: {tmp_path / "events.db"}}}
overlay: {{zones: true}}
http: null
""")
    told = []
    for _ in range(2):
        events.unlink(missing_ok=True)
        result = call("run", "--config", settings, "--model", MODEL, "--source", clip, "--video", tmp_path / "out.mp4")
        assert result.returncode == 0, result.stderr
        told.append(events.read_bytes())
    lines = results(events)
    assert {line["type"] for line in lines} >= {"new", "end", "alert"}
    assert {line["object"]["camera"] for line in lines} == {"front"}
    assert all(line["object"]["entered_zones"] == ["all"] for line in lines if line["type"] == "end")
    assert told[0] == told[1]
    video = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    shown = video.read()[1]
    video.release()
    assert np.ptp(shown[60, :4].reshape(-1, 3), axis=0).max() > 60  # the zone's outline is along the picture's edge
    assert "rules visit: between and weekdays are ignored" in result.stderr
    assert "events.path: what happens in a file is not history" in result.stderr
    assert not (tmp_path / "events.db").exists()


def test_rules_of_cameras_that_a_source_replaces_are_left_out_with_a_warning(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("""
cameras: {front: {source: "synthetic://"}, back: {source: "synthetic://"}}
rules: {visit: {camera: front, label: cat}, any: {label: cat}}
webhooks: {phone: {url: "http://127.0.0.1:9/", cameras: [back]}}
http: null
""")
    result = call("run", "--config", settings, "--model", MODEL, "--source", red_video(tmp_path / "clip.avi", 4))
    assert result.returncode == 0, result.stderr
    assert "phone, visit: their cameras are not read now" in result.stderr


# Bad input: each one line, its own exit code, nothing half-written.


def bad_model(kind: str, folder: Path) -> Path:
    path = folder / "model.tflite"
    whole = MODEL.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 3])
    elif kind == "foreign":
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    elif kind == "directory":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "foreign", "directory"])
def test_unusable_model_is_named(tmp_path: Path, kind: str) -> None:
    model = bad_model(kind, tmp_path)
    out = tmp_path / "out"
    result = call("detect", red_picture(tmp_path / "a.png"), "--model", model, "--output", out)
    assert result.returncode == EX_DATAERR
    assert "model.tflite" in error_of(result)
    assert not out.exists()


def test_unknown_model_name_lists_what_there_is() -> None:
    result = call("run", "--model", "nonesuch")
    assert result.returncode == EX_DATAERR
    assert "'nonesuch' is unknown; give a path to a .tflite file or one of:" in error_of(result)


def test_model_with_unknown_outputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("person\n")
    model = FIXTURES / "unknown_outputs.tflite"
    result = call("detect", red_picture(tmp_path / "a.png"), "--model", model, "--labels", tmp_path / "labels.txt")
    assert result.returncode == EX_DATAERR
    assert "unknown_outputs.tflite" in error_of(result)


def test_labels_that_do_not_match_the_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("".join(f"class {number}\n" for number in range(7)))
    model = FIXTURES / "raw_heads.tflite"
    result = call("detect", red_picture(tmp_path / "a.png"), "--model", model, "--labels", tmp_path / "labels.txt")
    assert result.returncode == EX_DATAERR
    assert "labels" in error_of(result)


def test_unreadable_picture_among_good_ones_is_named_and_the_rest_done(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    red_picture(pictures / "a.png")
    (pictures / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    (pictures / "c.png").write_bytes(b"")
    red_picture(pictures / "d.png")
    result = call("detect", pictures, tmp_path / "absent.png", "--model", MODEL, "--output", tmp_path / "out")
    assert result.returncode == EX_NOINPUT
    assert "3 could not be read" in error_of(result)
    for name in ("b.jpg", "c.png", "absent.png"):
        assert len([line for line in result.stderr.splitlines() if f"/{name}: " in line]) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_boxes.jpg", "d_boxes.jpg"]


def odd_picture(kind: str, path: Path) -> Path:
    images = {
        "1x1": np.full((1, 1, 3), (0, 0, 255), np.uint8),
        "1x500": np.full((500, 1, 3), (0, 0, 255), np.uint8),
        "grey": np.full((50, 60), 200, np.uint8),
        "rgba": np.full((50, 60, 4), (0, 0, 255, 128), np.uint8),
        "16-bit": np.full((50, 60, 3), (0, 0, 60000), np.uint16),
        "50 megapixels": np.full((5800, 8700, 3), (0, 0, 255), np.uint8),
    }
    cv2.imwrite(str(path), images[kind])
    return path


@pytest.mark.parametrize("kind", ["1x1", "1x500", "grey", "rgba", "16-bit", "50 megapixels"])
def test_odd_picture_is_searched_like_any_other(tmp_path: Path, kind: str) -> None:
    picture = odd_picture(kind, tmp_path / "odd.png")
    result = call("detect", picture, "--model", MODEL, "--output", tmp_path / "out", "--jsonl", tmp_path / "l")
    assert result.returncode == 0, result.stderr
    (line,) = results(tmp_path / "l")
    annotated = cv2.imread(str(tmp_path / "out" / "odd_boxes.jpg"))
    assert annotated.shape[:2] == (line["height"], line["width"])
    assert line["detections"], "the mean colour is bright enough for the model"


def test_video_that_breaks_off_is_searched_as_far_as_it_goes_and_said(tmp_path: Path) -> None:
    clip = red_video(tmp_path / "clip.avi", 60)
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) // 2])
    result = call("detect", clip, "--model", MODEL, "--jsonl", tmp_path / "l", "--output", tmp_path / "out")
    assert result.returncode == EX_NOINPUT
    error_of(result)
    lines = results(tmp_path / "l")
    assert 10 < len(lines) < 60
    video = cv2.VideoCapture(str(tmp_path / "out" / "clip_boxes.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == len(lines)
    video.release()


def test_video_cut_off_before_its_index_is_an_error_of_its_own(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(DEMO_CLIP.read_bytes()[:3000])
    result = call("detect", clip, "--model", MODEL, "--output", tmp_path / "out")
    assert result.returncode == EX_NOINPUT
    assert "1 could not be read" in error_of(result)
    assert not list((tmp_path / "out").iterdir())


def test_input_that_fails_does_not_end_the_batch(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((2, 70_000, 3), np.uint8))
    inputs = ["wide.png", "synthetic://", "n" * 300, red_picture(tmp_path / "a.png"), red_video(tmp_path / "c.avi", 3)]
    result = call("detect", *inputs, "--model", MODEL, "--output", "out", cwd=tmp_path)
    assert result.returncode == EX_NOINPUT
    assert "3 could not be read" in error_of(result)
    assert "70000x2 does not fit into a JPEG" in result.stderr
    assert "edge-detector run --source" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_boxes.jpg", "c_boxes.mp4"]


def test_video_that_cannot_be_encoded_does_not_end_the_batch(tmp_path: Path) -> None:
    (tmp_path / "c_boxes.mp4").mkdir()
    clip, picture = red_video(tmp_path / "c.avi", 3), red_picture(tmp_path / "a.png")
    result = call("detect", clip, picture, "--model", MODEL, "--output", tmp_path)
    assert result.returncode == EX_NOINPUT
    assert "c_boxes.mp4: it is a folder" in result.stderr
    assert (tmp_path / "a_boxes.jpg").exists()


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    originals = [red_picture(tmp_path / name) for name in ("a.jpg", "a_boxes.jpg")]
    before = [path.read_bytes() for path in originals]
    result = call("detect", tmp_path, "--model", MODEL, "--output", tmp_path)
    assert result.returncode == 0, result.stderr
    result = call("detect", tmp_path / "a.jpg", "--model", MODEL, "--jsonl", tmp_path / "a.jpg")
    assert result.returncode == EX_CANTCREAT
    assert "is one of the inputs" in error_of(result)
    assert [path.read_bytes() for path in originals] == before
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.jpg", "a_boxes.jpg", "a_boxes_2.jpg", "a_boxes_boxes.jpg"]


def test_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = call("run", "--source", "demo", "--model", MODEL, "--http", f"127.0.0.1:{port}", "--duration", "5")
    assert result.returncode == EX_CANTCREAT
    assert f"port {port}" in error_of(result)


def test_camera_that_is_not_there_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    result = call("run", "--source", "v4l2:///dev/video97", "--model", MODEL, "--jsonl", lines)
    assert result.returncode == EX_NOINPUT
    assert "/dev/video97: no such camera" in error_of(result)
    assert not lines.exists()


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan"])
@pytest.mark.parametrize("command", ["run", "detect"])
def test_threshold_outside_0_to_1_is_refused(tmp_path: Path, command: str, value: str) -> None:
    inputs = [red_picture(tmp_path / "a.png")] if command == "detect" else []
    result = call(command, *inputs, "--model", MODEL, f"--threshold={value}")
    assert result.returncode == EX_CONFIG
    assert "score_threshold" in error_of(result)


@pytest.mark.parametrize("address", ["8080", "localhost:http", "127.0.0.1:99999"])
def test_address_without_host_or_port_is_refused(address: str) -> None:
    result = call("run", "--http", address, "--model", MODEL)
    assert result.returncode == EX_CONFIG
    assert "give HOST:PORT" in error_of(result)


def test_unknown_key_in_the_settings_is_named(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("model: {treshold: 0.5}\n")
    result = call("run", "--config", tmp_path / "settings.yaml")
    assert result.returncode == EX_CONFIG
    assert "model.treshold: unknown key" in error_of(result)


@pytest.mark.parametrize("option", ["--output", "--jsonl"])
def test_output_that_cannot_be_written_is_said_before_any_work(tmp_path: Path, option: str) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("kept")
    result = call("detect", red_picture(tmp_path / "a.png"), "--model", MODEL, option, blocker / "below")
    assert result.returncode == EX_CANTCREAT
    assert f"{blocker}/below" in error_of(result)
    assert blocker.read_text() == "kept"


def test_full_disk_ends_the_batch(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    clip = red_video(tmp_path / "clip.avi", 200)
    result = call("detect", clip, "--model", MODEL, "--jsonl", "/dev/full")
    assert result.returncode == EX_CANTCREAT
    assert "/dev/full" in error_of(result)


def test_reader_that_leaves_ends_the_batch_silently(tmp_path: Path) -> None:
    clip = red_video(tmp_path / "clip.avi", 300)
    arguments = [*COMMAND, "detect", str(clip), "--model", str(MODEL), "--jsonl", "-"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        printed = process.stderr.read().decode()
        assert process.wait(60) == 128 + signal.SIGPIPE
    assert "Traceback" not in printed
    assert "edge-detector: error" not in printed
    assert "Exception ignored" not in printed


def test_interrupted_batch_keeps_what_is_done(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    arguments = [*COMMAND, "detect", *[str(DEMO_CLIP)] * 20, "--model", str(MODEL), "--jsonl", str(lines)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s and (not lines.exists() or not lines.stat().st_size):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in printed
    assert 0 < len(results(lines)) < 20 * 250


def test_reader_that_stalls_loses_no_line_and_a_signal_ends_the_wait(tmp_path: Path) -> None:
    clip = red_video(tmp_path / "clip.avi", 1500)  # more lines than a pipe holds
    arguments = [*COMMAND, "detect", str(clip), "--model", str(MODEL), "--jsonl", "-"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": REPOSITORY}
    with subprocess.Popen(arguments, **streams) as process:
        time.sleep(8)  # longer than an interrupted batch would wait
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(printed.splitlines()) == 1500
    with subprocess.Popen(arguments, **streams) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == EX_CANTCREAT
        printed = process.stderr.read().decode() if process.stderr else ""
    assert "standard output hung for 5 s" in printed
    assert "Traceback" not in printed
    assert "Fatal" not in printed


def test_verbose_shows_the_traceback() -> None:
    result = call("--verbose", "run", "--model", "nonesuch")
    assert result.returncode == EX_DATAERR
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("edge-detector: error: ")


def test_unknown_option_is_a_usage_error() -> None:
    result = call("run", "--sauce", "demo")
    assert result.returncode == EX_USAGE
    assert "--sauce" in result.stderr


def test_a_defect_is_told_and_ends_the_program_although_a_thread_is_in_a_call() -> None:
    code = (
        "import threading, time, edge_detector.cli as cli\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "cli.app = lambda: 1 / 0\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
