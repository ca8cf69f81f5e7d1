"""The service in a process of its own, and systemd as far as it can be heard."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "tests" / "fixtures" / "detection_op.tflite"
ENDS_WITHIN_S = 2.0


class Service:
    """The command in a process of its own, its log and its answers."""

    def __init__(self, folder: Path, settings: dict[str, Any], *arguments: str, **environment: str) -> None:
        self.config = folder / "settings.yaml"
        self.write(settings)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_detector", "run", "--config", str(self.config), *arguments],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def write(self, settings: dict[str, Any]) -> None:
        """Write the file of settings; a service that runs gets them with SIGHUP."""
        self.config.write_text(json.dumps({"model": {"path": str(MODEL)}, "http": "127.0.0.1:0"} | settings))

    def wait_for_line(self, text: str, limit_s: float = 30, after: int = 0) -> str:
        """Return the first line with this text, without looking at so many before."""
        found = self._wait(lambda: next((line for line in self.lines[after:] if text in line), None), limit_s, text)
        assert isinstance(found, str)
        return found

    def wait_for_status(self, condition: Callable[[dict[str, Any]], bool], limit_s: float = 30) -> dict[str, Any]:
        def met() -> dict[str, Any] | None:
            status = self.get("/api/status")["service"]
            return status if condition(status) else None

        found = self._wait(met, limit_s, "status")
        assert isinstance(found, dict)
        return found

    def wait_for_state(self, state: str, camera: str = "camera") -> dict[str, Any]:
        return self.wait_for_status(lambda status: status["cameras"][camera]["state"] == state)

    @property
    def url(self) -> str:
        match = re.search(r"http://127\.0\.0\.1:\d+", self.wait_for_line(" -> "))
        assert match is not None
        return match[0]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=5) as response:
            content = response.read()
            return json.loads(content) if "json" in response.headers["Content-Type"] else content.decode()

    def post(self, path: str, content: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(content).encode(), headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.loads(response.read())

    def end(self) -> int:
        """Send SIGTERM and return the exit code, which must come within two seconds."""
        start_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        took_s = time.monotonic() - start_s
        self._reader.join()
        assert took_s < ENDS_WITHIN_S, (took_s, self.lines)
        assert not [line for line in self.lines if "Traceback" in line or "Fatal" in line], self.lines
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def _wait(self, found: Callable[[], Any], limit_s: float, what: str) -> Any:
        start_s = time.monotonic()
        while time.monotonic() - start_s < limit_s:
            result = found()
            if result is not None:
                return result
            assert self.process.poll() is None, self.lines
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come: {self.lines}")


class Told:
    """Receives what services say to systemd."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000"}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def wait_for(self, text: str, limit_s: float = 30.0) -> str:
        """Return the next message with this text; those before it are gone."""
        deadline_s = time.monotonic() + limit_s
        while True:
            self._socket.settimeout(max(0.01, deadline_s - time.monotonic()))
            message = self._socket.recv(4096).decode()
            if text in message:
                return message

    def silent_for(self, text: str, seconds: float) -> bool:
        """Return whether no message with this text comes for so long from now on."""
        with suppress(BlockingIOError):
            self._socket.setblocking(False)
            while self._socket.recv(4096):
                pass
        try:
            self.wait_for(text, seconds)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


def synthetic(faults: str = "", **settings: Any) -> dict[str, Any]:
    source = f"synthetic://?width=64&height=48&fps=50&faults={faults}"
    return {"cameras": {"camera": {"source": source, "stall_s": 0.5, **settings}}}
