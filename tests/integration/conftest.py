"""The service for tests; an RTSP camera, and a network between it and us that can be cut."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.services import Service, Told

SYSTEM_PYTHON = "/usr/bin/python3"
_PROBE = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    "Gst.init(None); assert Gst.ElementFactory.find('x264enc') and Gst.ElementFactory.find('rtph264pay')"
)


@pytest.fixture(scope="session")
def rtsp_available() -> None:
    """Skip where there is no RTSP server on this machine."""
    try:
        probe = subprocess.run([SYSTEM_PYTHON, "-c", _PROBE], capture_output=True, timeout=60)
    except OSError as error:
        pytest.skip(f"needs {SYSTEM_PYTHON}: {error}")
    if probe.returncode:
        pytest.skip("needs GStreamer's RTSP server with x264: apt install python3-gi gir1.2-gst-rtsp-server-1.0 ...")


@pytest.fixture
def rtsp_server(rtsp_available: None) -> Iterator[RtspServer]:
    """A running server."""
    server = RtspServer()
    yield server
    server.stop()


@pytest.fixture
def relay_to() -> Iterator[Callable[[int], Relay]]:
    """Return a function that lays a cable to a port."""
    relays: list[Relay] = []

    def lay(port: int) -> Relay:
        relays.append(Relay(port))
        return relays[-1]

    yield lay
    for relay in relays:
        relay.close()


class RtspServer:
    """The server in a process of its own; the port stays the same over restarts."""

    def __init__(self, pictures: Path | None = None) -> None:
        self._arguments = [] if pictures is None else [str(pictures)]
        self.port = 0
        self.start()

    def start(self) -> None:
        script = Path(__file__).with_name("rtsp_server.py")
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, str(script), str(self.port), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def resize(self, width: int, height: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"size {width} {height}\n")
        self._process.stdin.flush()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Relay:
    """A network of one cable.

    While `dropping`, all that is sent over it is lost, both ways, and connections stay open; setting `cut` ends all
    connections, once. `mangle`, if set, gets what is sent and returns what arrives.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.dropping = False
        self.cut = False
        self.mangle: Callable[[bytes], bytes] | None = None
        self._over = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._over = True
        self._thread.join()
        for end in (*self._pairs, self._listener):
            end.close()

    def _run(self) -> None:
        while not self._over:
            if self.cut:
                for end in self._pairs:
                    end.close()
                self._pairs.clear()
                self.cut = False
            readable, _, _ = select.select([self._listener, *self._pairs], [], [], 0.05)
            for end in readable:
                if end is self._listener:
                    self._connect()
                elif end in self._pairs:
                    self._forward(end)

    def _connect(self) -> None:
        ours, _ = self._listener.accept()
        if self.dropping:
            self._pairs[ours] = ours  # answered by nobody
            return
        try:
            theirs = socket.create_connection(("127.0.0.1", self._target), timeout=2)
        except OSError:
            ours.close()
            return
        self._pairs |= {ours: theirs, theirs: ours}

    def _forward(self, end: socket.socket) -> None:
        other = self._pairs[end]
        try:
            content = end.recv(65536)
            if content and (self.dropping or other is end):
                return
            if content:
                mangle = self.mangle
                other.sendall(content if mangle is None else mangle(content))
                return
        except OSError:
            pass
        for gone in {end, other}:
            self._pairs.pop(gone, None)
            gone.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def run(settings: dict[str, Any], *arguments: str, **environment: str) -> Service:
        services.append(Service(tmp_path, settings, *arguments, **environment))
        return services[-1]

    yield run
    for service in services:
        service.kill()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    with closing(Told(tmp_path / "notify")) as listening:
        yield listening
