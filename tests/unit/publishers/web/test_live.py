"""WebSockets and the sizes and rates of streams; a real server and real clients."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest

from edge_detector.frame import FrameResult
from edge_detector.publishers.web import WebPublisher
from edge_detector.publishers.web.guard import FIRST_REQUEST_S, MAX_CONNECTIONS
from edge_detector.publishers.web.live import MAX_SOCKETS
from edge_detector.web_config import WebConfig

OpenWeb = Callable[..., WebPublisher]
Ask = Callable[..., Any]
MakeResult = Callable[..., FrameResult]
WaitUntil = Callable[..., None]


@asynccontextmanager
async def connected(web: WebPublisher, **query: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(web.url + "ws", params=query, max_msg_size=0) as ws,
    ):
        yield ws


def live(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene, for at most 30 seconds."""
    asyncio.run(asyncio.wait_for(scene(), 30))  # type: ignore[arg-type]


def pixels(jpeg: bytes) -> np.ndarray[Any, Any]:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_each_result_is_told_as_it_comes_in_schema_1(open_web: OpenWeb, ask: Ask, make_result: MakeResult) -> None:
    web = open_web()
    web.publish(make_result(frame_id=1))

    async def scene() -> None:
        async with connected(web) as ws:
            assert json.loads(await ws.receive_str()) == json.loads(ask(web, "/api/detections")[2])
            for frame_id in (2, 3):
                web.publish(make_result(frame_id=frame_id))
                assert json.loads(await ws.receive_str())["frame_id"] == frame_id
            assert not web.wants_image  # nothing is drawn for it

    live(scene)
    assert web.encoded == 0


def test_picture_follows_its_own_result(open_web: OpenWeb, make_result: MakeResult) -> None:
    web = open_web()
    stop = threading.Event()

    def publish() -> None:
        frame_id = 0
        while not stop.wait(0.01):
            web.publish(make_result([], frame_id=frame_id, color=20 + frame_id % 200))
            frame_id += 1

    async def scene() -> None:
        async with connected(web, pictures="true") as ws:
            for _ in range(40):
                told = json.loads(await ws.receive_str())
                picture = pixels(await ws.receive_bytes())
                assert abs(int(picture[60, 80, 0]) - (20 + told["frame_id"] % 200)) <= 3

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        live(scene)
    finally:
        stop.set()
        thread.join()


def test_boxes_are_drawn_where_they_are_asked_for(open_web: OpenWeb, ask: Ask, make_result: MakeResult) -> None:
    web = open_web()
    web.publish(make_result([(20, 10, 120, 100)]))

    async def picture(**query: str) -> np.ndarray[Any, Any]:
        async with connected(web, pictures="true", **query) as ws:
            await ws.receive_str()
            return pixels(await ws.receive_bytes())

    assert np.ptp(asyncio.run(picture())) < 8  # plain grey
    assert np.ptp(asyncio.run(picture(boxes="true"))) > 100
    assert np.ptp(pixels(ask(web, "/snapshot.jpg?boxes=false")[2])) < 8
    assert np.ptp(pixels(ask(web, "/snapshot.jpg")[2])) > 100


@pytest.mark.parametrize(
    ("wanted", "width"), [(16, 320), (320, 320), (321, 480), (1280, 1000), (1920, 1000), (16384, 1000)]
)
def test_width_is_rounded_up_and_never_enlarged(
    open_web: OpenWeb, ask: Ask, make_result: MakeResult, wanted: int, width: int
) -> None:
    web = open_web()
    web.publish(make_result(size_wh=(1000, 500)))
    assert pixels(ask(web, f"/snapshot.jpg?width={wanted}")[2]).shape[:2] == (width // 2, width)


def test_same_look_is_encoded_once_for_all(open_web: OpenWeb, ask: Ask, make_result: MakeResult) -> None:
    web = open_web()
    web.publish(make_result(size_wh=(1000, 500)))
    for width in (400, 450, 480):
        ask(web, f"/snapshot.jpg?width={width}")
    assert web.encoded == 1
    ask(web, "/snapshot.jpg?width=481")
    assert web.encoded == 2


def test_rate_is_kept(open_web: OpenWeb, make_result: MakeResult) -> None:
    web = open_web()
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.005):
            web.publish(make_result())

    async def scene() -> None:
        async with connected(web, fps="10") as ws:
            await ws.receive_str()
            started_s = time.monotonic()
            for _ in range(15):
                await ws.receive_str()
            assert time.monotonic() - started_s > 1.3

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        live(scene)
    finally:
        stop.set()
        thread.join()


def test_slow_reader_gets_the_newest_not_a_backlog_and_holds_up_nobody(
    open_web: OpenWeb, make_result: MakeResult
) -> None:
    web = open_web(stall_s=20.0)

    async def scene() -> None:
        async with connected(web, pictures="true") as ws:
            noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
            for frame_id in range(150):
                result = make_result([], frame_id=frame_id, size_wh=(640, 480))
                result.frame.image[:] = noise
                web.publish(result)
                await asyncio.sleep(0.01)
            got = []
            while not got or got[-1] < 149:
                got.append(json.loads(await ws.receive_str())["frame_id"])
                await ws.receive_bytes()
                await asyncio.sleep(0.02)
            assert got == sorted(set(got))

    live(scene)


def test_reader_who_takes_nothing_is_dropped(open_web: OpenWeb, make_result: MakeResult, wait_until: WaitUntil) -> None:
    web = open_web(stall_s=0.5)
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    port = int(web.url.rpartition(":")[2].strip("/"))
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", port))
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\n{key}"
        head = f"GET /ws?pictures=true HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n"
        silent.sendall(head.encode())
        wait_until(lambda: web.wants_image)

        def gone() -> bool:
            result = make_result([], size_wh=(1280, 720))
            result.frame.image[:] = noise
            web.publish(result)
            time.sleep(0.02)
            return not web.wants_image

        wait_until(gone, timeout_s=20)


def test_who_leaves_is_no_longer_counted_and_close_ends_the_rest(
    open_web: OpenWeb, ask: Ask, make_result: MakeResult, wait_until: WaitUntil
) -> None:
    web = open_web()
    web.publish(make_result())

    def sockets() -> int:
        return int(json.loads(ask(web, "/api/status")[2])["sockets"])

    async def scene() -> None:
        async with connected(web) as ws:
            await ws.receive_str()
            assert await asyncio.to_thread(sockets) == 1
        await asyncio.to_thread(wait_until, lambda: sockets() == 0)
        async with connected(web) as ws:
            await ws.receive_str()
            started_s = time.monotonic()
            await asyncio.to_thread(web.close)
            assert time.monotonic() - started_s < 1.5
            assert (await ws.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert ws.close_code == aiohttp.WSCloseCode.GOING_AWAY

    live(scene)


def test_sockets_and_viewers_have_limits(open_web: OpenWeb, make_result: MakeResult) -> None:
    web = open_web(access=WebConfig(max_viewers=1))
    web.publish(make_result())

    async def scene() -> None:
        async with aiohttp.ClientSession() as session:
            held = [await session.ws_connect(web.url + "ws?pictures=true")]
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await session.ws_connect(web.url + "ws?pictures=true")
            assert refusal.value.status == 503
            held += [await session.ws_connect(web.url + "ws") for _ in range(MAX_SOCKETS - 1)]
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await session.ws_connect(web.url + "ws")
            assert refusal.value.status == 503
            await asyncio.gather(*(ws.close() for ws in held))

    live(scene)


@pytest.mark.parametrize("message", ["x" * 100, "x" * 10_000_000, b"\0" * 2000])
def test_what_a_client_says_does_no_harm(
    open_web: OpenWeb, ask: Ask, make_result: MakeResult, message: str | bytes
) -> None:
    web = open_web()
    web.publish(make_result())

    async def scene() -> None:
        async with connected(web) as ws:
            await ws.receive_str()
            with suppress(ConnectionError):  # cut off in the middle
                await (ws.send_str(message) if isinstance(message, str) else ws.send_bytes(message))
            web.publish(make_result(frame_id=1))
            if len(message) <= 1024:
                assert json.loads(await ws.receive_str())["frame_id"] == 1

    live(scene)
    assert ask(web, "/healthz")[0] == 200


@pytest.mark.parametrize("path", ["/stream.mjpg", "/ws", "/snapshot.jpg"])
@pytest.mark.parametrize("parameter", ["width=0", "width=x", "boxes=1", "colour=red", "width=1e9"])
def test_bad_parameter_is_one_line_that_says_what_to_give(
    open_web: OpenWeb, ask: Ask, make_result: MakeResult, path: str, parameter: str
) -> None:
    web = open_web()
    web.publish(make_result())
    status, _, body = ask(web, f"{path}?{parameter}")
    assert status == 400
    assert body.count(b"\n") == 1
    assert ask(web, f"{path}?camera=none")[0] == 404


@pytest.mark.parametrize("fps", ["0", "-1", "nan", "inf", "101"])
def test_impossible_rate_is_refused(open_web: OpenWeb, ask: Ask, fps: str) -> None:
    assert ask(open_web(), f"/ws?fps={fps}")[0] == 400


def test_readiness_is_that_every_camera_gives_pictures(open_web: OpenWeb, ask: Ask, make_result: MakeResult) -> None:
    web = open_web(cameras=("camera", "gate"))
    assert ask(web, "/readyz")[::2] == (503, b"camera: no picture yet\ngate: no picture yet\n")
    web.publish(make_result())
    assert ask(web, "/readyz")[::2] == (503, b"gate: no picture yet\n")


def test_thousand_connections_and_silent_ones_take_nothing_from_the_others(
    open_web: OpenWeb, ask: Ask, make_result: MakeResult
) -> None:
    web = open_web()
    web.publish(make_result())
    address = ("127.0.0.1", int(web.url.rpartition(":")[2].strip("/")))

    async def scene() -> None:
        async with connected(web) as ws:
            await ws.receive_str()
            many = []
            for number in range(1000 if _open_files() > 1500 else 400):
                one = socket.create_connection(address)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if number % 3:
                    one.setblocking(False)
                    with suppress(OSError):  # it is one too many, and was closed
                        one.send(b"GET / HTTP/1.1\r\nHost: loc"[: number % 25])
                many.append(one)
            web.publish(make_result(frame_id=1))
            assert json.loads(await ws.receive_str())["frame_id"] == 1
            refused = 0
            for one in many:
                one.settimeout(5 if refused == 0 else 0.2)
                try:
                    refused += one.recv(1) == b""
                except TimeoutError:
                    pass
                except OSError:
                    refused += 1
                if refused > 50:
                    break
            assert refused > 50
            for one in many:
                one.close()

    live(scene)
    deadline_s = time.monotonic() + FIRST_REQUEST_S
    while True:
        try:
            assert ask(web, "/healthz")[0] == 200
            break
        except OSError:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
    assert MAX_CONNECTIONS < 400


def _open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_server_without_file_descriptors_accepts_again_when_there_are_some(open_web: OpenWeb, ask: Ask) -> None:
    web = open_web()
    address = ("127.0.0.1", int(web.url.rpartition(":")[2].strip("/")))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as waiting:
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))  # none is left for the server
        try:
            waiting.connect(address)
            waiting.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            waiting.settimeout(1.0)
            with pytest.raises(TimeoutError):
                waiting.recv(100)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        waiting.settimeout(5.0)
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    assert ask(web, "/healthz")[0] == 200
