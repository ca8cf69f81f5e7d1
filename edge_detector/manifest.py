"""ModelManifest: all that a model needs to be run right, carried inside its .tflite file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_FILE = "edge_detector.json"  # name in the ZIP that is appended to the .tflite
LABELS_FILE = "labels.txt"

PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rgb = tuple[float, float, float]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Part):
    """How pixels become the input tensor: value = (pixel - mean) / std per channel, then quantized.

    `mean` and `std` are given in R, G, B order whatever `color` says; `color` is the order in the tensor.
    `placement` and `fill` (R, G, B pixel values of the bars) apply to letterbox only.
    `interpolation`: "bilinear" has half-pixel centres (cv2, torch, Pillow); "bilinear_legacy" is TensorFlow 1's
    resize with corners at 0 (src = dst * scale), which the TF Object Detection API trained with.
    """

    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    color: Literal["rgb", "bgr"] = "rgb"
    mean: Rgb = (0.0, 0.0, 0.0)
    std: Rgb = (1.0, 1.0, 1.0)
    resize: Literal["letterbox", "stretch"] = "letterbox"
    placement: Literal["center", "top_left"] = "center"
    fill: tuple[int, int, int] = (114, 114, 114)
    interpolation: Literal["bilinear", "bilinear_legacy"] = "bilinear"


class AnchorSpec(_Part):
    """Settings of an anchor generator: stride 2^level, sides anchor_scale * stride * 2^(i / scales_per_octave).

    `aspect_ratios` are width / height. `generator` says where anchors are centred and how they are rounded:
    "multiscale_grid" (TF Object Detection API) half a stride off where the stride divides the side, else at cell
    corners; "keras_retinanet" (fizyr) always half a stride off; "torchvision" (AnchorGenerator) at cell corners, the
    stride being side // cells, with whole sides and rounded corners.
    """

    generator: Literal["multiscale_grid", "keras_retinanet", "torchvision"] = "multiscale_grid"
    min_level: int = 3
    max_level: int = 7
    anchor_scale: PositiveFloat = 4.0
    aspect_ratios: tuple[PositiveFloat, ...] = (1.0, 2.0, 0.5)
    scales_per_octave: Annotated[int, Field(gt=0)] = 2


class LevelOutputs(_Part):
    """Names of the two output tensors of one pyramid level.

    Shapes [1, H, W, A*C] and [1, H, W, A*4], or [1, H*W*A, C] and [1, H*W*A, 4]: the memory layout is the same.
    """

    class_logits: str
    box_encodings: str


class SsdRawOutputs(_Part):
    """Raw heads, decoded by this runtime.

    `levels` lists the pyramid levels in ascending order; one entry stands for all levels concatenated.
    `box_coder` holds what the four codes were multiplied by. `box_coding`: "center_size" has the codes ty, tx, th, tw
    of Faster R-CNN (TF Object Detection API, torchvision); "corners" the offsets of y1, x1, y2, x2 in fractions of
    the anchor's height and width (keras-retinanet).
    `scores`: what turns a class output into a confidence. `background`: class slot 0 is no object.
    """

    kind: Literal["ssd_raw"] = "ssd_raw"
    levels: Annotated[tuple[LevelOutputs, ...], Field(min_length=1)]
    anchors: AnchorSpec = AnchorSpec()
    box_coder: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (10.0, 10.0, 5.0, 5.0)
    box_coding: Literal["center_size", "corners"] = "center_size"
    scores: Literal["sigmoid", "identity"] = "sigmoid"
    background: bool = False


class DetectionOpOutputs(_Part):
    """The model ends in TFLite_Detection_PostProcess; names of its four float outputs."""

    kind: Literal["detection_postprocess_op"] = "detection_postprocess_op"
    boxes: str
    classes: str
    scores: str
    count: str


class NmsSpec(_Part):
    """Defaults of the decoder; `score_threshold` can be changed by the user at run time.

    With `vote_iou` each box that stays becomes the mean of all above the threshold that overlap it by more
    (postprocess.nms.vote). Models that end in TFLite_Detection_PostProcess do without: the operator has no such step.
    """

    score_threshold: Fraction = 0.4
    iou_threshold: Fraction = 0.5
    vote_iou: Fraction | None = None
    max_detections: Annotated[int, Field(gt=0)] = 100


class ModelManifest(_Part):
    """The manifest, version 1. `origin` says in words and figures how the file was made.

    `weights_sha256` is the hash of the weights file that the model was converted from.
    """

    schema_version: Literal[1] = 1
    name: str
    input: InputSpec
    outputs: Annotated[SsdRawOutputs | DetectionOpOutputs, Field(discriminator="kind")]
    nms: NmsSpec = NmsSpec()
    labels: tuple[str, ...]
    weights_sha256: str | None = None
    origin: dict[str, str | int | float] = {}
