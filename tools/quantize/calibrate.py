"""Calibration: which photos, and how the values of every activation are distributed over them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from edge_detector.errors import ConfigError, ModelError, UnreadablePicture
from edge_detector.manifest import InputSpec
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.sources import PICTURE_SUFFIXES
from edge_detector.sources.files import read_picture
from tools.quantize.flatbuffer import activations

logger = logging.getLogger(__name__)

ADVISED_PHOTOS = 100
_MIN_PHOTOS = 10
_BINS = 8192


def choose_photos(folder: Path, samples: int, held_out: int) -> tuple[list[Path], list[Path]]:
    """Return photos to calibrate on, at most `samples`, and `held_out` others to verify on, both spread evenly.

    Of few photos no more than a fifth is held out.

    Raises:
        ConfigError: there is no such folder, or it holds next to no pictures.
    """
    if not folder.is_dir():
        raise ConfigError(f"--calibration {folder}: no such folder; give one with photos of what the camera will see")
    photos = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if len(photos) < _MIN_PHOTOS:
        raise ConfigError(
            f"--calibration {folder}: holds {len(photos)} pictures, wanted {_MIN_PHOTOS} or more, better "
            f"{ADVISED_PHOTOS + held_out}; add photos of what the camera will see"
        )
    apart = set(_spread(photos, min(held_out, len(photos) // 5)))
    return _spread([path for path in photos if path not in apart], samples), sorted(apart)


def read_photos(paths: Iterable[Path]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield pictures (H, W, 3) uint8 RGB; one that cannot be read is left out with a warning."""
    for path in paths:
        try:
            yield read_picture(path)
        except UnreadablePicture as error:
            logger.warning("%s", error)


class Histogram:
    """How often a tensor takes which values.

    The bins cover -limit..limit; when a greater value comes, the limit is doubled and neighbours are merged.

    Attributes:
        low, high: the least and the greatest value, exactly; 0 lies between.
        counts: per bin.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.counts = np.zeros(_BINS, np.int64)
        self._limit = 2.0**-20

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """The value in the middle of each bin."""
        middles: npt.NDArray[np.float64] = np.linspace(-self._limit, self._limit, 2 * _BINS + 1)[1::2]
        return middles

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count values of any shape.

        Raises:
            ModelError: one of them is not finite.
        """
        if not np.isfinite([values.min(), values.max()]).all():
            raise ModelError("an activation is not finite; train again, with a lower learning rate")
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        while self._limit < max(-self.low, self.high):
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(merged, _BINS // 4)
            self._limit *= 2
        places = (values.ravel() + np.float32(self._limit)) * np.float32(_BINS / 2 / self._limit)
        self.counts += np.bincount(np.minimum(places.astype(np.intp), _BINS - 1), minlength=_BINS)


def collect(
    float_model: bytes, photos: Iterable[npt.NDArray[np.uint8]], spec: InputSpec, num_threads: int
) -> dict[str, Histogram]:
    """Run a float model on photos (H, W, 3) RGB and return the distribution of each activation by tensor name.

    Raises:
        ModelError: no photo could be read, or an activation is not finite.
    """
    interpreter = open_for_inspection(float_model, num_threads)
    (source,) = interpreter.get_input_details()
    observed = activations(float_model)
    histograms = {name: Histogram() for name in observed.values()}
    normalizer, count = Normalizer(spec, None), 0
    for photo in photos:
        interpreter.set_tensor(source["index"], prepare(photo, normalizer)[0])
        interpreter.invoke()
        for index, name in observed.items():
            histograms[name].add(interpreter.get_tensor(index))
        count += 1
    if count == 0:
        raise ModelError("no calibration photo could be read; give JPEG or PNG files that can be opened")
    return histograms


def open_for_inspection(content: bytes, num_threads: int) -> Interpreter:
    """Return an interpreter that keeps all activations to be read after a run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning: Enabling `experimental_preserve_all_tensors`")
        interpreter = Interpreter(
            model_content=content, num_threads=num_threads, experimental_preserve_all_tensors=True
        )
    interpreter.allocate_tensors()
    return interpreter


def _spread(paths: list[Path], count: int) -> list[Path]:
    """Return `count` paths at even distances; all if there are fewer."""
    count = min(count, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]
