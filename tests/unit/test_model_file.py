from __future__ import annotations

import errno
import json
import shutil
import stat
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ModelError
from edge_detector.manifest import InputSpec, LevelOutputs, ModelManifest, SsdRawOutputs
from edge_detector.model_file import (
    append_manifest,
    read_appended,
    read_manifest,
    read_model_file,
    with_manifest,
)

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MANIFEST = ModelManifest(
    name="two-classes",
    input=InputSpec(width=64, height=64, mean=(123.68, 116.779, 103.939)),
    outputs=SsdRawOutputs(levels=(LevelOutputs(class_logits="classes", box_encodings="boxes"),)),
    labels=("Fußgänger", "traffic light"),
    origin={"epochs": 7, "ap50": 0.5},
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(FIXTURES / "raw_heads.tflite", tmp_path / "model.tflite"))


def test_manifest_comes_back_as_it_was_appended(model: Path) -> None:
    assert read_manifest(model.read_bytes(), "model") is None
    append_manifest(model, MANIFEST)
    assert read_manifest(model.read_bytes(), "model") == MANIFEST


def test_other_programs_can_read_what_is_appended(model: Path) -> None:
    append_manifest(model, MANIFEST)
    with zipfile.ZipFile(model) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("edge_detector.json"))["name"] == "two-classes"
        assert archive.read("labels.txt").decode() == "Fußgänger\ntraffic light\n"


def test_appending_again_replaces_and_the_bytes_depend_on_the_input_alone() -> None:
    plain = (FIXTURES / "raw_heads.tflite").read_bytes()
    first = with_manifest(plain, MANIFEST)
    other = with_manifest(first, MANIFEST.model_copy(update={"name": "other", "labels": ("a", "b")}))
    found = read_manifest(other, "model")
    assert found is not None
    assert (found.name, found.labels) == ("other", ("a", "b"))
    assert with_manifest(other, MANIFEST) == first
    assert first.startswith(plain)


def test_files_of_others_behind_the_model_are_kept() -> None:
    content = with_manifest((FIXTURES / "detection_op.tflite").read_bytes(), MANIFEST)
    assert read_appended(content, "model")["labelmap.txt"] == b"cat\ndog\n"
    assert read_manifest(content, "model") == MANIFEST


def test_model_runs_as_before_with_a_manifest_behind_it(model: Path) -> None:
    tensor = np.full((1, 64, 64, 3), 0.5, np.float32)
    before = TfliteBackend(model, 1).infer(tensor)
    append_manifest(model, MANIFEST)
    after = TfliteBackend(model, 1).infer(tensor)
    for name, output in before.items():
        np.testing.assert_array_equal(after[name].values, output.values)


def test_appending_keeps_the_mode_and_leaves_no_other_file(model: Path) -> None:
    model.chmod(0o640)
    append_manifest(model, MANIFEST)
    assert stat.S_IMODE(model.stat().st_mode) == 0o640
    assert list(model.parent.iterdir()) == [model]


def test_model_is_left_alone_when_it_cannot_be_replaced(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    before = model.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(ModelError, match="cannot be replaced: No space left on device"):
        append_manifest(model, MANIFEST)
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_cut_inside_the_manifest_is_noticed(cut: int) -> None:
    content = with_manifest((FIXTURES / "raw_heads.tflite").read_bytes(), MANIFEST)
    with pytest.raises(ModelError, match="cut off inside its manifest"):
        read_manifest(content[:-cut], "model")


def test_damaged_manifest_is_refused_with_the_field_that_is_wrong() -> None:
    plain = (FIXTURES / "raw_heads.tflite").read_bytes()

    def appended(text: str) -> bytes:
        file = BytesIO(plain)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("edge_detector.json", text)
        return file.getvalue()

    with pytest.raises(ModelError, match="not valid JSON"):
        read_manifest(appended("{"), "model")
    with pytest.raises(ModelError, match="must be a JSON object"):
        read_manifest(appended("[]"), "model")
    with pytest.raises(ModelError, match=r"input\.width: .*greater than 0") as caught:
        read_manifest(appended('{"name": "x", "input": {"width": 0, "height": 4}}'), "model")
    assert "\n" not in str(caught.value)
    changed = appended("A" * 50).replace(b"A" * 50, b"A" * 49 + b"B")
    with pytest.raises(ModelError, match=r"are damaged .*edge_detector\.json"):
        read_manifest(changed, "model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, this is text", "not a TFLite model but something else"),
        (b"PK\x03\x04" + bytes(40), "not a TFLite model but a ZIP, as PyTorch"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "a Keras HDF5 file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_files_that_are_no_model_are_named_for_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_model_file(path)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file"):
        read_model_file(tmp_path / "missing.tflite")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        read_model_file(tmp_path)
