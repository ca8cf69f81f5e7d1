from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="needs pycocotools: pip install 'edge-detector[evaluate]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'edge-detector[evaluate]'")

from edge_detector.assets import DEMO_CLIP
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError
from edge_detector.sources.synthetic import SyntheticSource
from tools.evaluate import curve
from tools.evaluate.annotations import Annotations, Picture


def synthetic(folder: Path, count: int) -> Annotations:
    """Return pictures of one moving red square each, which the colour detector finds."""
    source = SyntheticSource(160, 120, frames=count)
    pictures, objects = [], []
    for frame_id in range(count):
        frame = source.read(1)
        assert frame is not None
        x1, y1, x2, y2 = source.boxes(frame_id)[0].tolist()
        path = folder / f"{frame_id}.png"
        cv2.imwrite(str(path), frame.image[..., ::-1])
        pictures.append(Picture(frame_id, path, (160, 120)))
        size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        objects.append({"id": 0, "image_id": frame_id, "category_id": 1} | size)
    return Annotations(tuple(pictures), {1: "red"}, tuple(objects))


def test_each_detector_is_scored_and_timed_on_every_picture(
    tmp_path: Path, color_detector: Callable[..., Detector]
) -> None:
    detectors = [color_detector(), color_detector()]
    reports = curve.compare(detectors, synthetic(tmp_path, 5))
    assert [report.pictures for report in reports] == [5, 5]
    assert [report.score.overall.ap50 for report in reports] == pytest.approx([1.0, 1.0])
    assert all(0 < report.median_ms["inference"] <= report.median_ms["total"] for report in reports)
    lines = curve.table(reports).splitlines()
    assert len(lines) == 4
    assert lines[2].split(" | ")[1] == "100.0"
    axis = curve.chart(reports).axes[0]
    assert np.asarray(axis.lines[0].get_ydata()).tolist() == pytest.approx([100.0, 100.0])


def test_the_shipped_models_are_compared_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs LiteRT: pip install ai-edge-litert")
    read, picture = cv2.VideoCapture(str(DEMO_CLIP)).read()
    assert read
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    height, width = picture.shape[:2]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, width / 2, height / 2]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    output = tmp_path / "out"
    curve.main(["person-320", "person-640"], tmp_path / "instances.json", tmp_path, output)
    assert "| 640x640 |" in capsys.readouterr().out
    written = json.loads((output / "curve.json").read_text())
    assert [row["input_wh"] for row in written["reports"]] == [[320, 320], [640, 640]]
    assert all(len(digest) == 64 for digest in written["models"].values())
    chart = cv2.imread(str(output / "curve.png"))
    assert chart is not None
    assert np.ptp(chart) > 200


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    synthetic(tmp_path, 1)
    (tmp_path / "file").write_text("")
    coco = {"images": [{"id": 1, "file_name": "0.png"}], "categories": [{"id": 1, "name": "person"}], "annotations": []}
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    with pytest.raises(ConfigError, match=r"--output .*: Not a directory; give another folder"):
        curve.main(["no/model.tflite"], tmp_path / "instances.json", tmp_path, tmp_path / "file" / "out")
