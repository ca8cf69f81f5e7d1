"""Models on an Edge TPU, or with any other external TFLite delegate, in a child process: see `worker`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import mmap
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_detector.backends import DeviceHealth, check_input
from edge_detector.backends.tflite import choose_runtime, default_threads, import_interpreter, input_shape_of, params_of
from edge_detector.errors import ConfigError, DelegateError, ModelError
from edge_detector.model_file import read_model_file
from edge_detector.quantization import QuantizedTensor, RawOutputs
from edge_detector.tflite_schema import read_tflite

logger = logging.getLogger(__name__)

LIBRARY = "libedgetpu.so.1"
_DEVICE = re.compile(r"cpu|auto|edgetpu(:(usb|pci)(:\d+)?)?")
_TICK_S = 0.1  # how often a wait looks whether it is still wanted
_END_S = 0.2  # for a healthy process to release its device
_KILL_S = 0.2  # for a killed one to be gone
_ADVICE = {  # stage of the worker -> what to do when it goes wrong there
    "start": "see that `{python} -m edge_detector.backends.worker` can be run, and that memory is left",
    "load the library": "install {library}, built for {runtime}",
    "open the device": "plug it in, see that `lsusb` or `ls /dev/apex_*` lists it and that this user is in the group "
    "plugdev (USB) or apex (PCIe), and install a {library} that is built for {runtime}",
    "load the model": "compile it for this device (edgetpu_compiler), and install a {library} built for {runtime}",
    "run the model": "unplug the device and plug it in again, at a port or hub with enough power; see that {library} "
    "is built for {runtime}",
}

_left_behind: list[subprocess.Popen[bytes]] = []
_left_behind_lock = threading.Lock()


class Interrupted(DelegateError):  # noqa: N818 - named as one reads it
    """The wait for an accelerator was given up because the program stops; nothing is wrong with it."""


def split_device(word: str) -> tuple[str, str]:
    """Return the two halves of the config's word for a device: "edgetpu:usb:0" is ("edgetpu", "usb:0").

    Raises:
        ConfigError: it is no such word.
    """
    if not _DEVICE.fullmatch(word):
        raise ConfigError(
            f"device {word!r} is unknown; choose cpu, edgetpu, edgetpu:usb, edgetpu:usb:0, edgetpu:pci:0 or auto"
        )
    kind, _, device = word.partition(":")
    return kind, device


def count_left_behind() -> int:
    """Return how many child processes could not be killed so far and still exist, stuck in a driver."""
    with _left_behind_lock:
        _left_behind[:] = [process for process in _left_behind if process.poll() is None]
        return len(_left_behind)


class EdgeTpuBackend:
    """A .tflite model on an accelerator; see `Backend`. After a `DelegateError` it is spent: open another.

    `device` is libedgetpu's word: "" for any, "usb", "usb:0", "pci", "pci:0". All waits end early once `stopped` is
    true, or when another thread calls `close`.

    Raises:
        DelegateError: the accelerator or its library is missing, or has refused, failed, crashed or hung.
        Interrupted: `stopped` became true.
        ModelError: the model cannot be read, or its input is no single RGB picture of fixed size.
        ConfigError: `num_threads` or `runtime` is out of range.
    """

    def __init__(
        self,
        model: Path,
        device: str = "",
        *,
        library: str = LIBRARY,
        num_threads: int | None = None,
        runtime: str = "auto",
        start_timeout_s: float = 30.0,
        invoke_timeout_s: float = 5.0,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        threads = default_threads() if num_threads is None else num_threads
        if threads < 1:
            raise ConfigError(f"num_threads must be 1 or more, got {threads}")
        chosen = choose_runtime(runtime)
        import_interpreter(chosen)  # says better than the child what is wrong with it
        read_tflite(read_model_file(model), model.name)
        title = f"{chosen.title} {importlib.metadata.version(chosen.package)}"
        self.name = f"{title}, {f'Edge TPU {device}'.strip()}"
        self._device = f"edgetpu:{device}".rstrip(":")
        self._since = time.monotonic()
        self._invoke_timeout_s = invoke_timeout_s
        self._busy = threading.Lock()
        self._closed = False
        self._failure: str | None = None
        job = {"model": str(model.resolve()), "module": chosen.module, "threads": threads}
        job |= {"library": library, "options": {"device": device} if device else {}}
        self._child = _Child(job, title, lambda: self._closed or stopped())
        try:
            ready = self._child.receive(start_timeout_s)
            inputs, outputs = _details(ready["inputs"]), _details(ready["outputs"])
            self.input_shape = input_shape_of(inputs, model.name)
            self.input_params = params_of(inputs[0], model.name)
            self._outputs = [(item["name"], params_of(item, model.name)) for item in outputs]
            self._tensors = self._child.map_tensors([inputs[0], *outputs], ready["size"])
        except BaseException:
            self._child.end()
            raise

    @property
    def health(self) -> DeviceHealth:
        """The device that runs it; safe to read from any thread."""
        error, left_behind = self._failure, count_left_behind()
        return DeviceHealth(self._device, self._device, "ok", self._since, int(error is not None), error, left_behind)

    def infer(self, tensor: npt.NDArray[Any]) -> RawOutputs:
        """Run the model on `tensor`, shape `input_shape`, in the model's own dtype.

        Raises:
            DelegateError: the accelerator has failed, crashed or hung, now or in an earlier call.
            Interrupted: `stopped` became true, or another thread has called `close`.
            ModelError: `tensor` has another shape or dtype, or the backend is closed.
        """
        with self._busy:
            if self._closed:
                raise ModelError("the model is closed; open it again")
            check_input(tensor, self.input_shape, self.input_params)
            if self._failure is not None:
                raise DelegateError(self._failure)
            self._tensors[0][...] = tensor
            try:
                self._child.ask()
                self._child.receive(self._invoke_timeout_s)
            except DelegateError as error:
                self._failure = str(error)
                self._child.end()
                self._tensors = []  # also while somebody keeps the error, and with it this frame
                raise
            return {
                name: QuantizedTensor(values.copy(), params)
                for (name, params), values in zip(self._outputs, self._tensors[1:], strict=True)
            }

    def close(self) -> None:
        """End the process, within half a second; safe to call twice and from any thread."""
        self._closed = True  # an inference in another thread gives up and ends the process itself
        if self._busy.acquire(timeout=_TICK_S + _KILL_S):
            self._child.end(_END_S)
            self._tensors = []
            self._busy.release()


class _Child:
    """The worker process; used by one thread at a time."""

    def __init__(self, job: Mapping[str, Any], runtime: str, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._words = {"library": Path(job["library"]).name, "runtime": runtime, "python": sys.executable}
        self._stage = "start"
        self._last_lines: deque[str] = deque(maxlen=3)
        self._partial_line = b""
        self._ended = False
        with contextlib.ExitStack() as resources:
            try:
                self._memory = os.memfd_create("edge-detector-tensors")
                resources.callback(os.close, self._memory)
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._socket = resources.enter_context(ours)
                with theirs:
                    job = {**job, "socket": theirs.fileno(), "memory": self._memory}
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "edge_detector.backends.worker", json.dumps(job)],
                        stdin=subprocess.PIPE,  # never written to: it ends with this process, and the child with it
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        pass_fds=(theirs.fileno(), self._memory),
                        start_new_session=True,
                    )
            except OSError as error:
                raise self._error(f"cannot be started ({error.strerror})") from error
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    resources.enter_context(pipe)
                    os.set_blocking(pipe.fileno(), False)
                    self._output = pipe.fileno()
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            self._poll.register(self._output, select.POLLIN)
            self._resources = resources.pop_all()

    def map_tensors(self, details: list[Mapping[str, Any]], size: int) -> list[npt.NDArray[Any]]:
        """Return views of the shared memory, `size` bytes, which live as long as they are used."""
        memory = mmap.mmap(self._memory, size)
        return [np.ndarray(item["shape"], item["dtype"], memory, item["offset"]) for item in details]

    def ask(self) -> None:
        """Start one inference; what is wrong with the process is told by `receive`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.send(b"1")

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            DelegateError: the process has reported an error, died, or does not answer.
            Interrupted: the wait is no longer wanted.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if self._stopped():
                raise Interrupted(f"{self._words['library']}: interrupted when it was to {self._stage}")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._error(f"has not answered for {timeout_s:g} s", "hang")
            ready = {fd for fd, _ in self._poll.poll(1000 * min(left_s, _TICK_S))}
            if self._output in ready:
                self._read_output()
            if self._socket.fileno() in ready:
                message = self._read_message()
                if "error" in message:
                    raise self._error(f"reports: {message['error']}")
                if "stage" not in message:
                    return message
                self._stage = message["stage"]

    def end(self, grace_s: float = 0.0) -> None:
        """End the process: politely if it does so within `grace_s`, else by SIGKILL; safe to call twice."""
        if self._ended:
            return
        self._ended = True
        self._socket.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._leave_behind_unless_dead()
        self._resources.close()

    def _leave_behind_unless_dead(self) -> None:
        try:
            self._process.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            with _left_behind_lock:
                _left_behind.append(self._process)
            logger.warning("process %d hangs in a driver and cannot be killed; it is left behind", self._process.pid)

    def _read_message(self) -> dict[str, Any]:
        try:
            packet = self._socket.recv(1 << 18)
        except ConnectionResetError:
            packet = b""
        if packet:
            message: dict[str, Any] = json.loads(packet)
            return message
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_S)
        self._read_output()
        status = self._process.returncode
        if status is not None and status < 0:
            names = {int(number): number.name for number in signal.Signals}
            raise self._error(f"was ended by {names.get(-status, f'signal {-status}')}", "crash")
        what = "has closed its socket" if status is None else f"ended with exit status {status}"
        raise self._error(what, "crash")

    def _read_output(self) -> None:
        """Pass on what the process and the library have written; the last lines may explain an error to come."""
        try:
            output = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return
        if not output:
            with contextlib.suppress(KeyError):  # unregistered before
                self._poll.unregister(self._output)
        *lines, self._partial_line = (self._partial_line + output).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").strip()
            logger.debug("%s: %s", self._words["library"], text)
            if text and not text.startswith("INFO:"):
                self._last_lines.append(text)

    def _error(self, what: str, cause: str = "error") -> DelegateError:
        lines = f" ({' | '.join(self._last_lines)})" if self._last_lines else ""
        advice = _ADVICE[self._stage].format_map(self._words)
        message = f"{self._words['library']}: the process that was to {self._stage} {what}{lines}; {advice}"
        return DelegateError(message, cause)


def _details(items: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """Return descriptions of tensors as the runtime itself gives them."""
    return [item | {key: np.array(item[key]) for key in ("shape", "shape_signature")} for item in items]
