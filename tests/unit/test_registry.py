from __future__ import annotations

from pathlib import Path

import pytest

from edge_detector import registry
from edge_detector.errors import ModelError
from edge_detector.registry import list_models, resolve_model

NAMES = ("ssd_resnet50_fpn_person_320_int8", "ssd_resnet50_fpn_person_640_int8", "vehicles_640_int8")


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    models = {name: Path("/shipped") / f"{name}.tflite" for name in NAMES}
    monkeypatch.setattr(registry, "list_models", lambda: models)
    return models


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("ssd_resnet50_fpn_person_640_int8", NAMES[1]),
        ("ssd-resnet50-fpn-person-640-int8", NAMES[1]),
        ("person-640", NAMES[1]),
        ("person_320", NAMES[0]),
        ("vehicles", NAMES[2]),
    ],
)
def test_whole_words_that_fit_one_model_name_it(shipped: dict[str, Path], name: str, model: str) -> None:
    assert resolve_model(name) == shipped[model]


@pytest.mark.parametrize(
    ("name", "message"),
    [("person-64", "is unknown"), ("640-person", "is unknown"), ("", "is unknown"), ("640", f"fits {NAMES[1]}, ")],
)
def test_other_names_are_refused_with_the_names_that_exist(shipped: dict[str, Path], name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        resolve_model(name)
    assert all(known in str(caught.value) for known in shipped)


@pytest.mark.parametrize("path", ["person-640.tflite", "./person-640", "/models/x.tflite"])
def test_paths_are_taken_as_they_are(shipped: dict[str, Path], path: str) -> None:
    assert resolve_model(path) == Path(path)


def test_shipped_models_are_listed_by_stem(repository: Path) -> None:
    models = list_models()
    assert set(models) == {path.stem for path in (repository / "models").glob("*.tflite")}
    assert all(path.is_file() for path in models.values())
