from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

WIDTH, HEIGHT = 96, 72


@pytest.fixture
def coco_set(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes black pictures, each with one white box of class "box", as a COCO data set."""

    def make(count: int = 4) -> Path:
        folder = tmp_path / "coco"
        (folder / "images").mkdir(parents=True)
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for number in range(1, count + 1):
            x, y = int(rng.integers(5, 40)), int(rng.integers(5, 30))
            width, height = int(rng.integers(24, 50)), int(rng.integers(24, 36))
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            image[y : y + height, x : x + width] = 255
            cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
            images.append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
            annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, width, height]})
        coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
        (folder / "instances.json").write_text(json.dumps(coco))
        return folder

    return make
