"""A model on an accelerator that may come and go, and its twin on the CPU that takes over meanwhile."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edge_detector.backends import Backend, DeviceHealth, DeviceOptions, open_backend
from edge_detector.backends.edgetpu import EdgeTpuBackend, Interrupted, count_left_behind, split_device
from edge_detector.errors import DelegateError, EdgeDetectorError, ModelError
from edge_detector.model_file import read_model_file
from edge_detector.quantization import QuantizationParams, RawOutputs
from edge_detector.tflite_schema import TensorInfo, read_tflite

logger = logging.getLogger(__name__)

_COMPILED_OP = b"edgetpu-custom-op"  # what edgetpu_compiler puts in place of the operators that it has compiled
_JITTER = 0.25  # of a pause, so that several devices on one hub are not tried at once
_CLOSE_S = 0.3


class FailoverBackend:
    """Runs a model on the primary and, while that is away, on its twin; see `Backend`.

    A frame at which the primary fails is answered by the twin. The primary is then tried again in the background, after
    pauses from `retry_s` that double up to `retry_max_s`, and used again from the next inference on once it is there.
    The pauses start anew after it has worked for `healthy_s`. With `fallback` false its error is raised instead.

    `open_primary` gets a function that is true once the program stops and waiting for the primary is pointless.

    Raises:
        DelegateError: the primary cannot be opened, and `fallback` is false.
        Interrupted: `stopped` became true while the primary was opened.
        ModelError, ConfigError: primary or twin cannot be used whatever the device does.
    """

    def __init__(
        self,
        open_primary: Callable[[Callable[[], bool]], Backend],
        open_twin: Callable[[], Backend],
        *,
        wanted: str = "edgetpu",
        retry_s: float = 5.0,
        retry_max_s: float = 300.0,
        healthy_s: float = 60.0,
        fallback: bool = True,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._open_primary, self._open_twin, self._stopped = open_primary, open_twin, stopped
        self._retry_s, self._retry_max_s, self._healthy_s = retry_s, retry_max_s, healthy_s
        self._fallback = fallback
        self._closing = threading.Event()
        self._busy = threading.Lock()  # held during an inference
        self._state = threading.Lock()  # guards _health and _arrived
        self._health = DeviceHealth(wanted=wanted, running=wanted, since=time.monotonic())
        self._outputs: dict[str, _Spec] = {}  # as the first inference gave them
        self._primary: Backend | None = None
        self._arrived: Backend | None = None  # the primary, opened in the background, not used yet
        self._twin: Backend | None = None
        self._primary_since = time.monotonic()
        self._attempts = 0
        self._thread: threading.Thread | None = None
        try:
            first = self._primary = self._open_primary(self._stops)
        except DelegateError as error:
            if not fallback or isinstance(error, Interrupted):
                raise
            first = self._twin = open_twin()
            self._lose_primary(error)
        self.name, self.input_shape, self.input_params = first.name, first.input_shape, first.input_params

    @property
    def health(self) -> DeviceHealth:
        """The device that runs it; safe to read from any thread."""
        return replace(self._health, left_behind=count_left_behind())

    def infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        """Run the model on `tensor`, shape `input_shape`, in the model's own dtype.

        Raises:
            ModelError: `tensor` has another shape or dtype, the model failed, primary and twin differ, or the backend
                is closed.
            DelegateError: the primary has failed, and there is no fallback.
            Interrupted: the program stops.
        """
        with self._busy:
            try:
                return self._infer(tensor)
            finally:
                if self._closing.is_set():
                    self._release()

    def close(self) -> None:
        """Release everything, within half a second; safe to call twice and from any thread.

        An inference of the twin that is under way in another thread releases what it uses at its end.
        """
        self._closing.set()
        primary, thread = self._primary, self._thread
        if primary is not None:
            primary.close()
        if thread is not None:
            thread.join(_CLOSE_S)
        if self._busy.acquire(timeout=_CLOSE_S):
            try:
                self._release()
            finally:
                self._busy.release()

    def _infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        if self._closing.is_set():
            raise ModelError("the model is closed; open it again")
        self._return_to_primary()
        if self._primary is not None:
            try:
                return self._checked(self._primary.infer(tensor))
            except Interrupted:
                raise
            except DelegateError as error:
                if not self._fallback:
                    self._change(error=str(error), **self._failed(error))
                    raise
                self._primary.close()
                self._primary = None
                self._lose_primary(error)
        if self._thread is None:
            self._retry_in_background(self._retry_s)
        if self._twin is None:
            self._twin = self._open_twin()
            self._check_input(self._twin)
        self.name = self._twin.name
        return self._checked(self._twin.infer(tensor))

    def _lose_primary(self, error: DelegateError) -> None:
        now_s = time.monotonic()
        if now_s - self._primary_since >= self._healthy_s:
            self._attempts = 0
        wanted, pause_s = self._health.wanted, self._next_pause_s()
        self._change(running="cpu", state="fallback", since=now_s, error=str(error), **self._failed(error))
        logger.warning("%s; the CPU takes over, and %s is tried again from time to time", error, wanted)
        self._retry_in_background(pause_s)

    def _retry_in_background(self, pause_s: float) -> None:
        """Begin to bring the primary back; without room for a thread, the next inference begins it."""
        self._thread = None
        thread = threading.Thread(target=self._bring_back, args=(pause_s,), name="device-retry", daemon=True)
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _bring_back(self, pause_s: float) -> None:
        """Open the primary, again and again; runs in its own thread."""
        while not self._closing.wait(pause_s):
            self._change(state="retrying", since=time.monotonic())
            try:
                primary = self._open_primary(self._stops)
            except Interrupted:
                return
            except EdgeDetectorError as error:
                pause_s = self._next_pause_s()
                logger.debug("%s; next try in %.1f s", error, pause_s)
                self._change(state="fallback", since=time.monotonic(), error=str(error), **self._failed(error))
                continue
            with self._state:
                self._arrived = primary
            if self._closing.is_set():
                primary.close()
            return

    def _return_to_primary(self) -> None:
        with self._state:
            primary, self._arrived = self._arrived, None
        if primary is None:
            return
        try:
            self._check_input(primary)
        except ModelError:
            primary.close()
            raise
        self._primary, self.name, self._primary_since = primary, primary.name, time.monotonic()
        self._change(running=self._health.wanted, state="ok", since=self._primary_since, error=None)
        logger.info("%s is back: %s", self._health.wanted, primary.name)

    def _next_pause_s(self) -> float:
        pause_s = min(self._retry_max_s, self._retry_s * 2.0**self._attempts)
        self._attempts = min(self._attempts + 1, 30)
        return pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)

    def _check_input(self, backend: Backend) -> None:
        wanted = _Spec(self.input_shape, _dtype(self.input_params), self.input_params)
        found = _Spec(backend.input_shape, _dtype(backend.input_params), backend.input_params)
        _check_same({"input": wanted}, {"input": found})

    def _checked(self, outputs: RawOutputs) -> RawOutputs:
        found = {name: _Spec(out.values.shape, out.values.dtype.name, out.params) for name, out in outputs.items()}
        if self._outputs != found:
            _check_same(self._outputs or found, found)
            self._outputs = found
        return outputs

    def _stops(self) -> bool:
        return self._closing.is_set() or self._stopped()

    def _failed(self, error: EdgeDetectorError) -> dict[str, Any]:
        """Return the counters with one more failure."""
        cause, causes = getattr(error, "cause", "error"), self._health.causes
        return {"failures": self._health.failures + 1, "causes": {**causes, cause: causes.get(cause, 0) + 1}}

    def _change(self, **changes: Any) -> None:
        with self._state:
            self._health = replace(self._health, **changes)

    def _release(self) -> None:
        with self._state:
            backends = (self._primary, self._arrived, self._twin)
        for backend in backends:
            if backend is not None:
                backend.close()


@dataclass(frozen=True, slots=True)
class _Spec:
    """A tensor; `shape` is () where it is not known."""

    shape: tuple[int, ...]
    dtype: str
    params: QuantizationParams | None

    def __str__(self) -> str:
        scale = f", scale {self.params.scale:g}, zero point {self.params.zero_point}" if self.params else ""
        return f"{self.dtype} {list(self.shape)}{scale}"

    def agrees(self, other: _Spec) -> bool:
        same_shape = self.shape == other.shape or () in (self.shape, other.shape)
        return same_shape and (self.dtype, self.params) == (other.dtype, other.params)


def open_device(
    cpu_model: Path,
    options: DeviceOptions,
    num_threads: int | None = None,
    runtime: str = "auto",
    stop: threading.Event | None = None,
) -> Backend:
    """Load a model on the device that the options name.

    An Edge TPU runs `edgetpu_model`, or `<name>_edgetpu.tflite` beside `cpu_model`; "auto" uses one if there is such a
    file. Waits for the device end early once `stop` is set.

    Raises:
        ConfigError: the device, `num_threads` or `runtime` is out of range.
        ModelError: a file cannot be used, or the two are not the same model.
        DelegateError: the runtime does not work, or the Edge TPU does not and there is no fallback.
    """
    kind, unit = split_device(options.device)
    compiled = options.edgetpu_model or cpu_model.with_name(f"{cpu_model.stem}_edgetpu.tflite")
    if kind == "cpu" or (kind == "auto" and options.edgetpu_model is None and not compiled.is_file()):
        return open_backend(cpu_model, num_threads, runtime)
    check_twins(cpu_model, compiled)
    return FailoverBackend(
        lambda stopped: EdgeTpuBackend(
            compiled,
            unit,
            library=options.library,
            num_threads=num_threads,
            runtime=runtime,
            invoke_timeout_s=options.invoke_timeout_s,
            stopped=stopped,
        ),
        lambda: open_backend(cpu_model, num_threads, runtime),
        wanted="edgetpu" if kind == "auto" else options.device,
        fallback=options.fallback or kind == "auto",
        stopped=stop.is_set if stop is not None else lambda: False,
    )


def check_twins(cpu_model: Path, compiled: Path) -> None:
    """Check before anything runs that the two files hold the same model, for the CPU and compiled.

    Raises:
        ModelError: they do not, or one cannot be read.
    """
    if not compiled.is_file():
        raise ModelError(
            f"{compiled}: no such file; compile {cpu_model.name} with edgetpu_compiler and put the result there, or "
            "choose the device cpu"
        )
    content = read_model_file(compiled)
    if _COMPILED_OP not in content:
        raise ModelError(f"{compiled}: is not compiled for an Edge TPU; give what edgetpu_compiler made of {cpu_model}")
    twin = read_tflite(read_model_file(cpu_model), cpu_model.name)
    model = read_tflite(content, compiled.name)
    _check_same(
        {f"input {i}": _spec(tensor) for i, tensor in enumerate(twin.inputs)}
        | {tensor.name: _spec(tensor) for tensor in twin.outputs},
        {f"input {i}": _spec(tensor) for i, tensor in enumerate(model.inputs)}
        | {tensor.name: _spec(tensor) for tensor in model.outputs},
    )


def _spec(tensor: TensorInfo) -> _Spec:
    return _Spec(tensor.shape, tensor.dtype, tensor.params)


def _dtype(params: QuantizationParams | None) -> str:
    return "float32" if params is None else params.dtype.name


def _check_same(wanted: Mapping[str, _Spec], found: Mapping[str, _Spec]) -> None:
    for name in [*wanted, *found]:
        ours, theirs = wanted.get(name), found.get(name)
        if ours is None or theirs is None or not ours.agrees(theirs):
            raise ModelError(
                f"the CPU's and the accelerator's model differ: {name} is {ours or 'absent'} in one and "
                f"{theirs or 'absent'} in the other; compile the one from the other"
            )
