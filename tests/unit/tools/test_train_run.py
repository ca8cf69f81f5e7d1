# ruff: noqa: E402 - what builds on PyTorch is imported only where it is installed
"""Batches, trainer, plot and command: on a network of a few thousand weights."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'edge-detector[train]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'edge-detector[train]'")

from edge_detector.errors import ConfigError, ModelError, SourceError
from tools.network.architecture import Architecture, slim
from tools.network.torch_model import SsdResNetFpn, flatten_levels
from tools.network.weights import load_weights, save_weights
from tools.train import __main__ as program
from tools.train.assign import BACKGROUND
from tools.train.augment import Augmentation, Sample
from tools.train.batches import Batch, BatchMaker, anchors_px, prefetch
from tools.train.dataset import Photo, load_coco
from tools.train.plot import plot_losses
from tools.train.trainer import Schedule, Trainer

GENTLE = Augmentation(zoom=(0.9, 1.1), mosaic=0.0)


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    """One thread adds numbers in one order only, and does not wait for others on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(**changes: Any) -> Architecture:
    settings: dict[str, Any] = {
        "input_side": 64, "base_width": 8, "blocks": (1, 1, 1, 1), "fpn_channels": 16, "head_channels": 16,
    }  # fmt: skip
    return slim(**settings | changes)


def tiny_model(seed: int = 0, **changes: Any) -> SsdResNetFpn:
    torch.manual_seed(seed)
    return SsdResNetFpn(tiny(**changes))


def make_trainer(photos: list[Photo], folder: Path, steps: int, model: SsdResNetFpn | None = None) -> Trainer:
    model = model or tiny_model()
    maker = BatchMaker(photos, model.arch, GENTLE, 4, seed=1)
    return Trainer(model, maker, Schedule(steps, 5e-3, backbone_factor=1.0, warmup_steps=5), ("box",), folder)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def ignore(step: int, figures: dict[str, float]) -> None:
    """Show no progress."""


def assert_same(first: Batch, second: Batch) -> None:
    for name in ("images", "labels", "boxes", "exhaustive"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_a_batch_depends_on_seed_and_step_alone(coco_set: Callable[..., Path]) -> None:
    photos, _ = load_coco(coco_set())
    makers = [BatchMaker(photos, tiny(), Augmentation(), 3, seed) for seed in (1, 1, 2)]
    makers[0].make(0)  # what was made before does not matter
    assert_same(makers[0].make(5), makers[1].make(5))
    assert not torch.equal(makers[0].make(5).images, makers[0].make(6).images)
    assert not torch.equal(makers[0].make(5).images, makers[2].make(5).images)


def test_a_photo_is_augmented_anew_at_each_step(coco_set: Callable[..., Path]) -> None:
    maker = BatchMaker(load_coco(coco_set(1))[0], tiny(), GENTLE, 1, 0)
    assert not torch.equal(maker.make(0).images, maker.make(1).images)


def test_a_batch_has_the_shapes_that_the_network_answers_with(coco_set: Callable[..., Path]) -> None:
    photos, _ = load_coco(coco_set())
    arch = tiny(input_side=96)
    batch = BatchMaker(photos, arch, GENTLE, 3, 0).make(0)
    class_maps, box_maps = SsdResNetFpn(arch).eval()(batch.images)
    assert batch.labels.shape == flatten_levels(class_maps, 1).shape[:2]
    assert batch.boxes.shape == flatten_levels(box_maps, 4).shape
    assert batch.images.shape == (3, 3, 96, 96)
    assert batch.images.max() > 150  # pixels, not fractions
    assert (batch.labels >= 0).any(1).all()


def test_canvases_without_objects_weigh_no_more_the_more_there_are(
    coco_set: Callable[..., Path], tmp_path: Path
) -> None:
    trainer = make_trainer(load_coco(coco_set())[0], tmp_path, 1)
    batch = trainer.maker.make(0)
    batch = replace(batch, labels=torch.full_like(batch.labels, BACKGROUND))
    twice = Batch(*(torch.cat([part, part]) for part in (batch.images, batch.labels, batch.boxes, batch.exhaustive)))
    (once, nothing), (more, _) = trainer.loss(batch), trainer.loss(twice)
    assert more.item() == pytest.approx(once.item(), rel=1e-2)
    assert nothing.item() == 0


def test_a_mixture_of_sides_trains_on_larger_canvases_in_smaller_batches(
    coco_set: Callable[..., Path], tmp_path: Path
) -> None:
    photos, _ = load_coco(coco_set())
    model = tiny_model()
    side = model.arch.input_side
    maker = BatchMaker(photos, model.arch, GENTLE, 8, seed=1, sides=(side, side, 2 * side))
    batches = [maker.make(step) for step in range(12)]
    assert {tuple(batch.images.shape) for batch in batches} == {(8, 3, side, side), (2, 3, 2 * side, 2 * side)}
    trainer = Trainer(model, maker, Schedule(12, 5e-3, warmup_steps=2), ("box",), tmp_path)
    trainer.run(ignore)
    assert len(logged(tmp_path)) == 12
    assert load_weights(tmp_path / "weights.safetensors")[0].input_side == side


def test_every_photo_is_seen_once_in_an_epoch_in_another_order_each_time(coco_set: Callable[..., Path]) -> None:
    photos, _ = load_coco(coco_set(6))
    seen: list[Path] = []

    class Recorder(Augmentation):
        def __call__(self, photos: list[Photo], side: int, rng: np.random.Generator) -> Sample:
            seen.append(photos[0].path)
            return super().__call__(photos, side, rng)

    maker = BatchMaker(photos, tiny(), Recorder(mosaic=0.0), 4, seed=0)
    for step in range(6):
        maker.make(step)
    epochs = [seen[start : start + 6] for start in range(0, 24, 6)]
    assert all(set(epoch) == {photo.path for photo in photos} for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_made_ahead_are_those_made_on_demand(coco_set: Callable[..., Path]) -> None:
    maker = BatchMaker(load_coco(coco_set())[0], tiny(), Augmentation(), 2, 0)
    ahead = list(prefetch(maker, 3, 7))
    assert len(ahead) == 4
    for step, batch in enumerate(ahead, 3):
        assert_same(batch, maker.make(step))


def test_an_unreadable_photo_stops_training_with_its_name(coco_set: Callable[..., Path], tmp_path: Path) -> None:
    photos, _ = load_coco(coco_set())
    photos[0].path.write_bytes(b"")
    with pytest.raises(SourceError, match=r"1\.png: cannot be read"):
        make_trainer(photos, tmp_path / "run", 4).run(ignore)


def test_the_learning_rate_rises_then_falls_to_a_hundredth() -> None:
    schedule = Schedule(steps=200, warmup_steps=50)
    factors = [schedule.factor(step) for step in range(201)]
    assert factors[0] == pytest.approx(1 / 50)
    assert int(np.argmax(factors)) in (49, 50)
    assert max(factors) == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(factors[50:]))
    assert factors[-1] == pytest.approx(0.01)


def test_training_learns_and_writes_what_the_runtime_can_use(coco_set: Callable[..., Path], tmp_path: Path) -> None:
    photos, labels = load_coco(coco_set())
    trainer = make_trainer(photos, tmp_path, 40)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run(ignore)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 41))
    for key in ("class_loss", "box_loss"):
        values = [row[key] for row in rows]
        assert np.mean(values[-10:]) < 0.7 * np.mean(values[:10]), key
    arch, weights, stored_labels = load_weights(tmp_path / "weights.safetensors")
    assert (arch, stored_labels) == (trainer.model.arch, labels)
    assert set(weights) == {name for name in before if not name.endswith("num_batches_tracked")}
    averaged, last = weights["class_head.output.conv.bias"], trainer.model.class_head.output.conv.bias
    assert not np.allclose(averaged, before["class_head.output.conv.bias"].numpy())
    assert not np.allclose(averaged, last.detach().numpy())  # the mean of the last steps, not the last one
    plot_losses(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert cv2.imread(str(tmp_path / "loss.png")) is not None


def test_anchors_of_targets_and_outputs_have_the_same_order() -> None:
    arch = tiny(input_side=96)
    per_cell = arch.anchors.per_cell
    maps = []
    for side in arch.level_sides():
        row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        cells = torch.stack([row, column])[None].expand(per_cell, 2, side, side)
        numbers = torch.arange(per_cell)[:, None, None, None].expand(per_cell, 1, side, side)
        maps.append(torch.cat([cells, numbers], 1).reshape(1, per_cell * 3, side, side))
    row, column, number = flatten_levels(maps, 3)[0].numpy().T
    y, x, h, w = anchors_px(arch).T
    assert len(row) == len(y)
    stride = np.repeat(2.0 ** np.arange(3, 8), [side * side * per_cell for side in arch.level_sides()])
    centred = stride / 2 * (96 % stride == 0)  # the generator's quirk: no half cell on levels that do not fit
    np.testing.assert_allclose(y, row * stride + centred, atol=1e-3)
    np.testing.assert_allclose(x, column * stride + centred, atol=1e-3)
    shapes = {(int(n), *np.round([a / s, b / s], 2)) for n, a, b, s in zip(number, h, w, stride, strict=True)}
    assert len(shapes) == per_cell  # a channel has the same shape in every cell of every level


def test_frozen_stages_and_backbone_statistics_stay_as_they_are(coco_set: Callable[..., Path], tmp_path: Path) -> None:
    model = tiny_model()
    model.backbone.freeze(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_trainer(load_coco(coco_set())[0], tmp_path, 3, model).run(ignore)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("backbone.conv1", "backbone.conv2")) for name in changed)
    assert any(name.startswith("backbone.conv5") for name in changed)
    assert not any(name.startswith("backbone") and "running" in name for name in changed)
    assert any(name.startswith("class_head") and "running" in name for name in changed)


class Interrupt(Exception):  # noqa: N818 - stands for Ctrl+C
    pass


def test_a_run_that_was_stopped_continues_as_if_it_had_not_been(coco_set: Callable[..., Path], tmp_path: Path) -> None:
    photos, _ = load_coco(coco_set())
    whole = make_trainer(photos, tmp_path / "whole", 6)
    whole.run(ignore)

    def stop_at_five(step: int, figures: dict[str, float]) -> None:
        if step == 5:
            raise Interrupt

    with pytest.raises(Interrupt):
        make_trainer(photos, tmp_path / "parts", 6).run(stop_at_five, save_every=3)
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "class_lo')  # a line that a crash cut off
    resumed = make_trainer(photos, tmp_path / "parts", 6, tiny_model(seed=9))
    assert resumed.resume()
    assert resumed.step == 3
    resumed.run(ignore)
    assert [row["step"] for row in logged(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]
    for key in ("class_loss", "box_loss"):
        assert [row[key] for row in logged(tmp_path / "parts")] == [row[key] for row in logged(tmp_path / "whole")]
    weights = [load_weights(tmp_path / name / "weights.safetensors")[1] for name in ("whole", "parts")]
    for name, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], value, err_msg=name)


def test_resuming_with_another_network_is_an_error(coco_set: Callable[..., Path], tmp_path: Path) -> None:
    photos, _ = load_coco(coco_set())
    make_trainer(photos, tmp_path, 1).run(ignore)
    other = tiny_model(head_channels=8)
    with pytest.raises(ConfigError, match="is of another network; resume with"):
        make_trainer(photos, tmp_path, 2, other).resume()
    frozen = tiny_model()
    frozen.backbone.freeze(5)
    with pytest.raises(ConfigError, match="--freeze"):
        make_trainer(photos, tmp_path, 2, frozen).resume()


def test_everything_that_training_computes_with_lies_on_the_device(
    coco_set: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_model()
    maker = BatchMaker(load_coco(coco_set())[0], model.arch, GENTLE, 2, seed=1)
    trainer = Trainer(model, maker, Schedule(1), ("box",), tmp_path, device="meta")  # a device that every machine has
    batch = maker.make(0).to("meta")
    groups = trainer.optimizer.param_groups
    tensors = [
        *trainer.anchors.values(),
        batch.images,
        batch.labels,
        batch.boxes,
        batch.exhaustive,
        model.mean,
        model.std,
    ]
    tensors += [*model.state_dict().values(), *trainer.ema.averages.values()]
    tensors += [parameter for group in groups for parameter in group["params"]]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_gpu_that_is_not_there_is_refused(
    coco_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if torch.cuda.is_available():
        pytest.skip("a GPU was in use before it could be hidden")
    with pytest.raises(ConfigError, match="--device cuda: PyTorch finds no GPU"):
        program.main([coco_set()], tmp_path / "out", tmp_path / "none", side=[64], device=program.Device.CUDA)
    assert program.choose_device(program.Device.AUTO) == "cpu"
    assert program.choose_device(program.Device.CPU) == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")
def test_a_run_begun_on_a_gpu_goes_on_without_and_back(
    coco_set: Callable[..., Path], start: Path, tmp_path: Path
) -> None:
    data, output = [coco_set()], tmp_path / "out"
    for epochs, device in enumerate(("cuda", "cpu", "cuda"), 1):
        program.main(data, output, start, side=[64], batch=2, epochs=epochs, resume=True, device=program.Device(device))
    assert [row["step"] for row in logged(output)] == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def start(tmp_path: Path) -> Path:
    model = tiny_model()
    arrays = {n: v.numpy() for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    save_weights(tmp_path / "start.safetensors", model.arch, arrays, ("box",))
    return tmp_path / "start.safetensors"


def test_weights_are_taken_where_they_fit(start: Path) -> None:
    model = program.build_model(start, 96, 128, 2, ("box", "ball"))
    assert (model.arch.input_side, model.arch.num_classes) == (96, 2)
    stored = load_weights(start)[1]
    state = model.state_dict()
    np.testing.assert_array_equal(state["backbone.conv1.conv.weight"].numpy(), stored["backbone.conv1.conv.weight"])
    assert state["class_head.output.conv.weight"].shape[0] == 2 * stored["class_head.output.conv.weight"].shape[0]


def test_unusable_settings_are_errors_before_training(
    coco_set: Callable[..., Path], start: Path, tmp_path: Path
) -> None:
    data, output = [coco_set()], tmp_path / "out"
    with pytest.raises(ConfigError, match="--side 100 is not a multiple of 32"):
        program.main(data, output, start, side=[100])
    with pytest.raises(ConfigError, match="--zoom 0 1"):
        program.main(data, output, start, zoom=(0, 1))
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        program.main(data, output, tmp_path / "none.safetensors", side=[64])
    assert not output.exists()


def run_tool(repository: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "tools" / "train"), "--side", "64", "--threads", "1"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def test_the_command_trains_resumes_and_does_not_touch_an_earlier_run(
    coco_set: Callable[..., Path], start: Path, tmp_path: Path, repository: Path
) -> None:
    data, output = coco_set(), tmp_path / "out"
    program.main([data], output, start, side=[64], batch=2, epochs=1)
    assert {path.name for path in output.iterdir()} == {
        "checkpoint.pt", "weights.safetensors", "log.jsonl", "loss.png",
    }  # fmt: skip
    again = run_tool(repository, "--data", data, "--start", start, "--output", output)
    assert again.returncode == ConfigError.exit_code
    assert "holds an earlier run; add --resume" in again.stderr
    assert len(logged(output)) == 2
    program.main([data], output, start, side=[64], batch=2, epochs=2, resume=True)
    assert [row["step"] for row in logged(output)] == [1, 2, 3, 4]


def test_resuming_before_the_first_checkpoint_begins_anew(
    coco_set: Callable[..., Path], start: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "log.jsonl").write_text('{"step": 1, "class_loss": 1}\n')
    program.main([coco_set()], output, start, side=[64], batch=2, epochs=1, resume=True)
    assert [row["step"] for row in logged(output)] == [1, 2]


def test_bad_data_is_one_line_with_its_exit_code(
    coco_set: Callable[..., Path], start: Path, tmp_path: Path, repository: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(SourceError, match="not a COCO-format data set"):
        program.main([tmp_path / "none"], output, start, side=[64])
    run = run_tool(repository, "--data", coco_set(), "--classes", "cat", "--start", start, "--output", output)
    assert run.returncode == SourceError.exit_code
    assert "no class cat; it has box" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not output.exists()
