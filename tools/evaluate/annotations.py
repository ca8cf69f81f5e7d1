"""COCO-format annotations to score against, and which of their categories a model knows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_detector.errors import ModelError, SourceError
from edge_detector.frame import Frame
from edge_detector.sources.files import read_picture


@dataclass(frozen=True)
class Picture:
    """One picture to score on; `size_wh` in pixels as the annotations state it, None where they do not."""

    image_id: int
    path: Path
    size_wh: tuple[int, int] | None


@dataclass(frozen=True)
class Annotations:
    """What is in the pictures.

    Attributes:
        pictures: in the order of the file.
        categories: name by category id.
        objects: records with image_id, category_id, bbox (x, y, width, height in pixels), area, iscrowd and an id
            that counts from 1: COCO's scorer takes id 0 for "no match".
    """

    pictures: tuple[Picture, ...]
    categories: dict[int, str]
    objects: tuple[dict[str, Any], ...]


def load_annotations(path: Path, images: Path, limit: int | None = None) -> Annotations:
    """Read a COCO instances file; `limit` keeps the first so many pictures of it.

    Raises:
        SourceError: the file or a picture is missing, or the file is not in COCO format.
    """
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        categories = {int(category["id"]): str(category["name"]) for category in coco["categories"]}
        pictures = tuple(_picture(record, images) for record in coco["images"][:limit])
        chosen = {picture.image_id for picture in pictures}
        objects = tuple(
            _object(number, record)
            for number, record in enumerate(coco["annotations"], 1)
            if record["image_id"] in chosen
        )
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}; give the annotations as JSON") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: not COCO-format annotations: {error!r}") from error
    if not pictures:
        raise SourceError(f"{path}: lists no pictures; there is nothing to score on")
    if missing := [picture.path.name for picture in pictures if not picture.path.is_file()]:
        raise SourceError(
            f"{images}: {len(missing)} of {len(pictures)} pictures of {path.name} are missing, such as {missing[0]}; "
            "give the folder that holds them with --images"
        )
    return Annotations(pictures, categories, objects)


def read_frame(picture: Picture) -> Frame:
    """Return the picture as a frame.

    Raises:
        SourceError: it cannot be read, or has another size than the annotations say.
    """
    frame = Frame(read_picture(picture.path), picture.image_id, time.monotonic(), time.time(), picture.path.name)
    if picture.size_wh not in (None, frame.size_wh):
        is_wh, stated_wh = ("{}x{}".format(*size) for size in (frame.size_wh, picture.size_wh))
        raise SourceError(f"{picture.path}: is {is_wh}, but annotated as {stated_wh}; give the original pictures")
    return frame


def _picture(record: dict[str, Any], images: Path) -> Picture:
    size_wh = (int(record["width"]), int(record["height"])) if "width" in record and "height" in record else None
    return Picture(int(record["id"]), images / str(record["file_name"]), size_wh)


def _object(number: int, record: dict[str, Any]) -> dict[str, Any]:
    bbox = [float(value) for value in record["bbox"]]
    return {
        "id": number,
        "image_id": record["image_id"],
        "category_id": record["category_id"],
        "bbox": bbox,
        "area": float(record.get("area", bbox[2] * bbox[3])),
        "iscrowd": int(record.get("iscrowd", 0)),
    }


@dataclass(frozen=True)
class LabelMatch:
    """Which label is which category.

    Attributes:
        category_ids: per label of the model its category id, None where the annotations have no such category.
        unknown_labels: labels without a category; what the model finds of them is not scored.
        unscored_categories: categories with objects in the pictures that the model does not know.
    """

    category_ids: tuple[int | None, ...]
    unknown_labels: tuple[str, ...]
    unscored_categories: tuple[str, ...]


def match_labels(labels: Sequence[str], annotations: Annotations) -> LabelMatch:
    """Match labels and categories by name; letter case and surrounding space do not count.

    Raises:
        ModelError: nothing matches, or two labels or two categories have the same name.
    """
    id_of = {_key(name): category for category, name in annotations.categories.items()}
    keys = [_key(label) for label in labels]
    known = [key for key in keys if key in id_of]
    if len(id_of) < len(annotations.categories) or len(set(known)) < len(known):
        raise ModelError("two labels or two categories have the same name; make them distinct")
    if not known:
        raise ModelError(
            f"no label of the model ({_few(labels)}) is a category of the annotations "
            f"({_few(list(annotations.categories.values()))}); give the model's own labels or other annotations"
        )
    present = {record["category_id"] for record in annotations.objects}
    return LabelMatch(
        tuple(id_of.get(key) for key in keys),
        tuple(label for label, key in zip(labels, keys, strict=True) if key not in id_of),
        tuple(n for i, n in annotations.categories.items() if i in present and _key(n) not in known),
    )


def _key(name: str) -> str:
    return name.strip().casefold()


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
