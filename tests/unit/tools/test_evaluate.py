from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="needs pycocotools: pip install 'edge-detector[evaluate]'")

from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError, ModelError, SourceError
from edge_detector.postprocess.boxes import pairwise_iou
from edge_detector.sources.synthetic import SyntheticSource
from tools.evaluate import __main__ as program
from tools.evaluate.annotations import Annotations, Picture, load_annotations, match_labels
from tools.evaluate.report import Report, check_target
from tools.evaluate.score import Figures, Score, score

CATEGORIES = {1: "person", 3: "car"}
Box = tuple[float, float, float, float]  # x1, y1, x2, y2
SQUARE: Box = (50, 60, 150, 160)  # 100 x 100: "large" to COCO


def truth_of(*objects: tuple[int, int, Box], crowds: Sequence[tuple[int, int, Box]] = ()) -> Annotations:
    """Return annotations of objects and crowds given as image id, category id, box."""
    records = [
        {"id": number, "image_id": image, "category_id": category, "iscrowd": int(number > len(objects))}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        for number, (image, category, (x1, y1, x2, y2)) in enumerate([*objects, *crowds], 1)
    ]
    ids = sorted({record["image_id"] for record in records})
    return Annotations(tuple(Picture(i, Path(f"{i}.png"), None) for i in ids), CATEGORIES, tuple(records))


def found_as(*rows: tuple[Box, float, int]) -> Detections:
    """Return detections given as box, confidence, class id."""
    boxes, confidence, class_id = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(confidence, np.float32), np.array(class_id, np.int64))


def figures(truth: Annotations, found: dict[int, Detections], labels: Sequence[str] = ("person",)) -> Figures:
    return score(truth, match_labels(labels, truth), found).overall


def write_data_set(folder: Path, **changes: Any) -> Path:
    """Write two 40 x 30 pictures with one person, and return the annotations' path; `changes` replaces parts."""
    (folder / "images").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / "images" / name), np.full((30, 40, 3), 90, np.uint8))
    coco = {
        "images": [{"id": i, "file_name": f"{n}.png", "width": 40, "height": 30} for i, n in ((7, "a"), (8, "b"))],
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
        "annotations": [{"id": 0, "image_id": 7, "category_id": 1, "bbox": [5, 5, 10, 20]}],
    }
    (folder / "instances.json").write_text(json.dumps(coco | changes))
    return folder / "instances.json"


def test_a_perfect_detector_scores_one_in_every_figure_that_is_defined() -> None:
    truth = truth_of((1, 1, SQUARE), (2, 1, (0, 0, 40, 40)), (2, 1, (60, 60, 70, 70)))
    found = {
        1: found_as((SQUARE, 0.9, 0)),
        2: found_as(((0, 0, 40, 40), 0.8, 0), ((60, 60, 70, 70), 0.3, 0)),
    }
    assert figures(truth, found) == Figures(*[pytest.approx(1.0)] * 7)


def test_boxes_shifted_to_iou_two_thirds_count_at_four_of_ten_thresholds() -> None:
    truth = truth_of((1, 1, SQUARE))
    result = figures(truth, {1: found_as(((70, 60, 170, 160), 0.9, 0))})
    assert (result.ap, result.ap50, result.ap75) == (pytest.approx(0.4), pytest.approx(1.0), pytest.approx(0.0))
    assert result.ar_100 == pytest.approx(0.4)
    assert result.ap_large == pytest.approx(0.4)
    assert result.ap_small is None  # no small object is there to be found


def test_half_of_the_objects_found_scores_the_recall_points_up_to_one_half() -> None:
    truth = truth_of((1, 1, SQUARE), (1, 1, (200, 60, 300, 160)))
    assert figures(truth, {1: found_as((SQUARE, 0.9, 0))}).ap == pytest.approx(51 / 101)


def test_a_false_alarm_costs_only_where_it_is_more_confident_than_the_hit() -> None:
    truth = truth_of((1, 1, SQUARE))
    elsewhere: Box = (300, 300, 400, 400)
    assert figures(truth, {1: found_as((elsewhere, 0.9, 0), (SQUARE, 0.5, 0))}).ap == pytest.approx(0.5)
    assert figures(truth, {1: found_as((SQUARE, 0.9, 0), (elsewhere, 0.5, 0))}).ap == pytest.approx(1.0)


def test_a_crowd_neither_has_to_be_found_nor_makes_false_alarms() -> None:
    crowd: Box = (200, 0, 600, 400)
    truth = truth_of((1, 1, SQUARE), crowds=[(1, 1, crowd)])
    inside = [((220.0, 20.0, 260.0, 100.0), 0.99, 0), ((300.0, 50.0, 380.0, 200.0), 0.98, 0)]
    assert figures(truth, {1: found_as((SQUARE, 0.5, 0))}).ap == pytest.approx(1.0)
    assert figures(truth, {1: found_as(*inside, (SQUARE, 0.5, 0))}).ap == pytest.approx(1.0)
    without = truth_of((1, 1, SQUARE))
    assert figures(without, {1: found_as(*inside, (SQUARE, 0.5, 0))}).ap == pytest.approx(1 / 3)
    assert score(truth, match_labels(["person"], truth), {1: found_as((SQUARE, 0.5, 0))}).objects == {"person": 1}


def test_a_detector_that_finds_nothing_scores_zero() -> None:
    assert figures(truth_of((1, 1, SQUARE)), {1: Detections.empty()}).ap == 0.0


def test_only_the_models_classes_are_scored_and_each_by_itself() -> None:
    truth = truth_of((1, 1, SQUARE), (1, 3, (200, 60, 300, 160)))
    assert figures(truth, {1: found_as((SQUARE, 0.9, 0))}, ["person"]).ap == pytest.approx(1.0)
    labels = ["car", "unicorn", "person"]  # the order of the model, with one that nobody annotated
    found = {1: found_as((SQUARE, 0.9, 2), ((0.0, 0.0, 30.0, 30.0), 0.8, 1), ((210, 60, 310, 160), 0.7, 0))}
    result = score(truth, match_labels(labels, truth), found)
    assert list(result.per_class) == ["person", "car"]
    assert result.per_class["person"].ap == pytest.approx(1.0)
    assert result.per_class["car"].ap == pytest.approx(0.7)  # IoU 90 / 110 = 0.82
    assert result.overall.ap == pytest.approx(0.85)


def test_only_the_pictures_that_were_looked_at_count() -> None:
    truth = truth_of((1, 1, SQUARE), (2, 1, SQUARE))
    assert figures(truth, {1: found_as((SQUARE, 0.9, 0))}).ap == pytest.approx(1.0)


def test_labels_are_matched_by_name_and_what_does_not_match_is_told() -> None:
    truth = truth_of((1, 1, SQUARE), (1, 3, SQUARE))
    match = match_labels([" Person", "unicorn"], truth)
    assert match.category_ids == (1, None)
    assert match.unknown_labels == ("unicorn",)
    assert match.unscored_categories == ("car",)


def test_a_category_without_objects_is_not_missed() -> None:
    assert match_labels(["person"], truth_of((1, 1, SQUARE))).unscored_categories == ()


def test_labels_of_another_world_are_an_error() -> None:
    with pytest.raises(ModelError, match=r"no label of the model \(unicorn\).*person, car"):
        match_labels(["unicorn"], truth_of((1, 1, SQUARE)))


def test_labels_that_cannot_be_told_apart_are_an_error() -> None:
    with pytest.raises(ModelError, match="same name"):
        match_labels(["person", "Person"], truth_of((1, 1, SQUARE)))


def test_annotations_need_no_area_no_crowd_flag_and_no_useful_ids(tmp_path: Path) -> None:
    truth = load_annotations(write_data_set(tmp_path), tmp_path / "images")
    assert [picture.image_id for picture in truth.pictures] == [7, 8]
    assert truth.objects[0]["area"] == 200
    found = {7: found_as(((5, 5, 15, 25), 0.9, 0)), 8: Detections.empty()}
    assert figures(truth, found).ap == pytest.approx(1.0)


def test_a_limit_keeps_the_first_pictures_and_their_objects(tmp_path: Path) -> None:
    later = [{"id": 3, "image_id": 8, "category_id": 1, "bbox": [0, 0, 5, 5]}]
    truth = load_annotations(write_data_set(tmp_path, annotations=later), tmp_path / "images", limit=1)
    assert [picture.image_id for picture in truth.pictures] == [7]
    assert truth.objects == ()


def test_missing_pictures_are_counted_and_one_is_named(tmp_path: Path) -> None:
    path = write_data_set(tmp_path)
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(SourceError, match=r"1 of 2 pictures .* missing, such as b\.png"):
        load_annotations(path, tmp_path / "images")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not COCO-format"),
        ("[]", "not COCO-format"),
        ('{"images": [], "annotations": []}', "not COCO-format"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no pictures"),
    ],
)
def test_what_is_no_coco_file_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=message):
        load_annotations(path, tmp_path)


def test_a_missing_annotations_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        load_annotations(tmp_path / "none.json", tmp_path)


def test_pictures_of_another_size_than_annotated_are_an_error(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(SourceError, match="is 40x30, but annotated as 80x60"):
        program.read_frame(Picture(1, tmp_path / "a.png", (80, 60)))


def test_a_detector_that_finds_synthetic_boxes_scores_one_on_their_pictures(
    tmp_path: Path, color_detector: Callable[..., Detector]
) -> None:
    source = SyntheticSource(160, 120, frames=40)
    pictures, objects = [], []
    for frame_id in range(40):
        frame, boxes = source.read(1), source.boxes(frame_id)
        assert frame is not None
        if (np.triu(pairwise_iou(boxes.astype(np.float32), boxes.astype(np.float32)), 1) > 0).any():
            continue  # one hides a part of another
        path = tmp_path / f"{frame_id}.png"
        cv2.imwrite(str(path), frame.image[..., ::-1])
        pictures.append(Picture(frame_id, path, (160, 120)))
        for category, (x1, y1, x2, y2) in enumerate(boxes.tolist(), 1):
            size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            objects.append({"id": 0, "image_id": frame_id, "category_id": category} | size)
    assert len(pictures) > 5
    truth = Annotations(tuple(pictures), {1: "red", 2: "green", 3: "blue"}, tuple(objects))
    detector = color_detector()
    found, median_ms = program.detect_all(detector, truth, (tmp_path / "album", 2))
    result = score(truth, match_labels(detector.manifest.labels, truth), found)
    assert result.overall.ap == pytest.approx(1.0)
    assert result.objects == dict.fromkeys(("red", "green", "blue"), len(pictures))
    assert len(list((tmp_path / "album").glob("*.jpg"))) == 2
    assert 0 < median_ms["inference"] <= median_ms["total"]


def test_a_report_prints_undefined_figures_as_dashes_and_writes_everything(tmp_path: Path) -> None:
    truth = truth_of((1, 1, SQUARE), (1, 3, SQUARE))
    match = match_labels(["person", "unicorn"], truth)
    result: Score = score(truth, match, {1: found_as((SQUARE, 0.9, 0))})
    report = Report("m", "runtime", (320, 320), 1, 0.01, {"total": 2.5}, match, result)
    assert list(report.table().columns[5].cells) == ["-", "-"]  # AP of small objects
    assert "unicorn" in "\n".join(report.notes())
    report.write(tmp_path / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["score"]["per_class"]["person"]["ap50"] == pytest.approx(1.0)
    assert written["score"]["overall"]["ap_small"] is None


def test_one_of_model_and_weights_is_needed_and_side_goes_with_weights() -> None:
    for model, weights in ((None, None), (Path("a.tflite"), Path("a.safetensors"))):
        with pytest.raises(ConfigError, match="give either"):
            program.open_detector(model, weights, None, "auto", None, 0.01)
    with pytest.raises(ConfigError, match="--side goes with --weights"):
        program.open_detector(Path("a.tflite"), None, 320, "auto", None, 0.01)


def test_a_side_that_the_network_cannot_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="--side 100 is not a multiple of 32"):
        program.open_detector(None, Path("a.safetensors"), 100, "auto", None, 0.01)


def test_a_report_never_takes_the_name_of_what_was_read(tmp_path: Path) -> None:
    annotations, model = write_data_set(tmp_path), tmp_path / "m.tflite"  # not looked for: refused before any work
    before = annotations.read_text()
    for output in (tmp_path / "images" / ".." / "m.json", annotations, model):
        with pytest.raises(ConfigError, match="input or of the model's manifest"):
            program.main(annotations, tmp_path / "images", model=model, json=output)
    assert annotations.read_text() == before
    assert not (tmp_path / "m.json").exists()


def test_a_report_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    annotations, model = write_data_set(tmp_path), tmp_path / "m.tflite"
    for output, message in (
        ("none/out.json", "No such file"),
        ("images", "is a directory"),
        ("o" * 300, "name too long"),
    ):
        with pytest.raises(ConfigError, match=f"(?i)--json .*{message}"):
            program.main(annotations, tmp_path / "images", model=model, json=tmp_path / output)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "instances.json"}


def test_checking_the_reports_name_leaves_an_earlier_report_alone(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("earlier")
    check_target(tmp_path / "out.json", [])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.json", "earlier")]


def test_weights_are_scored_without_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'edge-detector[train]'")
    from tools.network.architecture import slim
    from tools.network.torch_model import SsdResNetFpn
    from tools.network.weights import save_weights

    torch.manual_seed(0)
    tiny: dict[str, Any] = {"base_width": 8, "blocks": (1, 1, 1, 1), "fpn_channels": 16, "head_channels": 16}
    model = SsdResNetFpn(slim(input_side=64, num_classes=2, **tiny))
    arrays = {n: v.numpy() for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    weights, output = tmp_path / "tiny.safetensors", tmp_path / "out.json"
    save_weights(weights, model.arch, arrays, ("person", "unicorn"))
    annotations = write_data_set(tmp_path / "set")
    program.main(annotations, tmp_path / "set" / "images", weights=weights, side=96, json=output)
    printed = capsys.readouterr().out
    assert "person" in printed
    assert "not in the annotations, not scored: 1 (unicorn)" in printed
    written = json.loads(output.read_text())
    assert (written["input_wh"], written["pictures"]) == ([96, 96], 2)
    assert 0 <= written["score"]["overall"]["ap"] < 0.5  # nothing was learnt
    del arrays["class_head.output.conv.weight"]
    save_weights(weights, model.arch, arrays, ("person", "unicorn"))
    with pytest.raises(ModelError, match=r"missing \['class_head.output.conv.weight'\]"):
        program.main(annotations, tmp_path / "set" / "images", weights=weights)


def test_a_tflite_file_is_scored_through_its_manifest(tmp_path: Path, repository: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs LiteRT: pip install ai-edge-litert")
    model, output = tmp_path / "heads.tflite", tmp_path / "out.json"
    shutil.copy(repository / "tests" / "fixtures" / "raw_heads_int8.tflite", model)
    model.with_suffix(".json").write_text('{"labels": ["unicorn", "person"]}')
    annotations = write_data_set(tmp_path / "set")
    program.main(annotations, tmp_path / "set" / "images", model=model, json=output, limit=1)
    written = json.loads(output.read_text())
    assert written["backend"].startswith("LiteRT")
    assert (written["input_wh"], written["pictures"]) == ([64, 64], 1)
    assert written["score"]["objects"] == {"person": 1}


def test_a_missing_model_is_one_line_with_its_exit_code(tmp_path: Path, repository: Path) -> None:
    arguments = ["--annotations", write_data_set(tmp_path), "--images", tmp_path / "images"]
    run = run_tool(repository, "--model", tmp_path / "none.tflite", *arguments)
    assert run.returncode == ModelError.exit_code
    assert run.stderr.count("\n") == 1
    assert "none.tflite" in run.stderr


def run_tool(repository: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "tools" / "evaluate"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
