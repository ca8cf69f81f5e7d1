# ruff: noqa: E402 - what needs PyTorch is imported only where it is installed
"""Importer, network and decoder against torchvision itself, with seeded weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'edge-detector[train]'")
pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")

from safetensors.torch import save_file

from edge_detector.errors import ModelError
from edge_detector.labels import UNUSED
from edge_detector.manifest import LevelOutputs, NmsSpec, SsdRawOutputs
from edge_detector.postprocess.anchors import generate_anchors
from edge_detector.postprocess.boxes import pairwise_iou
from edge_detector.postprocess.ssd import SsdDecoder
from edge_detector.preprocess.letterbox import letterbox
from edge_detector.quantization import QuantizedTensor
from tools.network.architecture import torchvision_v1
from tools.network.importers import canonical, registry, torchvision
from tools.network.importers.coco import COCO_90
from tools.network.keras_model import LEVELS, build_keras
from tools.network.manifest import anchor_spec

SIDE = 320
USED = [slot for slot, label in enumerate(COCO_90, 1) if label != UNUSED]
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def greedy_nms(boxes: Any, scores: Any, threshold: float) -> Any:
    """Return what torchvision.ops.nms returns; its compiled operators do not load beside every PyTorch build."""
    order, kept = scores.argsort(descending=True, stable=True).tolist(), []
    overlaps = pairwise_iou(boxes.numpy(), boxes.numpy())
    for index in order:
        if not any(overlaps[index, other] > threshold for other in kept):
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


@pytest.fixture(scope="module")
def retinanet() -> Any:
    """torchvision's module of RetinaNet, with an NMS where its own is not compiled."""
    try:
        torch.ops.torchvision.nms  # noqa: B018 - there if torchvision was imported before
    except AttributeError:
        for name in ("nms", "qnms"):
            LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            LIBRARY.impl(name, greedy_nms, "CPU")
    return pytest.importorskip(
        "torchvision.models.detection.retinanet",
        reason="needs torchvision to compare with: pip install --no-deps torchvision==0.28.0",
        exc_type=ImportError,
    )


def make(retinanet: Any, version: int, classes: int = 91) -> Any:
    """Return torchvision's network with random weights whose activations stay in a usual range.

    Slots that are no object in COCO score low, so that all that torchvision finds can be compared.
    """
    build = retinanet.retinanet_resnet50_fpn_v2 if version == 2 else retinanet.retinanet_resnet50_fpn
    model = build(weights=None, weights_backbone=None, num_classes=classes, min_size=SIDE, max_size=SIDE).eval()
    generator = torch.Generator().manual_seed(version)

    def normal(like: Any, deviation: float) -> Any:
        return torch.randn(like.shape, generator=generator) * deviation

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data = torch.rand(module.num_features, generator=generator) * 0.5 + 0.5
            module.bias.data = normal(module.bias, 0.1)
            module.running_mean.copy_(normal(module.running_mean, 0.1))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            if version == 1:
                module.eps = 0.0  # as _ovewrite_eps does after loading COCO_V1
        elif isinstance(module, torch.nn.Conv2d):
            module.weight.data = normal(module.weight, (1.0 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                module.bias.data = normal(module.bias, 0.05)
    last = model.head.classification_head.cls_logits
    last.weight.data *= {1: 8.0, 2: 1.7}[version]  # a few hundred scores above 0.5
    last.bias.data -= 4.0
    if classes == 91:
        last.bias.data.view(-1, 91)[:, [slot for slot in range(91) if slot not in USED]] = -100
    model.head.regression_head.bbox_reg.weight.data *= {1: 1.0, 2: 0.25}[version]  # boxes near their anchors
    return model


def save_trained(model: Any, path: Path) -> None:
    """Write what training leaves: v1 then has FrozenBatchNorm2d, which counts no batches."""
    frozen = model.backbone.body.bn1.eps == 0
    state = {name: values for name, values in model.state_dict().items() if not (frozen and "num_batches" in name)}
    torch.save(state, path)


@pytest.mark.parametrize("version", [1, 2])
def test_outputs_and_detections_equal_torchvisions(
    retinanet: Any, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.ops.boxes._assert_has_ops", lambda: None)  # ours is there
    # Theirs clips before NMS, ours after it, which changes overlaps at the border; the rest is held equal here.
    monkeypatch.setattr(retinanet.box_ops, "clip_boxes_to_image", lambda boxes, _: boxes)
    model = make(retinanet, version)
    model.score_thresh, model.detections_per_img = 0.6, 1000
    save_trained(model, tmp_path / "retinanet.pth")
    assert registry.recognise(tmp_path / "retinanet.pth") == "torchvision"
    network = canonical(torchvision.load(tmp_path / "retinanet.pth", None))
    assert (network.arch.num_classes, network.arch.background, len(network.labels)) == (80, False, 80)
    assert bool(network.int8_advice) == (version == 2)

    blocks = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8).repeat(15, 0).repeat(15, 1)
    canvas, transform = letterbox(blocks, network.input.model_copy(update={"width": SIDE, "height": SIDE}))
    assert (transform.pad_xy, canvas[-1, -1].tolist()) == ((0, 0), [124, 116, 104])
    picture = torch.from_numpy(canvas / 255).permute(2, 0, 1).float()
    outputs = build_keras(network.arch, network.weights, (SIDE, SIDE))(canvas[None].astype(np.float32))
    with torch.no_grad():
        features = list(model.backbone(model.transform([picture])[0].tensors).values())
        heads = model.head(features)
        (theirs,) = model([picture])

    def joined(name: str, depth: int) -> Any:
        return np.concatenate([outputs[f"{name}_p{level}"].numpy().reshape(-1, depth) for level in LEVELS])

    logits, boxes = heads["cls_logits"][0, :, USED].numpy(), heads["bbox_regression"][0, :, [1, 0, 3, 2]].numpy()
    assert logits.std() > 0.1
    assert np.abs(joined("class_logits", 80) - logits).max() < 2e-4 * max(1, logits.std())
    assert np.abs(joined("box_encodings", 4) - boxes).max() < 2e-4 * max(1, boxes.std())

    raw = {name: QuantizedTensor(values.numpy()) for name, values in outputs.items()}
    levels = [LevelOutputs(class_logits=f"class_logits_p{n}", box_encodings=f"box_encodings_p{n}") for n in LEVELS]
    spec = SsdRawOutputs(
        levels=tuple(levels), anchors=anchor_spec(network.arch), box_coder=network.arch.box_coder.scales
    )
    nms = NmsSpec(score_threshold=0.6, iou_threshold=network.nms.iou_threshold, max_detections=1000)
    found = SsdDecoder(spec, (SIDE, SIDE), nms, 80).decode(raw)
    wanted = np.clip(theirs["boxes"].numpy(), 0, SIDE)
    visible = (wanted[:, 2:] > wanted[:, :2]).all(axis=1)
    assert len(found) == visible.sum() > 20  # else nothing would be compared
    scores, slots = theirs["scores"].numpy()[visible], theirs["labels"].numpy()[visible]
    for box, score, slot in zip(wanted[visible], scores, slots, strict=True):
        twin = (np.abs(found.xyxy - box).max(axis=1) < 0.01) & (np.array(USED)[found.class_id] == slot)
        assert (np.abs(found.confidence[twin] - score) < 1e-4).any()


@pytest.mark.parametrize("input_wh", [(320, 320), (640, 640), (416, 352)], ids=str)
def test_anchors_equal_torchvisions_own(retinanet: Any, input_wh: tuple[int, int]) -> None:
    grids = [[-(-side // 2**level) for side in input_wh[::-1]] for level in range(3, 8)]
    strides = [
        [torch.tensor(side // cells) for side, cells in zip(input_wh[::-1], grid, strict=True)] for grid in grids
    ]
    wanted = np.concatenate(retinanet._default_anchorgen().grid_anchors(grids, strides))
    anchors = generate_anchors(anchor_spec(torchvision_v1()), input_wh) * np.array(input_wh[::-1] * 2)
    corners = np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=1)
    assert np.abs(corners[:, [1, 0, 3, 2]] - wanted).max() < 1e-3


@pytest.fixture(scope="module")
def tensors(retinanet: Any) -> dict[str, Any]:
    """The state dict of torchvision's network."""
    return dict(make(retinanet, 1, classes=4).state_dict())


LABELS = "cat\ndog\nbird\n"


def save(tensors: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    torch.save(tensors, folder / "net.pth")
    (folder / "labels.txt").write_text(LABELS)
    return folder / "net.pth", folder / "labels.txt"


def test_wrapped_prefixed_and_old_names_are_the_same_network(tensors: dict[str, Any], tmp_path: Path) -> None:
    plain = torchvision.load(*save(tensors, tmp_path))
    old = {}
    for name, values in tensors.items():
        parts = name.split(".")
        if "_blocks" in name and "extra" not in name:
            parts.pop(4)
        elif "_head.conv" in name:
            parts[3:5] = [str(2 * int(parts[3]))]
        old[f"module.{'.'.join(parts)}"] = values
    assert "module.head.regression_head.conv.6.weight" in old
    assert "module.backbone.fpn.inner_blocks.2.bias" in old
    same = torchvision.load(*save({"epoch": 3, "state_dict": old}, tmp_path))
    assert (same.arch, same.labels) == (plain.arch, ("cat", "dog", "bird"))
    assert set(same.weights) == set(plain.weights)
    assert all(np.array_equal(values, same.weights[name]) for name, values in plain.weights.items())


def test_batchnorm_that_was_trained_has_an_epsilon(tensors: dict[str, Any], tmp_path: Path) -> None:
    frozen = {name: values for name, values in tensors.items() if "num_batches" not in name}
    trained = torchvision.load(*save(tensors, tmp_path))
    assert (trained.arch.backbone_epsilon, len(trained.notes)) == (1e-5, 1)
    network = torchvision.load(*save(frozen, tmp_path))
    assert network.arch.backbone_epsilon == 0
    assert "weights_backbone" in network.notes[1]


@pytest.mark.parametrize("variance", [1e-40, 0.0])
def test_a_variance_of_nothing_is_refused_and_next_to_nothing_is_exact(
    tensors: dict[str, Any], tmp_path: Path, variance: float
) -> None:
    state = {name: values.clone() for name, values in tensors.items() if "num_batches" not in name}
    state["backbone.body.bn1.running_var"][3] = variance
    state["backbone.body.bn1.weight"][3] = 1e-18
    network = canonical(torchvision.load(*save(state, tmp_path)))
    if variance == 0:
        with pytest.raises(ModelError, match=r"backbone\.conv1\.norm: the variance of a channel is 0"):
            build_keras(network.arch, network.weights, (96, 96))
        return
    kernel = build_keras(network.arch, network.weights, (96, 96)).get_layer("backbone.conv1").get_weights()[0]
    wanted = state["backbone.body.conv1.weight"][3].numpy().transpose(1, 2, 0) * 100.0
    np.testing.assert_allclose(kernel[..., 3], wanted, rtol=1e-4)


def test_swapped_kernels_are_refused(tensors: dict[str, Any], tmp_path: Path) -> None:
    first, second = (f"backbone.body.layer1.0.conv{number}.weight" for number in (1, 2))  # 1x1 and 3x3, both 64 to 64
    swapped = {**tensors, first: tensors[second], second: tensors[first]}
    network = canonical(torchvision.load(*save(swapped, tmp_path)))
    with pytest.raises(ModelError, match=r"do not fit .*backbone\.conv2\.0\.conv1"):
        build_keras(network.arch, network.weights)


def test_a_safetensors_file_and_one_of_old_pytorch_are_the_same_network(
    tensors: dict[str, Any], tmp_path: Path
) -> None:
    path, labels = save(tensors, tmp_path)
    plain = torchvision.load(path, labels)
    save_file(tensors, tmp_path / "net.safetensors")
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("net.safetensors", "old.pt"):
        assert registry.recognise(tmp_path / name) == "torchvision"
        same = torchvision.load(tmp_path / name, labels)
        assert same.arch == plain.arch
        assert all(np.array_equal(values, same.weights[key]) for key, values in plain.weights.items())


def test_a_backbone_without_bottlenecks_is_refused(tensors: dict[str, Any], tmp_path: Path) -> None:
    basic = {name: values for name, values in tensors.items() if "conv3" not in name and "bn3" not in name}
    with pytest.raises(ModelError, match="no bottlenecks; supported are ResNet50, 101 and 152"):
        torchvision.load(*save(basic, tmp_path))


def test_other_networks_of_torchvision_are_not_recognised(tensors: dict[str, Any], tmp_path: Path) -> None:
    body = {name: values for name, values in tensors.items() if name.startswith("backbone")}
    path, _ = save({**body, "roi_heads.box_predictor.cls_score.weight": torch.zeros(1)}, tmp_path)
    assert registry.recognise(path) is None


def test_own_classes_need_labels(tensors: dict[str, Any], tmp_path: Path) -> None:
    path, labels = save(tensors, tmp_path)
    with pytest.raises(ModelError, match="has 3 classes besides the background; name them with --labels"):
        torchvision.load(path, None)
    labels.write_text(LABELS + "horse\n")
    with pytest.raises(ModelError, match="holds 4 labels, but the network has 3 classes"):
        torchvision.load(path, labels)


def test_a_tensor_that_is_missing_or_left_over_is_named(tensors: dict[str, Any], tmp_path: Path) -> None:
    extra = {**tensors, "roi_heads.box_predictor.cls_score.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"1 tensors belong to no layer .* roi_heads\.box_predictor"):
        torchvision.load(*save(extra, tmp_path))
    without = {name: values for name, values in tensors.items() if "inner_blocks.1" not in name}
    network = canonical(torchvision.load(*save(without, tmp_path)))
    with pytest.raises(ModelError, match=r"fpn\.lateral4"):
        build_keras(network.arch, network.weights)


class Evil:
    """Would run when it is unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


def test_code_in_a_pickle_does_not_run(
    tensors: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="cannot be read as plain tensors"):
        torchvision.load(*save({**tensors, "head.classification_head.cls_logits.evil": Evil()}, tmp_path))
    assert "must not run" not in capsys.readouterr().out


def test_a_file_that_is_cut_off_is_a_model_error(tensors: dict[str, Any], tmp_path: Path) -> None:
    path, labels = save(tensors, tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be read as plain tensors"):
        torchvision.load(path, labels)
