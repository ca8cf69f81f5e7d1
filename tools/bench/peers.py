"""The contenders: what each is, what pip installs for it, and what it is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from tools.bench.contenders import Contender
from tools.bench.kit import Kit

TORCH = "torch==2.13.0"  # what the ONNX export is known to work with
_LITERT = ("ai-edge-litert>=2.1",)
# Ultralytics reports usage and installs packages by itself unless it is told not to before its import.
_QUIET = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}


@dataclass(frozen=True)
class Peer:
    """A contender.

    Attributes:
        title: what it is.
        venv: name of its virtual environment.
        requirements: what pip installs there beside NumPy and OpenCV.
        packages: those whose versions are told.
        make: its class, "module:name" below tools.bench.contenders.
        model: the file of its kit that it runs, where it has a choice.
        decodes: takes the network's stored outputs instead of pictures, to compare what comes behind the network.
        threads: for the network, instead of the kit's; 0 for the kit's.
        one_class: its model is made from the weights, which have one class.
        environment: variables to be set before its import.
    """

    title: str
    venv: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    make: str
    model: str = ""
    decodes: bool = False
    threads: int = 0
    one_class: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def build(self, kit: Kit) -> Contender:
        """Import it and load its model."""
        module, _, name = self.make.partition(":")
        settings = {"model": self.model} if self.model else {}
        own = dataclasses.replace(kit, threads=self.threads or kit.threads)
        made: Contender = getattr(import_module(f"tools.bench.contenders.{module}"), name)(own, **settings)
        return made


def _litert(title: str, make: str, model: str = "", decodes: bool = False) -> Peer:
    requirements = (*_LITERT, "pydantic>=2.5", "PyYAML>=6.0")
    return Peer(title, "litert", requirements, ("ai-edge-litert",), make, model, decodes)


def _supervision(title: str, make: str, decodes: bool = False) -> Peer:
    packages = ("supervision", "ai-edge-litert")
    return Peer(title, "supervision", (*_LITERT, "supervision"), packages, make, decodes=decodes)


def _ultralytics(title: str, make: str, decodes: bool = False) -> Peer:
    requirements = (*_LITERT, "ultralytics", TORCH)
    packages = ("ultralytics", "torch", "ai-edge-litert")
    return Peer(title, "ultralytics", requirements, packages, make, decodes=decodes, environment=_QUIET)


def _mediapipe(title: str, model: str) -> Peer:
    return Peer(title, "mediapipe", ("mediapipe",), ("mediapipe",), "mediapipe_tasks:MediaPipe", model)


def _onnx(title: str, model: str) -> Peer:
    requirements = ("onnxruntime", "onnx", "sympy")
    return Peer(
        title, "onnxruntime", requirements, ("onnxruntime",), "onnxruntime_cpu:OnnxRuntime", model, one_class=True
    )


def _opencv(title: str, model: str) -> Peer:
    packages = ("opencv-python-headless",)
    return Peer(title, "litert", _litert("", "").requirements, packages, "opencv_dnn:OpenCv", model, one_class=True)


REFERENCE, REFERENCE_DECODER = "ours", "ours-decoder"

PEERS: dict[str, Peer] = {
    REFERENCE: _litert("edge_detector", "ours:Ours"),
    "example-loop": _litert("example loop in NumPy", "example_loop:ExampleLoop"),
    "op-regular": _litert("PostProcess op, NMS per class", "postprocess_op:PostprocessOp", "op-regular.tflite"),
    "op-fast": _litert("PostProcess op, fast NMS", "postprocess_op:PostprocessOp", "op-fast.tflite"),
    "supervision": _supervision("supervision", "supervision_litert:SupervisionLiteRT"),
    "ultralytics": _ultralytics("ultralytics' functions", "ultralytics_litert:UltralyticsLiteRT"),
    "mediapipe": _mediapipe("MediaPipe Tasks, uint8 input", "mediapipe-uint8.tflite"),
    # MediaPipe runs its network on one thread, and its Python users cannot change that: this is its like.
    "ours-one-thread": dataclasses.replace(_litert("edge_detector, 1 thread", "ours:Ours"), threads=1),
    "mediapipe-int8": _mediapipe("MediaPipe Tasks, int8 input", "mediapipe-int8.tflite"),
    "onnxruntime-int8": _onnx("ONNX Runtime, int8", "int8.onnx"),
    "onnxruntime-float32": _onnx("ONNX Runtime, float32", "float32.onnx"),
    "opencv-int8": _opencv("OpenCV DNN, int8", "int8.onnx"),
    "opencv-float32": _opencv("OpenCV DNN, float32", "float32.onnx"),
    REFERENCE_DECODER: _litert("edge_detector's decoder", "ours:OursDecoder", decodes=True),
    "example-decoding": _litert("example in NumPy", "example_loop:ExampleDecoding", decodes=True),
    "op-regular-alone": _litert(
        "PostProcess op, NMS per class", "postprocess_op:OpAlone", "op-regular-alone.tflite", decodes=True
    ),
    "op-fast-alone": _litert(
        "PostProcess op, fast NMS", "postprocess_op:OpAlone", "op-fast-alone.tflite", decodes=True
    ),
    "supervision-decoding": _supervision("NumPy, supervision's NMS", "supervision_litert:SupervisionDecoding", True),
    "ultralytics-nms": _ultralytics("NumPy, ultralytics' NMS", "ultralytics_litert:UltralyticsDecoding", True),
}
