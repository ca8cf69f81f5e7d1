"""Make a kit: all files that the contenders of one network need, from the shipped model and its weights."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.backends.tflite import TfliteBackend
from edge_detector.detections import Detections
from edge_detector.detector import Detector
from edge_detector.errors import ConfigError
from edge_detector.frame import Frame
from edge_detector.loader import load_manifest
from edge_detector.manifest import ModelManifest, SsdRawOutputs
from edge_detector.model_file import read_model_file
from edge_detector.postprocess.anchors import generate_anchors
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.preprocess.letterbox import letterbox
from edge_detector.preprocess.normalize import Normalizer, prepare
from edge_detector.quantization import RawOutputs
from edge_detector.registry import resolve_model
from edge_detector.runtime.bench import demo_pictures
from edge_detector.sources.files import read_picture
from tools.bench.agreement import REPORTED, WEAK
from tools.bench.forms import op_forms
from tools.bench.kit import Kit
from tools.bench.peers import TORCH
from tools.bench.widen import widen
from tools.environments import REPOSITORY, ensure, run_module

WEIGHTS = REPOSITORY / "models" / "ssd_resnet50_fpn_person.safetensors"
CALIBRATION_PHOTOS = 100
_CLIP_PICTURES = 250

Pictures = list[npt.NDArray[np.uint8]]


def clip_pictures(count: int) -> Pictures:
    """Return so many pictures of the demo clip, from all over it."""
    frames = demo_pictures(_CLIP_PICTURES)
    places = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return [frames[place].image for place in places]


def make_kit(folder: Path, side: int, classes: int, pictures: Sequence[Any], threads: int) -> tuple[Kit, ModelManifest]:
    """Fill `folder` with all but the ONNX files, and return the kit.

    Raises:
        ModelError: there is no shipped model of this side, or it cannot be widened.
        ConfigError: it has no raw heads.
    """
    raw = folder / "raw.tflite"
    shipped = resolve_model(f"ssd_resnet50_fpn_person_{side}_int8").read_bytes()
    raw.write_bytes(widen(shipped, classes) if classes > 1 else shipped)
    manifest = load_manifest(raw)
    outputs, spec = manifest.outputs, manifest.input
    if not isinstance(outputs, SsdRawOutputs):
        raise ConfigError(f"{manifest.name} has no raw heads to compare decoders on")
    found = [_outputs(raw, manifest, picture, threads) for picture in pictures]
    for name in found[0]:
        np.save(folder / f"outputs-{name}.npy", [output[name].values for output in found])
    params = {
        name: (tensor.params.scale, tensor.params.zero_point) for name, tensor in found[0].items() if tensor.params
    }
    np.save(folder / "pictures.npy", pictures)
    np.save(folder / "anchors.npy", generate_anchors(outputs.anchors, (spec.width, spec.height)))
    for name, content in op_forms(read_model_file(raw), manifest, REPORTED).items():
        (folder / name).write_bytes(content)
    kit = Kit(
        folder=folder,
        side=side,
        classes=classes,
        threads=threads,
        threshold=REPORTED,
        iou_threshold=manifest.nms.iou_threshold,
        max_detections=manifest.nms.max_detections,
        mean=spec.mean,
        std=spec.std,
        fill=spec.fill,
        box_coder=outputs.box_coder,
        heads=tuple((level.class_logits, level.box_encodings) for level in outputs.levels),
        params=params,
        labels=manifest.labels,
    )
    kit.save()
    return kit, manifest


def _outputs(model: Path, manifest: ModelManifest, picture: npt.NDArray[np.uint8], threads: int) -> RawOutputs:
    backend = TfliteBackend(model, threads)
    return backend.infer(prepare(picture, Normalizer(manifest.input, backend.input_params))[0])


def references(kit: Kit, manifest: ModelManifest) -> tuple[list[Detections], list[Detections]]:
    """Return our detections down to `WEAK`, per picture: of the whole way, and of our decoder in canvas pixels."""
    detector = Detector.open(kit.model("raw.tflite"), num_threads=kit.threads, threshold=WEAK)
    seen = [detector.detect(Frame(picture, 0, 0.0, 0.0, "bench")) for picture in kit.pictures]
    decoder = SsdDecoder(manifest.outputs, (kit.side, kit.side), manifest.nms, kit.classes, WEAK)  # type: ignore[arg-type]
    normalizer = Normalizer(manifest.input, detector.backend.input_params)
    decoded = [decoder.decode(detector.backend.infer(prepare(picture, normalizer)[0])) for picture in kit.pictures]
    detector.close()
    return seen, decoded


def add_onnx(
    kit: Kit, manifest: ModelManifest, venvs: Path, photos: Callable[[int], Pictures], say: Callable[[str], None]
) -> None:
    """Put float32.onnx and int8.onnx into the kit; they are made once and kept beside the environments.

    `photos(n)` returns so many pictures to calibrate on.

    Raises:
        ConfigError: pip, the export or the quantization failed.
    """
    kept = venvs / "onnx"
    kept.mkdir(parents=True, exist_ok=True)
    blobs = np.stack([letterbox(photo, manifest.input)[0] for photo in photos(CALIBRATION_PHOTOS)])
    weights = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:12]
    float_model = kept / f"{weights}-{kit.side}-float32.onnx"
    int_model = kept / f"{weights}-{kit.side}-{hashlib.sha256(blobs.tobytes()).hexdigest()[:12]}-int8.onnx"
    if not float_model.exists():
        say(f"peers: exporting the weights to ONNX at {kit.side}")
        ensure(venvs / "torch", (TORCH, "onnx", "onnxscript", "safetensors", "pydantic>=2.5"))
        part = kit.folder / "float32.part.onnx"  # a file that is cut off must not be kept
        run_module(venvs / "torch", "tools.bench.make_onnx", ["export", str(WEIGHTS), str(kit.side), str(part)])
        shutil.move(part, float_model)
    if not int_model.exists():
        say(f"peers: quantizing the ONNX model at {kit.side} on {len(blobs)} photos")
        np.save(kit.folder / "blobs.npy", blobs)
        part = kit.folder / "int8.part.onnx"
        arguments = ["quantize", str(float_model), str(kit.folder / "blobs.npy"), str(part)]
        run_module(venvs / "onnxruntime", "tools.bench.make_onnx", arguments)
        shutil.move(part, int_model)
    (kit.folder / "float32.onnx").symlink_to(float_model.resolve())
    (kit.folder / "int8.onnx").symlink_to(int_model.resolve())


def calibration_photos(folder: Path | None) -> Callable[[int], Pictures]:
    """Return a function that gives pictures of `folder`, or of the demo clip where there is none."""

    def photos(count: int) -> Pictures:
        if folder is None:
            return clip_pictures(count)
        return [read_picture(path) for path in sorted(folder.iterdir())[:count]]

    return photos
