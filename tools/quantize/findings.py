"""What a conversion found out, as plain values: made by `verify`, `layers` and `edgetpu`, shown by `report`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_detector.detections import Detections


@dataclass(frozen=True)
class SourceParity:
    """The float .tflite against the source framework, over all photos.

    Attributes:
        reference: what computed the source's outputs, such as "PyTorch 2.13.0".
        max_error: greatest absolute difference by output name.
        spread: standard deviation of the source's output by name, to compare with.
    """

    reference: str
    max_error: dict[str, float]
    spread: dict[str, float]


@dataclass(frozen=True)
class OutputParity:
    """One output of the model file against its float twin, over all photos.

    Cosines are those of the deviations from the float output's mean, so that a constant offset does not hide errors.

    Attributes:
        name: of the output.
        step: of its integers; 0 where it is float.
        cosine: 1 where both agree up to a factor, 0 where they have nothing in common.
        max_error: greatest absolute difference.
        greatest: greatest absolute value of the float output.
        worst_channel, worst_channel_cosine: the channel that agrees least.
        edges: (B + 1,) borders of the bins below.
        float_counts, counts: (B,) how often the values of float twin and model file fell into each bin.
    """

    name: str
    step: float
    cosine: float
    max_error: float
    greatest: float
    worst_channel: int
    worst_channel_cosine: float
    edges: npt.NDArray[np.float64]
    float_counts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """One photo (H, W, 3) RGB with what the float twin and the model file found, in its pixels."""

    photo: npt.NDArray[np.uint8]
    float_found: Detections
    found: Detections


@dataclass(frozen=True)
class Parity:
    """How a model file compares with its float twin on one runtime.

    Attributes:
        runtime: the runtime's name and version.
        photos: how many were compared.
        outputs: per output tensor.
        wanted, confirmed: detections of the float twin, and those of them that the model finds too.
        found, invented: detections of the model, and those of them that the float twin does not have.
        lowest, highest: score of all anchors and photos.
        score_pairs: (K, 2) score in the float twin and in the model file, of matching detections; 0 where one of
            them has none.
        median_ms: of one inference.
        samples: the first few photos.
    """

    runtime: str
    photos: int
    outputs: tuple[OutputParity, ...]
    wanted: int = 0
    confirmed: int = 0
    found: int = 0
    invented: int = 0
    lowest: float = 1.0
    highest: float = 0.0
    score_pairs: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    median_ms: float = 0.0
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class LayerError:
    """How far one activation of the integer model is from the float one.

    Noise is given as a share of the signal's power, 0..1, the mean of all channels.

    Attributes:
        name: of the tensor, as in the float model.
        operator: that computes it, such as "CONV_2D".
        snr_db: signal to noise ratio in dB, noise accumulated from the input on.
        added_noise: what this operator adds to what its inputs brought: its output against that of the float operator
            on the same inputs.
        rounding_noise: the part of it that rounding and clipping of the output makes; far less than `added_noise`
            where the weights are what is badly represented.
    """

    name: str
    operator: str
    snr_db: float
    added_noise: float
    rounding_noise: float = 0.0


@dataclass(frozen=True)
class Scores:
    """COCO figures of float twin and model file on annotated photos, in percent; None where undefined."""

    photos: int
    float_ap: float | None
    float_ap50: float | None
    ap: float | None
    ap50: float | None


@dataclass(frozen=True)
class OperatorMapping:
    """One operator of the model and whether the Edge TPU's compiler will take it: `reason` says why not."""

    index: int
    operator: str
    output: str
    mapped: bool
    reason: str = ""


@dataclass(frozen=True)
class EdgeTpuReport:
    """What edgetpu_compiler is expected to do, and what it did where it is installed.

    Attributes:
        operators: in the order of the model.
        parameter_bytes: constants of the mapped operators.
        sram_bytes: of the device, for parameters; what exceeds it is fetched over USB for every picture.
        compiler: what the compiler printed; None where it is not installed.
        compiled: name of the twin that it wrote beside the model; None if there is none.
    """

    operators: tuple[OperatorMapping, ...]
    parameter_bytes: int
    sram_bytes: int
    compiler: str | None = None
    compiled: str | None = None


@dataclass(frozen=True)
class MixedStep:
    """What it costs and brings to keep the worst `kept` layers out of int8."""

    kept: int
    layers: tuple[str, ...]
    cosine: float
    size_mb: float
    median_ms: float


@dataclass(frozen=True)
class Findings:
    """All about one conversion; `faults` is empty if the model file was written.

    Attributes:
        name: of the model.
        source, family, notes: where it came from, see `ImportedNetwork`.
        recipe: what has to be known to repeat it: source and its SHA-256, options, versions, calibration photos' hash.
        seconds: by stage.
        peak_memory_mb: greatest resident size of the process.
        size_mb, float_size_mb: of model file and float twin.
        source_parities: against the source framework, and the SavedModel that came with it; none where the source is
            the float .tflite itself.
        parities: one per runtime.
        layers: the worst first.
        scores: where annotations were given.
        edge_tpu: for int8 models.
        mixed: where --mixed was given.
        faults: what keeps the model from being written, in words.
        labels: to draw samples with.
        precision: number format of the model, such as "int8".
        input_wh: width and height of its input in pixels.
        score: confidence from which on detections were compared; 0 where unknown.
        memory_mb: greatest resident size of the process up to the end of each stage.
    """

    name: str
    source: str
    family: str
    notes: tuple[str, ...]
    recipe: dict[str, str | int | float]
    seconds: dict[str, float]
    peak_memory_mb: float
    size_mb: float
    float_size_mb: float
    source_parities: tuple[SourceParity, ...]
    parities: tuple[Parity, ...]
    layers: tuple[LayerError, ...]
    scores: Scores | None
    edge_tpu: EdgeTpuReport | None
    mixed: tuple[MixedStep, ...]
    faults: tuple[str, ...]
    labels: tuple[str, ...]
    precision: str = "int8"
    input_wh: tuple[int, int] | None = None
    score: float = 0.0
    memory_mb: dict[str, float] = field(default_factory=dict)
