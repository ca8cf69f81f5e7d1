"""A TFLite runtime in a process of its own: tflite-runtime fails in one that has loaded TensorFlow."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edge_detector.backends import DeviceHealth
from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import EdgeDetectorError, ModelError
from edge_detector.quantization import QuantizationParams, RawOutputs


class IsolatedBackend:
    """`TfliteBackend` behind a pipe; see `Backend`.

    Attributes:
        seconds: that each inference took, without the way through the pipe.
    """

    name: str
    input_shape: tuple[int, int, int, int]
    input_params: QuantizationParams | None
    health = DeviceHealth()

    def __init__(self, model: Path | bytes, runtime: str, num_threads: int | None = None) -> None:
        """Start the process and load the model in it.

        Raises:
            ModelError, DelegateError, ConfigError: as `TfliteBackend`.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, model, runtime, num_threads), daemon=True)
        self._process.start()
        theirs.close()
        self.seconds: list[float] = []
        self.name, self.input_shape, self.input_params = self._receive()

    def infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        """Run the model; see `Backend.infer`."""
        with contextlib.suppress(BrokenPipeError):  # it has ended; receiving tells why
            self._connection.send(tensor)
        outputs, seconds = self._receive()
        self.seconds.append(seconds)
        return outputs

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            raise ModelError(
                f"the runtime's process ended with code {code}: out of memory, or the model is malformed"
            ) from None
        if isinstance(answer, EdgeDetectorError):
            self.close()
            raise answer
        return answer


def _serve(connection: Connection, model: Path | bytes, runtime: str, num_threads: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    try:
        backend = TfliteBackend(model, num_threads, runtime)
        connection.send((backend.name, backend.input_shape, backend.input_params))
        while True:
            tensor = connection.recv()
            started_s = time.perf_counter()
            outputs = backend.infer(tensor)
            connection.send((outputs, time.perf_counter() - started_s))
    except EdgeDetectorError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError):
        pass
