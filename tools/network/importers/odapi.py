"""What both importers of the TF Object Detection API share: finding the files, reading pipeline.config."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_detector.errors import ModelError
from edge_detector.manifest import InputSpec, NmsSpec
from tools.network.architecture import Activation, AnchorStyle, Architecture, BoxCoder
from tools.network.importers import given_labels
from tools.network.importers.coco import COCO_90
from tools.network.importers.pipeline_config import Message, read_pipeline_config

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Theirs -> ours, of a BatchNorm.
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_ACTIVATIONS: dict[str, Activation] = {"RELU": "relu", "RELU_6": "relu6", "NONE": "none"}
_DAMAGED = (tarfile.ReadError, EOFError, zlib.error, OSError)


@dataclass(frozen=True)
class Files:
    """Where the parts of a checkpoint lie; `prefix` is the path of the .index file without its ending."""

    prefix: Path
    config: Path | None
    saved_model: Path | None

    @property
    def all(self) -> tuple[Path, ...]:
        """Files that the network is read from."""
        config = () if self.config is None else (self.config,)
        return (*sorted(self.prefix.parent.glob(f"{self.prefix.name}.*")), *config)


@dataclass(frozen=True)
class Settings:
    """A pipeline.config in our words; `arch` says what is the same in both generations."""

    arch: Architecture
    input: InputSpec
    nms: NmsSpec
    generation: int  # 2 or 1
    overrides_backbone: bool  # the hyperparameters of feature maps apply to the backbone, too
    label_map: str
    notes: tuple[str, ...]


def index_of(path: Path) -> bytes:
    """Return the .index file of the checkpoint at `path` (archive, folder or file), b"" if there is none.

    An archive that is damaged before it shows one gives b"damaged".
    """
    if path.is_file() and tarfile.is_tarfile(path):
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.name.endswith(".index") and (extracted := archive.extractfile(member)) is not None:
                        return extracted.read()
        except _DAMAGED:
            return b"damaged"
        return b""
    if path.name.endswith((".tar.gz", ".tgz")) and path.is_file():
        return b"damaged"
    try:
        return _index_path(path).read_bytes()
    except (OSError, ModelError):
        return b""


def locate(path: Path, workdir: Path, pipeline_config: Path | None) -> Files:
    """Return where the parts of a checkpoint lie; an archive is unpacked into `workdir` first.

    Raises:
        ModelError: the archive is cut off, or holds no checkpoint.
    """
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar")):
        try:
            with tarfile.open(path) as archive:
                archive.extractall(workdir, filter="data")
        except _DAMAGED as error:
            raise ModelError(f"{path}: the archive is cut off or damaged ({error}); download it again") from error
        path = workdir
    index = _index_path(path)
    folders = [index.parent, *index.parents[1:3]]
    configs = [pipeline_config] if pipeline_config else [folder / "pipeline.config" for folder in folders]
    models = [folder / "saved_model" for folder in folders[:2]]
    return Files(
        index.with_suffix(""),
        next((config for config in configs if config.is_file()), None),
        next((model for model in models if (model / "saved_model.pb").is_file()), None),
    )


def _index_path(path: Path) -> Path:
    """Return the newest checkpoint's .index at `path`: a folder around it, the file, or its prefix."""
    if not path.is_dir():
        index = path if path.suffix == ".index" else path.with_name(f"{path.name}.index")
        if index.is_file():
            return index
        raise ModelError(f"{path}: no checkpoint of that name: {index.name} is not there")
    found = [index for index in path.rglob("*.index") if "saved_model" not in index.parts]
    found = found or list(path.rglob("variables.index"))
    if not found:
        raise ModelError(f"{path}: holds no checkpoint (ckpt-0.index or alike); give the folder that does")
    shallowest = min(len(index.parts) for index in found)
    return max((index for index in found if len(index.parts) == shallowest), key=_step)


def _step(index: Path) -> tuple[int, str]:
    numbers = re.findall(r"\d+", index.stem)
    return (int(numbers[-1]) if numbers else -1, index.name)


@contextlib.contextmanager
def open_checkpoint(prefix: Path) -> Iterator[Any]:
    """Yield TensorFlow's reader of the checkpoint; what it raises inside is a ModelError."""
    from tensorflow.python.framework.errors_impl import OpError
    from tensorflow.train import load_checkpoint

    try:
        yield load_checkpoint(str(prefix))
    except (OpError, ValueError, RuntimeError, IndexError) as error:
        raise ModelError(f"{prefix}: cannot be read as a checkpoint: {error}; copy or download it again") from error


def read_settings(files: Files) -> Settings:
    """Return what the pipeline.config beside a checkpoint says.

    Raises:
        ModelError: there is none, or it describes a network that is no SSD-ResNet-FPN, or one of a kind that is not
            supported; the message names the setting.
    """
    if files.config is None:
        raise ModelError(
            f"{files.prefix}: no pipeline.config beside the checkpoint or above it; give it with --pipeline-config"
        )
    config = read_pipeline_config(files.config)
    ssd = config.message("model").message("ssd")
    features, head = ssd.message("feature_extractor"), ssd.message("box_predictor")
    kind = features.text("type")
    match = re.fullmatch(r"ssd_resnet(50|101|152)_v1_fpn(_keras)?", kind)
    if match is None:
        raise ModelError(
            f"{files.config}: describes {kind or ', '.join(config.message('model').names()) or 'no model'}; supported "
            "are ssd_resnet50_v1_fpn and its 101 and 152, with or without _keras"
        )
    _refuse(files.config, ssd, features, head.message("weight_shared_convolutional_box_predictor"), head)
    predictor = head.message("weight_shared_convolutional_box_predictor")
    anchors = ssd.message("anchor_generator").message("multiscale_anchor_generator")
    coder = ssd.message("box_coder").message("faster_rcnn_box_coder")
    spec, notes = _input(files.config, ssd.message("image_resizer"))
    nms = ssd.message("post_processing").message("batch_non_max_suppression")
    readers = [config.message(name) for name in ("train_input_reader", "eval_input_reader")]
    arch = Architecture(
        input_side=max(spec.width, spec.height),
        num_classes=int(ssd.number("num_classes", 0)),
        background=ssd.flag("add_background_class", True),
        base_width=_width(features, 64),
        blocks=BLOCKS[int(match[1])],
        pool_padding="same",
        fpn_channels=_width(features, int(features.message("fpn").number("additional_layer_depth", 256))),
        fpn_activation=_activation(files.config, features),
        fpn_epsilon=_epsilon(features),
        smooth_top=False,
        head_channels=int(predictor.number("depth", 0)),
        head_depth=int(predictor.number("num_layers_before_predictor", 0)),
        head_norm="per_level",
        head_activation=_activation(files.config, predictor),
        head_epsilon=_epsilon(predictor),
        anchors=AnchorStyle(
            aspect_ratios=anchors.numbers("aspect_ratios", (1.0, 2.0, 0.5)),
            scales_per_octave=int(anchors.number("scales_per_octave", 2)),
            anchor_scale=anchors.number("anchor_scale", 4.0),
        ),
        box_coder=BoxCoder(
            scales=(
                coder.number("y_scale", 10.0),
                coder.number("x_scale", 10.0),
                coder.number("height_scale", 5.0),
                coder.number("width_scale", 5.0),
            )
        ),
    )
    return Settings(
        arch,
        spec,
        NmsSpec(
            iou_threshold=nms.number("iou_threshold", 0.6), max_detections=int(nms.number("max_total_detections", 100))
        ),
        2 if match[2] else 1,
        features.flag("override_base_feature_extractor_hyperparams", False),
        next((text for reader in readers if (text := reader.text("label_map_path"))), ""),
        notes,
    )


def find_labels(settings: Settings, files: Files, given: Path | None) -> tuple[str, ...]:
    """Return a label per class, unused ids at the end filled in.

    They come from the file `given`, else from the label map that pipeline.config names if it lies beside it, else they
    are COCO's if there are 90 classes.

    Raises:
        ModelError: there are more labels than classes, or none are to be had.
    """
    classes = settings.arch.num_classes
    beside = [folder / Path(settings.label_map).name for folder in files.config.parents[:1]] if files.config else []
    path = given or next((path for path in beside if path.is_file()), None)
    if path is None:
        if classes == len(COCO_90):
            return COCO_90
        raise ModelError(
            f"{files.prefix}: has {classes} classes and no label map beside it; give label_map.pbtxt with --labels"
        )
    return given_labels(path, classes)


def check_heads(arch: Architecture, weights: dict[str, Any], config: Path | None) -> None:
    """Check that the heads put out what pipeline.config says.

    Raises:
        ModelError: the number of classes or anchors differs.
    """
    for head, per_anchor, what in (
        ("class_head", arch.class_slots, f"{arch.num_classes} classes"),
        ("box_head", 4, "boxes"),
    ):
        found, wanted = len(weights[f"{head}.output.conv.bias"]), per_anchor * arch.anchors.per_cell
        if found != wanted:
            raise ModelError(
                f"{config}: {what} with {arch.anchors.per_cell} anchors per cell make {wanted} channels, but the "
                f"checkpoint has {found}; give the pipeline.config that belongs to it"
            )


def with_backbone(settings: Settings, epsilon: float, **changes: Any) -> Architecture:
    """Return the architecture with the backbone's activation and this epsilon where its own apply."""
    arch = settings.arch
    activation: Activation = arch.fpn_activation if settings.overrides_backbone else "relu"
    backbone = {"backbone_activation": activation, "residual_activation": activation, "backbone_epsilon": epsilon}
    return dataclasses.replace(arch, **(backbone | changes))


def _refuse(config: Path, ssd: Message, features: Message, predictor: Message, head: Message) -> None:
    """Raise ModelError for settings that make another network."""
    fpn, generator = features.message("fpn"), ssd.message("anchor_generator")
    faults = [
        name
        for name, refused in {
            f"box_predictor {', '.join(head.names())}": "weight_shared_convolutional_box_predictor" not in head,
            f"anchor_generator {', '.join(generator.names())}": "multiscale_anchor_generator" not in generator,
            "num_classes 0": ssd.number("num_classes", 0) < 1,
            "fpn levels other than 3..7": (fpn.number("min_level", 3), fpn.number("max_level", 7)) != (3, 7),
            "use_depthwise": features.flag("use_depthwise", False) or predictor.flag("use_depthwise", False),
            "share_prediction_tower": predictor.flag("share_prediction_tower", False),
            "apply_batch_norm: false": not predictor.flag("apply_batch_norm", True),
            "kernel_size other than 3": predictor.number("kernel_size", 3) != 3,
            "no layers before the predictor": predictor.number("num_layers_before_predictor", 0) < 1,
            "conv_hyperparams without batch_norm { scale: true }": not all(
                part.message("conv_hyperparams").message("batch_norm").flag("scale", False)
                for part in (features, predictor)
            ),
            "a score_converter other than SIGMOID": ssd.message("post_processing").text("score_converter", "SIGMOID")
            != "SIGMOID",
            "box_coder": "box_coder" in ssd and "faster_rcnn_box_coder" not in ssd.message("box_coder"),
        }.items()
        if refused
    ]
    if faults:
        raise ModelError(f"{config}: {'; '.join(faults)}: such a network is not supported")


def _input(config: Path, resizer: Message) -> tuple[InputSpec, tuple[str, ...]]:
    fixed, keep = resizer.message("fixed_shape_resizer"), resizer.message("keep_aspect_ratio_resizer")
    trained = (
        "It was trained with the legacy bilinear resize of TensorFlow 1 (--interpolation bilinear_legacy scores so)"
    )
    if "fixed_shape_resizer" in resizer:
        spec = InputSpec(
            width=int(fixed.number("width", 300)), height=int(fixed.number("height", 300)), resize="stretch"
        )
        return spec, (f"{trained} and pictures stretched to the canvas.",)
    if "keep_aspect_ratio_resizer" in resizer:
        side = int(keep.number("max_dimension", 1024))
        fill = tuple(round(value) for value in keep.numbers("per_channel_pad_value", (0.0, 0.0, 0.0)))
        spec = InputSpec.model_validate(
            {"width": side, "height": side, "resize": "letterbox", "placement": "top_left", "fill": fill}
        )
        return spec, (f"{trained} and the aspect ratio kept; the canvas is {side}x{side}.",)
    raise ModelError(f"{config}: image_resizer {', '.join(resizer.names())} is not supported; use fixed_shape_resizer")


def _width(features: Message, channels: int) -> int:
    return max(int(features.number("depth_multiplier", 1.0) * channels), int(features.number("min_depth", 16)))


def _activation(config: Path, part: Message) -> Activation:
    name = part.message("conv_hyperparams").text("activation", "RELU")
    if name not in _ACTIVATIONS:
        raise ModelError(f"{config}: activation {name} is not supported, only {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _epsilon(part: Message) -> float:
    return part.message("conv_hyperparams").message("batch_norm").number("epsilon", 1e-3)
