# ruff: noqa: E402 - what needs TensorFlow is imported only where it is installed
from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'edge-detector[train]'")
pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'edge-detector[convert]'")
pytest.importorskip("litert_quantizer", reason="needs litert-quantizer: pip install 'edge-detector[convert]'")

from ai_edge_litert import schema_py_generated as schema

import tools.quantize.convert as convert
from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ConfigError, ModelError
from edge_detector.flatbuffer import Table
from edge_detector.loader import load_manifest, load_model
from tests.unit.tools.quantizing import (
    ARCH,
    LABELS,
    Workplace,
    generated_photo,
    make_workplace,
    random_weights,
    report_of,
    run_tool,
)
from tools.network.torch_model import SsdResNetFpn
from tools.network.weights import save_weights, sha256_of
from tools.quantize.calibrate import Histogram, choose_photos
from tools.quantize.export import export_float
from tools.quantize.flatbuffer import activations, finish
from tools.quantize.precision import Precision
from tools.quantize.ranges import RangeMethod, choose_range


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("quantize"))


@pytest.fixture(scope="module")
def model_file(workplace: Workplace) -> Path:
    """The int8 file, made by the program as a user runs it."""
    output = workplace.folder / "small.tflite"
    result = run_tool(workplace.weights, workplace.photos, output)
    assert result.returncode == 0, result.stderr
    (parity, *_) = report_of(output)["runtimes"]
    assert parity["confirmed"] > 0  # else nothing would be compared
    return output


def test_input_takes_pixels_minus_128(model_file: Path) -> None:
    params = load_model(model_file).backend.input_params
    assert params is not None
    assert (params.scale, params.zero_point, params.dtype) == (1.0, -128, np.int8)


def test_int8_file_computes_what_the_network_computes(workplace: Workplace, model_file: Path) -> None:
    loaded = load_model(model_file)
    photo = cv2.resize(generated_photo(1000), (160, 160), interpolation=cv2.INTER_NEAREST)[None]
    outputs = loaded.backend.infer((photo.astype(np.int16) - 128).astype(np.int8))
    model = SsdResNetFpn(ARCH).eval()
    model.load_state_dict({k: torch.tensor(v) for k, v in random_weights(ARCH).items()}, strict=False)
    with torch.no_grad():
        class_maps, _ = model(torch.from_numpy(photo.astype(np.float32)).permute(0, 3, 1, 2))
    for level, class_map in enumerate(class_maps, 3):
        wanted = class_map.permute(0, 2, 3, 1).numpy().ravel()
        got = outputs[f"class_logits_p{level}"].dequantized().ravel()
        assert np.corrcoef(wanted, got)[0, 1] > 0.95


def test_all_tensors_are_integers_and_convolutions_are_per_channel(model_file: Path) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(model_file.read_bytes())))
    (graph,) = model.subgraphs
    assert {tensor.type for tensor in graph.tensors} == {schema.TensorType.INT8, schema.TensorType.INT32}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        if code.builtinCode == schema.BuiltinOperator.CONV_2D:
            kernel = graph.tensors[operator.inputs[1]]
            assert len(kernel.quantization.scale) == kernel.shape[0]
            assert code.version == 3


def test_buffers_lie_inside_aligned_and_once(model_file: Path) -> None:
    content = model_file.read_bytes()
    start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    seen = set()
    for buffer in Table.root(content).tables(4):
        assert buffer.scalar(1, "Q") == 0  # an offset to outside
        values = buffer.numbers(0, np.uint8)
        if values.size:
            assert (values.__array_interface__["data"][0] - start) % 16 == 0
            assert values.tobytes() not in seen
            seen.add(values.tobytes())
    assert len(seen) > 20


def test_upsampling_is_one_operator_of_version_2(model_file: Path) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(model_file.read_bytes())))
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    versions = {names[code.builtinCode]: code.version for code in model.operatorCodes}
    assert versions["RESIZE_NEAREST_NEIGHBOR"] == 2
    assert not {"TILE", "PACK", "RESHAPE", "TRANSPOSE"} & set(versions)


def test_manifest_is_inside_and_names_the_outputs(workplace: Workplace, model_file: Path) -> None:
    manifest = load_manifest(model_file)
    backend = TfliteBackend(model_file)
    photo = np.zeros(backend.input_shape, np.int8)
    assert manifest.outputs.kind == "ssd_raw"
    named = {name for level in manifest.outputs.levels for name in (level.class_logits, level.box_encodings)}
    assert named == set(backend.infer(photo))
    assert manifest.labels == LABELS
    assert manifest.input.fill == (124, 117, 104)
    assert manifest.weights_sha256 == sha256_of(workplace.weights)
    assert manifest.origin["calibration_photos"] == 100


def test_another_input_size_and_float32(workplace: Workplace, tmp_path: Path) -> None:
    output = tmp_path / "float.tflite"
    workplace.run(output, input_size="96", precision=Precision.FLOAT32)
    backend = load_model(output).backend
    assert (backend.input_shape, backend.input_params) == ((1, 96, 96, 3), None)


def destroyed(*arguments: Any) -> dict[str, tuple[float, float]]:
    """Return ranges a hundred times too narrow."""
    from tools.quantize.precision import activation_ranges

    return {name: (low / 100, high / 100) for name, (low, high) in activation_ranges(*arguments).items()}


def test_a_destroyed_quantization_is_refused(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "activation_ranges", destroyed)
    (tmp_path / "model.tflite").write_bytes(b"earlier")
    with pytest.raises(ModelError, match="parity is poor"):
        workplace.run(tmp_path / "model.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]
    assert (tmp_path / "model.tflite").read_bytes() == b"earlier"


def test_scores_that_are_all_alike_are_refused(workplace: Workplace, tmp_path: Path) -> None:
    weights = random_weights(ARCH)
    weights["class_head.output.conv.weight"] = weights["class_head.output.conv.weight"] * 0
    save_weights(tmp_path / "alike.safetensors", ARCH, weights, LABELS)
    alike = Workplace(tmp_path / "alike.safetensors", workplace.photos, tmp_path)
    with pytest.raises(ModelError, match="all scores lie between"):
        alike.run(tmp_path / "alike.tflite")
    assert not list(tmp_path.glob("*.tflite"))


def test_bad_arguments_are_refused_before_any_work(workplace: Workplace, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    few = Workplace(workplace.weights, tmp_path / "few", tmp_path)
    with pytest.raises(ConfigError, match="holds 0 pictures, wanted 10 or more"):
        few.run(tmp_path / "model.tflite")
    with pytest.raises(ConfigError, match="must end in"):
        workplace.run(tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="no such folder"):
        workplace.run(tmp_path / "missing" / "model.tflite")
    with pytest.raises(ConfigError, match="--input-size 100 is not SIDE or WIDTHxHEIGHT"):
        workplace.run(tmp_path / "model.tflite", input_size="100")


def test_an_error_is_the_last_line_and_shown_as_it_is(workplace: Workplace) -> None:
    folder = workplace.folder / ("long" * 20) / "[bold][/red]"
    result = run_tool(workplace.weights, workplace.photos, folder / "model.tflite")
    assert result.returncode == ConfigError.exit_code
    last = result.stderr.splitlines()[-1]  # TensorFlow may have its say before
    assert last == f"quantize: error: --output {folder}/model.tflite: no such folder; make it first"


def test_finishing_a_model_twice_changes_nothing() -> None:
    content = export_float(ARCH, random_weights(ARCH))
    assert finish(content) == content
    assert len(set(activations(content).values())) == len(activations(content))


def test_photos_to_verify_on_are_not_calibrated_on(tmp_path: Path) -> None:
    for index in range(130):
        (tmp_path / f"{index:03}.jpg").touch()
    (tmp_path / "notes.txt").touch()
    calibrate, verify = choose_photos(tmp_path, 105, 10)
    assert (len(calibrate), len(verify)) == (105, 10)
    assert not set(calibrate) & set(verify)
    assert int(verify[-1].stem) > 100  # spread over all


def histogram_of(*batches: Any) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(np.asarray(batch, np.float32))
    return histogram


def test_histogram_keeps_all_values_when_its_limit_grows() -> None:
    random = np.random.default_rng(0)
    batches = [random.normal(0, scale, 1000) for scale in (0.01, 30.0, 1.0)]
    histogram = histogram_of(*batches)
    joined = np.concatenate(batches).astype(np.float32)
    assert histogram.counts.sum() == 3000
    assert (histogram.low, histogram.high) == (joined.min(), joined.max())
    mean = (histogram.counts * histogram.centers).sum() / 3000
    assert mean == pytest.approx(joined.mean(), abs=0.05)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        histogram_of([0.0, np.nan])


def rectified_with_outlier() -> Any:
    return np.append(np.maximum(np.random.default_rng(1).normal(0, 1, 100_000), 0), 60)


def test_percentile_leaves_out_the_outlier() -> None:
    low, high = choose_range(histogram_of(rectified_with_outlier()), RangeMethod.PERCENTILE, 99.99)
    assert low == 0
    assert high == pytest.approx(np.quantile(rectified_with_outlier(), 0.9999), abs=0.05)


@pytest.mark.parametrize("least", [0, -np.inf], ids=["relu", "signed"])
def test_no_range_has_notably_less_error_than_the_mse_range(least: float) -> None:
    sample = np.maximum(np.random.default_rng(2).standard_t(4, 20_000), least)

    def error(span: tuple[float, float]) -> float:
        step = (span[1] - span[0]) / 255
        return float(np.mean((np.clip(np.rint((sample - span[0]) / step), 0, 255) * step + span[0] - sample) ** 2))

    histogram = histogram_of(sample)
    best = choose_range(histogram, RangeMethod.MSE, 0)
    widest = choose_range(histogram, RangeMethod.MINMAX, 0)
    assert widest == (min(0.0, np.float32(sample.min())), np.float32(sample.max()))
    assert widest[0] <= best[0] <= 0 <= best[1] <= widest[1]
    fractions = np.linspace(0.1, 1, 25)
    errors = [error((widest[0] * low, widest[1] * high)) for low in fractions for high in fractions]
    assert error(best) <= 1.03 * min(errors)


@pytest.mark.parametrize("method", [RangeMethod.PERCENTILE, RangeMethod.MSE])
def test_other_range_methods_pass_verification_too(workplace: Workplace, tmp_path: Path, method: RangeMethod) -> None:
    workplace.run(tmp_path / "model.tflite", ranges=method)
    assert str(load_manifest(tmp_path / "model.tflite").origin["ranges"]).startswith(method.value)
