"""Soak: runs the service with all sinks, breaks something again and again, and sees whether all comes back."""

from __future__ import annotations

import csv
import json
import random
import shutil
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2

from tests.endurance.deliveries import Deliveries
from tests.endurance.disk import SmallDisk
from tests.endurance.faults import Faults, World
from tests.endurance.receivers import Broker, UdpReceiver, Viewers, WebhookServer
from tests.endurance.service import DEMO_CLIP, Clock, MemoryLimit, Receivers, Service, get, settings, usage
from tests.endurance.watched_files import WatchedFiles
from tests.integration.conftest import Relay, RtspServer

CAMERAS = ("front", "yard")
# How often a sink must deliver after a fault to count as working.
NEEDED = {
    **{
        f"{sink}: {camera}": needed
        for sink, needed in (
            *(("MQTT, detections", 3), ("JSONL", 3), ("UDP", 3)),
            *(("MJPEG", 5), ("WebSocket", 5), ("clips", 1)),
        )
        for camera in CAMERAS
    },
    **dict.fromkeys(("MQTT, events", "MQTT, snapshots", "webhook", "events.jsonl", "event database", "snapshots"), 1),
    "/readyz": 2,
}
SAMPLE_S = 2.0
DISK_MB = 160
SETTLE_S = 20.0  # after the last fault, for what waits


@dataclass
class Injected:
    """A fault, or two at the same time, and what came after; times in seconds since the start."""

    at_s: float
    kinds: list[str]
    did: list[str]
    lasted_s: float
    recovered_s: dict[str, float]
    missing: list[str]
    wrong: list[str] = field(default_factory=list)


@dataclass
class Options:
    """What a soak is told."""

    minutes: float
    seed: int
    output: Path
    rest_s: float = 8.0  # after each recovery
    bound_s: float = 60.0
    warm_up_s: float = 300.0
    scale: float = 1.0
    together: float = 0.25
    detect_fps: float = 2.0
    model: str = "person-320"
    without: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass
class Record:
    """All that a soak has seen."""

    options: Options
    samples: list[dict[str, Any]] = field(default_factory=list)
    injected: list[Injected] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    crashed: str = ""
    exit_code: int | None = None
    end_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)
    lost_ends: dict[str, int] = field(default_factory=dict)
    machine: str = ""


class Sampler:
    """Writes down what the service uses, every two seconds, on a thread of its own."""

    def __init__(self, service: Service, url: str, record: Record, started_s: float) -> None:
        self.phase, self.fault = "rest", ""
        self._service, self._url, self._record, self._started_s = service, url, record, started_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        count = 0
        while not self._over.wait(SAMPLE_S):
            with suppress(OSError, TypeError):
                row: dict[str, Any] = {"s": round(time.monotonic() - self._started_s, 1), **usage(self._service.pid)}
                for key in ("threads", "fds"):  # a sink that SIGHUP has added has one of each
                    row[key] -= len(self._service.wanted.get("sinks", {}))
                row |= {"phase": self.phase, "fault": self.fault, "abandoned": "", "viewers": ""}
                if count % 3 == 0 and self.phase == "rest":
                    with suppress(OSError, KeyError, ValueError):
                        status = get(self._url + "api/status", 3)
                        row |= {"abandoned": status["service"]["process"]["abandoned"], "viewers": status["viewers"]}
                self._record.samples.append(row)
                count += 1


def soak(options: Options, say: Any = print) -> Record:
    """Run it; what went wrong stands in the record."""
    options.output.mkdir(parents=True, exist_ok=True)
    record = Record(options)
    deliveries = Deliveries(NEEDED)
    with ExitStack() as stack:
        disk = SmallDisk(options.output.resolve() / "outputs", DISK_MB)
        stack.callback(disk.close)
        clock, limit = Clock(options.output.resolve()), MemoryLimit()
        stack.callback(limit.close)
        server = RtspServer(_write_pictures(options.output / "pictures"))
        stack.callback(server.stop)
        relay = Relay(server.port)
        stack.callback(relay.close)
        broker = Broker(options.output, deliveries)
        stack.callback(broker.close)
        webhook, udp = WebhookServer(deliveries), UdpReceiver(deliveries)
        stack.callback(udp.close)
        stack.callback(webhook.close)
        sources = {
            "front": f"rtsp://user:secret@127.0.0.1:{relay.port}/camera",
            "yard": f"file://{DEMO_CLIP}?loop=1",
        }
        to = Receivers(broker.port, webhook.port, udp.port)
        wanted = settings(sources, disk.folder, to, model=options.model, detect_fps=options.detect_fps)
        options.output.joinpath("service.log").unlink(missing_ok=True)
        service = Service(options.output.resolve(), wanted, clock, limit)
        stack.callback(_end, service, record)
        url = service.wait_for_url()
        started_s = time.monotonic()
        files = WatchedFiles(disk.folder, deliveries)
        stack.callback(files.close)
        viewers = Viewers(url, list(CAMERAS), deliveries)
        stack.callback(viewers.close)
        sampler = Sampler(service, url, record, started_s)
        stack.callback(sampler.close)
        world = World(service, url, server, relay, broker, webhook, disk, clock, limit)
        faults = Faults(world, options.scale)
        record.left_out = faults.left_out
        _go(options, record, faults, deliveries, sampler, started_s, say)
        record.counts = deliveries.counts()
        # An object may have ended just now, and the database commits later.
        sampler.close()
        viewers.close()
        _end(service, record)
        time.sleep(2)
        files.close()
    record.defects = deliveries.defects + _tracebacks(service.log)
    told = deliveries.ended.get("events.jsonl", set())
    for sink in ("webhook", "event database", "MQTT"):
        record.lost_ends[sink] = len(told - deliveries.ended.get(sink, set()))
    record.counts["ends in events.jsonl"] = len(told)
    _write(options.output, record)
    return record


def _go(
    options: Options,
    record: Record,
    faults: Faults,
    deliveries: Deliveries,
    sampler: Sampler,
    started_s: float,
    say: Any,
) -> None:
    chance = random.Random(options.seed)
    kinds = [kind for kind in (options.only or faults.all) if kind not in options.without]
    unknown = [kind for kind in (*options.only, *options.without) if kind not in {**faults.all, **faults.left_out}]
    if unknown:
        raise SystemExit(f"no such fault: {', '.join(unknown)}; there are: {', '.join(faults.all)}")
    kinds = [kind for kind in kinds if kind in faults.all]
    bag: list[str] = []
    deliveries.arm()
    recovered_s, missing = deliveries.wait(options.bound_s)
    if missing:
        record.injected.append(Injected(0.0, ["start"], [""], 0.0, recovered_s, missing))
        if (code := faults.service_code()) is not None:
            record.crashed = f"ended with {code} at the start"
            return
        say(f"at the start nothing came to: {', '.join(missing)}")
    while time.monotonic() - started_s < 60 * options.minutes:
        time.sleep(options.rest_s)
        chosen = []
        for _ in range(2 if chance.random() < options.together else 1):
            if not bag:  # each once before one comes again
                bag = chance.sample(kinds, len(kinds))
            chosen.append(bag.pop())
        chosen = list(dict.fromkeys(chosen))
        injected = _inject(chosen, chance, faults, sampler, started_s)
        deliveries.arm()
        sampler.phase = "recovery"
        injected.recovered_s, injected.missing = deliveries.wait(options.bound_s)
        sampler.phase, sampler.fault = "rest", ""
        record.injected.append(injected)
        say(_line(injected))
        if (code := faults.service_code()) is not None:
            record.crashed = f"ended with {code} after {', '.join(chosen)}"
            return
    time.sleep(SETTLE_S * options.scale)


def _inject(kinds: list[str], chance: random.Random, faults: Faults, sampler: Sampler, started_s: float) -> Injected:
    """Run faults, the second some seconds after the first."""
    begun_s = time.monotonic()
    sampler.phase, sampler.fault = "fault", " + ".join(kinds)
    injected = Injected(round(begun_s - started_s, 1), kinds, [""] * len(kinds), 0.0, {}, [])

    def run(number: int, own: random.Random, delay_s: float) -> None:
        time.sleep(delay_s)
        try:
            injected.did[number] = faults.all[kinds[number]](own)
        except Exception as error:  # noqa: BLE001 - a fault that could not be injected is one to be told
            injected.wrong.append(f"{kinds[number]}: {error}")

    threads = [
        threading.Thread(target=run, args=(number, random.Random(chance.random()), number * chance.uniform(0, 4)))
        for number in range(len(kinds))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    injected.lasted_s = round(time.monotonic() - begun_s, 1)
    return injected


def _line(injected: Injected) -> str:
    slowest = max(injected.recovered_s.items(), key=lambda item: item[1], default=("nothing", 0.0))
    told = f"{injected.at_s:7.0f} s  {' + '.join(injected.kinds)} ({', '.join(injected.did)}): all back after "
    told += f"{slowest[1]:.1f} s ({slowest[0]})"
    if injected.missing:
        told += f"; LOST: {', '.join(injected.missing)}"
    return told + "".join(f"; WRONG: {text}" for text in injected.wrong)


def _end(service: Service, record: Record) -> None:
    if record.exit_code is None:
        early = service.process.poll()
        record.exit_code, record.end_s = service.end()
        if early is not None and not record.crashed:
            record.crashed = f"ended by itself with {early}"


def _tracebacks(log: Path) -> list[str]:
    text = log.read_text(errors="replace")
    return [f"the log holds {text.count('Traceback')} tracebacks"] if "Traceback" in text else []


def _write(folder: Path, record: Record) -> None:
    if record.samples:
        with (folder / "samples.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, record.samples[0])
            writer.writeheader()
            writer.writerows(record.samples)
    document = asdict(record) | {"samples": "samples.csv"}
    (folder / "record.json").write_text(json.dumps(document, indent=1, default=str) + "\n")
    shutil.rmtree(folder / "pictures", ignore_errors=True)


def _write_pictures(folder: Path) -> Path:
    """Write the demo clip as pictures, for a server that repeats them."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = cv2.VideoCapture(str(DEMO_CLIP))
    for number in range(250):
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), clip.read()[1])
    clip.release()
    return folder
