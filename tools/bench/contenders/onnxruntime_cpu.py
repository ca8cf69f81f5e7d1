"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort

from tools.bench.contenders import Found, Laps
from tools.bench.contenders.onnx_common import blob_of, found_in
from tools.bench.kit import Kit


class OnnxRuntime:
    """The whole way; all graph optimizations are on by default."""

    def __init__(self, kit: Kit, model: str) -> None:
        self._kit = kit
        options = ort.SessionOptions()
        options.intra_op_num_threads = kit.threads
        self._session = ort.InferenceSession(kit.model(model), options, providers=["CPUExecutionProvider"])

    def detect(self, given: Any, laps: Laps) -> Found:
        """See Contender."""
        blob, scale, pad = blob_of(given, self._kit)
        laps("preprocess")
        scores, boxes = self._session.run(["scores", "boxes"], {"images": blob})
        laps("invoke")
        found = found_in(scores, boxes, self._kit, scale, pad, given.shape)
        laps("postprocess")
        return found
