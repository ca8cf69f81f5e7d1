"""The standard TFLite metadata: name, colours, normalization and label file, for programs without our manifest.

Source: metadata_schema.fbs of tflite-support. What it has no words for (letterbox, anchors) only our manifest says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers

from edge_detector.manifest import LABELS_FILE, ModelManifest, SsdRawOutputs
from edge_detector.tflite_schema import read_tflite
from tools.quantize.flatbuffer import with_metadata

NAME = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_RGB, _IMAGE, _NORMALIZATION, _AXIS_LABELS, _VALUE_LABELS = 1, 2, 1, 2, 3  # of the schema's enums and unions
_FEATURE, _BOXES, _BOUNDARIES = 1, 3, 1
_OP_ORDER = (1, 0, 3, 2)  # left, top, right, bottom in the operator's top, left, bottom, right

Field = Callable[[flatbuffers.Builder, int], None]


def with_tflite_metadata(content: bytes, manifest: ModelManifest) -> bytes:
    """Return the model, finished and without files behind it, with the metadata that `manifest` amounts to."""
    names = [output.name for output in read_tflite(content, manifest.name).outputs]
    return with_metadata(content, NAME, _metadata(manifest, names))


def _metadata(manifest: ModelManifest, output_names: Sequence[str]) -> bytes:
    builder = flatbuffers.Builder(1024)
    image = _table(builder, _byte(_RGB), None)
    content = _table(builder, _byte(_IMAGE), _offset(image))
    options = _table(
        builder, _offset(_floats(builder, manifest.input.mean)), _offset(_floats(builder, manifest.input.std))
    )
    unit = _table(builder, _byte(_NORMALIZATION), _offset(options))
    ends = [
        [(pixel - mean) / std for mean, std in zip(manifest.input.mean, manifest.input.std, strict=True)]
        for pixel in (255, 0)
    ]
    stats = _table(builder, *(_offset(_floats(builder, values)) for values in ends))
    spec = manifest.input
    picture = _table(
        builder,
        _text(builder, "image"),
        _text(builder, f"{spec.color.upper()} picture, {spec.width}x{spec.height}, {spec.resize}"),
        None,
        _offset(content),
        _offset(_vector(builder, [unit])),
        _offset(stats),
    )
    outputs = _vector(builder, _outputs(builder, manifest, output_names))
    graph = _table(builder, None, None, _offset(_vector(builder, [picture])), _offset(outputs))
    model = _table(
        builder,
        _text(builder, manifest.name),
        _text(
            builder,
            f"Object detection: {len(manifest.labels)} classes; the manifest behind the model tells the rest",
        ),
        _text(builder, "v1"),
        _offset(_vector(builder, [graph])),
        None,
        None,
        None,
        _text(builder, "1.0.0"),
    )
    builder.Finish(model, _IDENTIFIER)
    return bytes(builder.Output())


def _outputs(builder: flatbuffers.Builder, manifest: ModelManifest, names: Sequence[str]) -> list[int]:
    """Return a table per output, in the order `names` of the model.

    Those of the detection operator are called what MediaPipe looks for, and say how its boxes are written.
    """
    outputs = manifest.outputs
    if isinstance(outputs, SsdRawOutputs):
        labelled = {level.class_logits: _AXIS_LABELS for level in outputs.levels}
        called: dict[str, str] = {}
    else:
        labelled = {outputs.classes: _VALUE_LABELS}
        called = {
            outputs.boxes: "location",
            outputs.classes: "category",
            outputs.scores: "score",
            outputs.count: "number of detections",
        }
    tables = []
    for name in names:
        content = files = None
        if name in called:
            content = _offset(_boxes(builder) if called[name] == "location" else _feature(builder))
        if name in labelled:
            file = _table(
                builder, _text(builder, LABELS_FILE), _text(builder, "Labels by class id"), _byte(labelled[name])
            )
            files = _offset(_vector(builder, [file]))
        title = _text(builder, called.get(name, name))
        tables.append(_table(builder, title, None, None, content, None, None, files))
    return tables


def _boxes(builder: flatbuffers.Builder) -> int:
    order = _vector(builder, _OP_ORDER, builder.PrependUint32)
    properties = _table(builder, _offset(order), _byte(_BOUNDARIES))
    return _table(builder, _byte(_BOXES), _offset(properties))


def _feature(builder: flatbuffers.Builder) -> int:
    return _table(builder, _byte(_FEATURE), _offset(_table(builder)))


def _table(builder: flatbuffers.Builder, *fields: Field | None) -> int:
    """Return a table whose fields have the numbers 0, 1, ..; None is a field that is not set."""
    builder.StartObject(len(fields))
    for number, field in enumerate(fields):
        if field is not None:
            field(builder, number)
    return int(builder.EndObject())


def _byte(value: int) -> Field:
    return lambda builder, number: builder.PrependUint8Slot(number, value, 0)


def _offset(place: int) -> Field:
    return lambda builder, number: builder.PrependUOffsetTRelativeSlot(number, place, 0)


def _text(builder: flatbuffers.Builder, text: str) -> Field:
    return _offset(builder.CreateString(text))


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    return _vector(builder, values, builder.PrependFloat32)


def _vector(builder: flatbuffers.Builder, values: Sequence[Any], prepend: Any = None) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        (prepend or builder.PrependUOffsetTRelative)(value)
    return int(builder.EndVector())
