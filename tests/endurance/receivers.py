"""The other ends: an MQTT broker with a subscriber, an HTTP server, a socket and viewers, that count what arrives."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.endurance.deliveries import Deliveries

PREFIX = "edge_detector"


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """mosquitto, and a subscriber that comes back to it by itself."""

    def __init__(self, folder: Path, deliveries: Deliveries) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self._deliveries = deliveries
        self.start()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="watcher")
        self._client.on_connect = lambda client, *_: client.subscribe(f"{PREFIX}/#", 1)
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async("127.0.0.1", self.port, keepalive=30)
        self._client.loop_start()

    def start(self) -> None:
        self._process = subprocess.Popen(["mosquitto", "-c", str(self._config)], stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self.kill()

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if message.retain:  # from before
            return
        words = message.topic.split("/")
        if words[-1] == "detections":
            self._deliveries.note(f"MQTT, detections: {words[1]}")
        elif words[-1] == "events":
            self._deliveries.note("MQTT, events")
            document = json.loads(message.payload)
            if document["type"] == "end":
                self._deliveries.note_end("MQTT", document["object"]["id"])
        elif words[-1] == "snapshot" and message.payload:
            self._deliveries.note("MQTT, snapshots")


class WebhookServer:
    """A server that takes posts, or fails as `mode` says: "ok", "error", "hang"."""

    def __init__(self, deliveries: Deliveries) -> None:
        self.mode = "ok"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 30

            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                started_s = time.monotonic()
                while outer.mode == "hang" and time.monotonic() - started_s < 30:
                    time.sleep(0.1)
                answer = 503 if outer.mode == "error" else 200
                with suppress(OSError):  # it did not wait
                    self.send_response(answer)
                    self.end_headers()
                    if answer == 200:
                        deliveries.note("webhook")
                        if document["type"] == "end":
                            deliveries.note_end("webhook", document["object"]["id"])

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.mode = "ok"
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class UdpReceiver:
    """Takes datagrams of JSON."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.5)
        self.port = self._socket.getsockname()[1]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                datagram = self._socket.recv(65536)
            except TimeoutError:
                continue
            try:
                self._deliveries.note(f"UDP: {json.loads(datagram)['camera']}")
            except (ValueError, KeyError):
                self._deliveries.defect(f"a datagram is no result: {datagram[:80]!r}")


class Viewers:
    """For each camera one of /stream.mjpg, one of /ws with pictures, and a probe of /readyz: on a thread of its own."""

    def __init__(self, url: str, cameras: list[str], deliveries: Deliveries) -> None:
        self._url, self._cameras, self._deliveries = url, cameras, deliveries
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=10)) as session:
            works = [self._again(self._probe, session, "")]
            for camera in self._cameras:
                works += [self._again(self._watch, session, camera), self._again(self._listen, session, camera)]
            tasks = [asyncio.create_task(work) for work in works]
            while not self._over.is_set():
                await asyncio.sleep(0.2)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _again(self, work: Any, session: aiohttp.ClientSession, camera: str) -> None:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
                await work(session, camera)
            await asyncio.sleep(1)

    async def _watch(self, session: aiohttp.ClientSession, camera: str) -> None:
        async with session.get(f"{self._url}stream.mjpg?camera={camera}&fps=5") as answer:
            answer.raise_for_status()
            tail = b""
            async for part in answer.content.iter_any():
                seen = tail + part
                count = seen.count(b"--edge-detector-frame")
                tail = seen[-20:]  # a byte shorter than what is counted
                if count:
                    self._deliveries.note(f"MJPEG: {camera}", count)

    async def _listen(self, session: aiohttp.ClientSession, camera: str) -> None:
        address = f"{self._url}ws?camera={camera}&pictures=true&fps=5"
        async with session.ws_connect(address, max_msg_size=0) as ws:
            async for message in ws:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self._deliveries.note(f"WebSocket: {camera}")
                    if not message.data.endswith(b"\xff\xd9"):
                        self._deliveries.defect("a picture of the WebSocket is cut")

    async def _probe(self, session: aiohttp.ClientSession, camera: str) -> None:
        async with session.get(f"{self._url}readyz", timeout=aiohttp.ClientTimeout(total=10)) as answer:
            if answer.status == 200:
                self._deliveries.note("/readyz")


def dawdle(url: str, path: str, stop: threading.Event, bytes_per_s: int = 5000) -> None:
    """Take a stream so slowly, until told to stop, and then vanish without a word."""
    port = int(url.rstrip("/").rpartition(":")[2])
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # reset instead of goodbye
        slow.settimeout(10)
        with suppress(OSError):
            slow.connect(("127.0.0.1", port))
            upgrade = (
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                if path.startswith("/ws")
                else ""
            )
            slow.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n".encode())
            while not stop.wait(0.2):
                if not slow.recv(bytes_per_s // 5):
                    return
