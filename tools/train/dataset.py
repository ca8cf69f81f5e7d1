"""COCO-format training data: photos with boxes, and which classes are labelled completely."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_detector.errors import SourceError


@dataclass(frozen=True)
class Photo:
    """One training photo.

    Attributes:
        path: the picture file.
        boxes: (N, 4) float32 x1, y1, x2, y2 in pixels.
        classes: (N,) int64 indices into the chosen classes; -1 marks a crowd, where nothing is learnt.
        exhaustive: (C,) bool, whether every object of the class is labelled, so that the rest is background.
        stretched: whether the photo was squeezed to a square and its aspect ratio lost.
    """

    path: Path
    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    exhaustive: npt.NDArray[np.bool_]
    stretched: bool

    def read(self) -> npt.NDArray[np.uint8]:
        """Return the picture (H, W, 3) uint8 RGB."""
        image = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if image is None:
            raise SourceError(f"{self.path}: cannot be read as a picture; remove it from the annotations or repair it")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def load_coco(folder: Path, class_names: tuple[str, ...] | None = None) -> tuple[list[Photo], tuple[str, ...]]:
    """Read `folder`/instances.json and `folder`/images.

    Image records may carry `exhaustive_category_ids` (absent: all classes are labelled completely) and `stretched`.

    Args:
        folder: the data set.
        class_names: the classes to learn, in this order; None takes all, by category id.

    Returns:
        The photos, and the names of the classes.

    Raises:
        SourceError: a file is missing or is not COCO format, or a class is not in it.
    """
    annotations = folder / "instances.json"
    try:
        coco = json.loads(annotations.read_text())
        names = {category["id"]: category["name"] for category in coco["categories"]}
        chosen = tuple(dict.fromkeys(class_names or (names[i] for i in sorted(names))))
        if missing := set(chosen) - set(names.values()):
            raise SourceError(
                f"{annotations}: no class {', '.join(sorted(missing))}; it has {', '.join(names.values())}"
            )
        index_of = {i: chosen.index(name) for i, name in names.items() if name in chosen}
        if not coco["images"]:
            raise SourceError(f"{annotations}: lists no pictures; there is nothing to learn from")
        per_image: dict[int, list[tuple[list[float], int]]] = {image["id"]: [] for image in coco["images"]}
        for item in coco["annotations"]:
            if item["category_id"] in index_of:
                index = -1 if item.get("iscrowd") else index_of[item["category_id"]]
                per_image[item["image_id"]].append((item["bbox"], index))
        return [_photo(folder, image, per_image[image["id"]], index_of) for image in coco["images"]], chosen
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{annotations}: not a COCO-format data set: {error!r}") from error


def _photo(
    folder: Path, image: dict[str, Any], items: list[tuple[list[float], int]], index_of: dict[int, int]
) -> Photo:
    boxes = np.array([box for box, _ in items], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    exhaustive = np.zeros(len(set(index_of.values())), np.bool_)
    ids = image.get("exhaustive_category_ids", index_of)
    exhaustive[[index_of[i] for i in ids if i in index_of]] = True
    return Photo(
        folder / "images" / str(image["file_name"]),
        boxes,
        np.array([index for _, index in items], np.int64),
        exhaustive,
        bool(image.get("stretched", False)),
    )
