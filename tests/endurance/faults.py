"""What goes wrong around a service, for real; each fault takes its time and is over when it returns."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.endurance.disk import SmallDisk
from tests.endurance.receivers import Broker, WebhookServer, dawdle
from tests.endurance.service import Clock, MemoryLimit, Service, get
from tests.integration.conftest import Relay, RtspServer

Fault = Callable[[random.Random], str]
RELOAD_S = 15.0


@dataclass
class World:
    """What faults break."""

    service: Service
    url: str
    server: RtspServer
    relay: Relay
    broker: Broker
    webhook: WebhookServer
    disk: SmallDisk
    clock: Clock
    limit: MemoryLimit


class Faults:
    """The faults by name, each of which returns what it did; `left_out` says why others are missing.

    A duration is what a fault lasts, seconds, before `scale`.
    """

    def __init__(self, world: World, scale: float = 1.0) -> None:
        self._world = world
        self._scale = scale
        self.left_out: dict[str, str] = {}
        self.all: dict[str, Fault] = {
            "camera stands still": self.camera_stands_still,
            "camera restarted": self.camera_restarted,
            "camera's connections cut": self.connections_cut,
            "camera's packets dropped": self.packets_dropped,
            "camera's frames corrupted": self.frames_corrupted,
            "camera's resolution changed": self.resolution_changed,
            "broker killed": self.broker_killed,
            "webhook answers 503": lambda chance: self.webhook_fails(chance, "error"),
            "webhook hangs": lambda chance: self.webhook_fails(chance, "hang"),
            "slow viewers": self.slow_viewers,
            "service stopped (SIGSTOP)": self.service_stopped,
            "processor taken": self.processor_taken,
            "SIGHUP": self.reload,
        }
        self._add("disk full", self.disk_full, world.disk.kind != "", "a small disk needs root")
        self._add("clock set by a day", self.clock_set, bool(world.clock.environment), "needs gcc")
        squeezable = world.limit.folder is not None
        self._add("memory squeezed", self.memory_squeezed, squeezable, "needs root and cgroups of version 1")

    def service_code(self) -> int | None:
        """Return the exit code of the service if it has ended."""
        return self._world.service.process.poll()

    def _add(self, name: str, fault: Fault, possible: bool, otherwise: str) -> None:
        if possible:
            self.all[name] = fault
        else:
            self.left_out[name] = otherwise

    def _sleep(self, chance: random.Random, least_s: float, most_s: float) -> str:
        lasts_s = chance.uniform(least_s, most_s) * self._scale
        time.sleep(lasts_s)
        return f"{lasts_s:.1f} s"

    def camera_stands_still(self, chance: random.Random) -> str:
        self._world.server.pause()
        try:
            return self._sleep(chance, 2, 12)
        finally:
            self._world.server.resume()

    def camera_restarted(self, chance: random.Random) -> str:
        self._world.server.stop()
        try:
            return self._sleep(chance, 0, 8)
        finally:
            self._world.server.start()

    def connections_cut(self, chance: random.Random) -> str:
        self._world.relay.cut = True
        return ""

    def packets_dropped(self, chance: random.Random) -> str:
        self._world.relay.dropping = True
        try:
            return self._sleep(chance, 2, 12)
        finally:
            self._world.relay.dropping = False

    def frames_corrupted(self, chance: random.Random) -> str:
        """One byte of a thousand becomes another; requests and heads of packets are let alone as far as can be."""
        noise = random.Random(chance.random())

        def mangle(content: bytes) -> bytes:
            if len(content) < 300:
                return content
            bad = bytearray(content)
            for _ in range(max(1, len(bad) // 1000)):
                bad[noise.randrange(100, len(bad))] = noise.randrange(256)
            return bytes(bad)

        self._world.relay.mangle = mangle
        try:
            return self._sleep(chance, 3, 10)
        finally:
            self._world.relay.mangle = None

    def resolution_changed(self, chance: random.Random) -> str:
        size_wh = chance.choice([(640, 480), (320, 240), (800, 600)])
        self._world.server.resize(*size_wh)
        return "{}x{}".format(*size_wh)

    def broker_killed(self, chance: random.Random) -> str:
        self._world.broker.kill()
        try:
            return self._sleep(chance, 0.5, 12)
        finally:
            self._world.broker.start()

    def webhook_fails(self, chance: random.Random, mode: str) -> str:
        self._world.webhook.mode = mode
        try:
            return self._sleep(chance, 2, 10)
        finally:
            self._world.webhook.mode = "ok"

    def slow_viewers(self, chance: random.Random) -> str:
        """Some that take 5 kB a second, others that come and vanish."""
        stop = threading.Event()
        paths = ("/stream.mjpg?camera=front", "/ws?camera=yard&pictures=true", "/stream.mjpg?camera=yard&width=320")
        dawdlers = [
            threading.Thread(target=dawdle, args=(self._world.url, chance.choice(paths), stop), daemon=True)
            for _ in range(chance.randint(3, 8))
        ]
        for dawdler in dawdlers:
            dawdler.start()
        took = self._sleep(chance, 3, 12)
        stop.set()
        for dawdler in dawdlers:
            dawdler.join(12)
        return f"{len(dawdlers)} viewers, {took}"

    def service_stopped(self, chance: random.Random) -> str:
        os.kill(self._world.service.pid, signal.SIGSTOP)
        try:
            return self._sleep(chance, 2, 20)
        finally:
            with suppress(ProcessLookupError):
                os.kill(self._world.service.pid, signal.SIGCONT)

    def processor_taken(self, chance: random.Random) -> str:
        count = os.cpu_count() or 1
        hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
        try:
            return self._sleep(chance, 3, 10)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()

    def reload(self, chance: random.Random) -> str:
        """Another threshold, and a sink more or less."""
        service = self._world.service
        threshold = chance.choice([0.3, 0.35, 0.4])
        service.wanted["model"]["score_threshold"] = threshold
        extra = service.log.with_name("extra.jsonl")
        if chance.random() < 0.5:
            service.wanted["sinks"] = {"extra": {"kind": "jsonl", "options": {"target": str(extra), "append": True}}}
        else:
            service.wanted["sinks"] = {}
        service.write_settings()
        size = extra.stat().st_size if extra.exists() else 0
        os.kill(service.pid, signal.SIGHUP)
        deadline_s = time.monotonic() + RELOAD_S
        shown: Any = None
        while time.monotonic() < deadline_s and service.process.poll() is None:
            time.sleep(0.5)
            grows = not service.wanted["sinks"] or (extra.exists() and extra.stat().st_size > size)
            with suppress(OSError):
                shown = get(self._world.url + "api/config")["model"]["score_threshold"]
            if grows and shown == threshold:
                return f"threshold {threshold}, {len(service.wanted['sinks'])} sinks more"
        raise RuntimeError(f"SIGHUP was not obeyed: threshold {shown} instead of {threshold}, or a sink writes nothing")

    def disk_full(self, chance: random.Random) -> str:
        until_s = time.monotonic() + chance.uniform(3, 12) * self._scale
        try:
            while time.monotonic() < until_s:  # the service makes room by deleting what is old
                self._world.disk.fill()
                time.sleep(0.1)
        finally:
            self._world.disk.free()
        return ""

    def clock_set(self, chance: random.Random) -> str:
        days = chance.choice([-1, 1])
        self._world.clock.set(days)
        try:
            return f"{days:+d} day for {self._sleep(chance, 5, 15)}"
        finally:
            self._world.clock.set(0)

    def memory_squeezed(self, chance: random.Random) -> str:
        left = self._world.limit.squeeze()
        try:
            return f"{left / 1e6:.0f} MB left for {self._sleep(chance, 3, 10)}"
        finally:
            self._world.limit.relax()
