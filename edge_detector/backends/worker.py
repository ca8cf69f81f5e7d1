"""The process in which an accelerator's library runs: `python -m edge_detector.backends.worker JOB`.

A mismatched or unplugged accelerator can crash or hang whatever process its library lives in, so it lives in this one.
JOB is JSON, see `EdgeTpuBackend`. The parent holds the other end of a SOCK_SEQPACKET socket, one JSON message a packet:

    {"stage": "..."}            what is done next, so that a death can be told in words
    {"inputs", "outputs", "size"}   ready: run once, tensors described, shared memory laid out
    {"error": "..."}            what was begun has failed; the process ends

then for each packet from the parent one inference from and into the shared memory, answered by {} or an error.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_ALIGNMENT = 64
_ERRORS = (OSError, ValueError, RuntimeError, AttributeError, ImportError)
_STDIN = 0


def main() -> None:
    """Run the job on the command line until the parent closes its socket."""
    _detach()
    job = json.loads(sys.argv[1])
    with socket.socket(fileno=job["socket"]) as parent:
        try:
            serve = _start(job, parent)
            while parent.recv(1):
                serve()
                parent.send(b"{}")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the parent has given up
        except _ERRORS as error:
            parent.send(json.dumps({"error": " ".join(str(error).split()) or type(error).__name__}).encode())
            # An accelerator that has failed may crash or hang in its destructors too.
            os._exit(1)


def _detach() -> None:
    """Live exactly as long as the parent: Ctrl-C and systemd signal the whole group, the parent ends this process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The parent never writes to our stdin. When it dies, the kernel closes it and kills us, hung in a library or not.
    # (PR_SET_PDEATHSIG would kill us as soon as the parent's thread that started us ends.)
    fcntl.fcntl(_STDIN, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(_STDIN, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(_STDIN, fcntl.F_SETFL, fcntl.fcntl(_STDIN, fcntl.F_GETFL) | os.O_ASYNC)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected, SD cards are small


def _start(job: Mapping[str, Any], parent: socket.socket) -> Callable[[], None]:
    """Load, run once and describe the model; return what runs it from and into the shared memory."""

    def stage(text: str) -> None:
        parent.send(json.dumps({"stage": text}).encode())

    runtime = importlib.import_module(job["module"])
    delegates = []
    if job["library"]:
        stage("load the library")
        ctypes.CDLL(job["library"])
        stage("open the device")
        delegates = [runtime.load_delegate(job["library"], job["options"])]
    stage("load the model")
    interpreter = runtime.Interpreter(
        model_path=job["model"], num_threads=job["threads"], experimental_delegates=delegates
    )
    interpreter.allocate_tensors()
    stage("run the model")
    inputs = interpreter.get_input_details()
    for item in inputs:
        interpreter.set_tensor(item["index"], np.zeros(item["shape"], item["dtype"]))
    interpreter.invoke()
    outputs = interpreter.get_output_details()  # only now all shapes are known
    offsets, size = _lay_out([inputs[0], *outputs])
    os.ftruncate(job["memory"], size)
    memory = mmap.mmap(job["memory"], size)
    tensor, *results = (
        np.ndarray(item["shape"], item["dtype"], memory, offset)
        for item, offset in zip([inputs[0], *outputs], offsets, strict=True)
    )

    def serve() -> None:
        interpreter.set_tensor(inputs[0]["index"], tensor)
        interpreter.invoke()
        for item, result in zip(outputs, results, strict=True):
            values = interpreter.get_tensor(item["index"])
            if values.shape != result.shape:
                raise RuntimeError(f"output {item['name']} was {result.shape} and now is {values.shape}")
            result[...] = values

    ready = {
        "inputs": [_describe(item, offsets[0]) for item in inputs],
        "outputs": [_describe(item, offset) for item, offset in zip(outputs, offsets[1:], strict=True)],
        "size": size,
    }
    parent.send(json.dumps(ready).encode())
    return serve


def _lay_out(details: list[Mapping[str, Any]]) -> tuple[list[int], int]:
    """Return the offset of each tensor in the shared memory, and its size in bytes."""
    offsets, end = [], 0
    for item in details:
        offsets.append(end)
        size = int(np.prod(item["shape"], dtype=np.int64)) * np.dtype(item["dtype"]).itemsize
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


def _describe(item: Mapping[str, Any], offset: int) -> dict[str, Any]:
    return {
        "name": item["name"],
        "shape": item["shape"].tolist(),
        "shape_signature": item["shape_signature"].tolist(),
        "dtype": np.dtype(item["dtype"]).name,
        "quantization": list(item["quantization"]),
        "offset": offset,
    }


if __name__ == "__main__":
    main()
