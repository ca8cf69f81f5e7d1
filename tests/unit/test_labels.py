from __future__ import annotations

from pathlib import Path

import pytest

from edge_detector.errors import ModelError
from edge_detector.labels import parse_labels, read_labels

PBTXT = """
# COCO
item {
  name: "/m/01g317"
  id: 1
  display_name: "person"
}
item { id: 2 name: 'bicycle'
  keypoints { id: 9 label: "wheel" } }
item {
  id: 4
  display_name: "motorcycle"
}
"""


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("person\nbicycle\n", ("person", "bicycle")),
        ("person\r\ntraffic light\r\n\r\n\r\n", ("person", "traffic light")),
        ("\ufeffperson\n", ("person",)),
        ("???\nperson\n???\ncar\n", ("person", "???", "car")),
        ("__background__\nperson\nN/A\ncar", ("person", "N/A", "car")),
        ("person\n\ncar\n", ("person", "???", "car")),
        ("0 person\n1 bicycle\n", ("person", "bicycle")),
        ("0  person\n1  traffic light\n3  car\n", ("person", "traffic light", "???", "car")),
        ("0: person\n2: car", ("person", "???", "car")),
        ("1: person\n3: car", ("person", "???", "car")),
        ("0 background\n1 person\n2 car", ("person", "car")),
        ("2 car\n0 person\n1 bus", ("person", "bus", "car")),
        ("7 up\ncola", ("7 up", "cola")),
        ("0\n1\n2", ("0", "1", "2")),
        (PBTXT, ("person", "bicycle", "???", "motorcycle")),
    ],
)
def test_all_formats_give_names_by_class_id(tmp_path: Path, text: str, labels: tuple[str, ...]) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_labels(path) == labels


def test_coco_names_of_the_object_detection_api_are_90_classes_with_gaps(shared: Path) -> None:
    labels = read_labels(shared / "reference" / "odapi_full" / "coco_91_categories.txt")
    assert len(labels) == 90
    assert (labels[0], labels[11], labels[89]) == ("person", "N/A", "toothbrush")


@pytest.mark.parametrize("text", ["", "\n \n", "???\n", "1 a\n1 b\n", "0 a\n99999999999 b\n"])
def test_text_without_usable_labels_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ModelError, match=r"^labels\.txt: ") as caught:
        parse_labels(text, "labels.txt")
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_binary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_labels(tmp_path / "missing.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ModelError, match="not a text file"):
        read_labels(tmp_path / "binary")
