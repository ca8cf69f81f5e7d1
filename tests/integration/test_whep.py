"""WebRTC with a real client, aiortc, over this machine's network."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers import packets
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.web import WebPublisher
from edge_detector.stream_config import StreamConfig
from edge_detector.web_config import WebConfig

aiortc = pytest.importorskip("aiortc", reason="needs aiortc: pip install aiortc")
peer_module = pytest.importorskip("edge_detector.publishers.web.peer", reason="needs aiortc and PyAV")

MakeResult = Callable[..., FrameResult]
COLORS = ((220, 30, 30), (30, 200, 30), (30, 30, 220))


class Site:
    """A web server with the live video of one camera, whose pictures change colour 2.5 times a second."""

    def __init__(self, make_result: MakeResult) -> None:
        self.video = LiveVideo("front", OverlayRenderer(("person",)), StreamConfig(encoder="libx264", fps=30))
        self.web = WebPublisher(
            OverlayRenderer(("person",)),
            ("person",),
            "tiny",
            cameras=("front",),
            port=0,
            access=WebConfig(max_viewers=3),
            videos={"front": self.video},
        )
        self.filming = threading.Event()
        self.size_wh = (320, 240)
        self.over = threading.Event()
        self._make_result = make_result
        self._thread = threading.Thread(target=self._film)
        self.filming.set()
        self._thread.start()

    def _film(self) -> None:
        step = 0
        while not self.over.wait(0.04):
            step += 1
            if self.filming.is_set():
                color = COLORS[step // 10 % 3]
                result = self._make_result([], frame_id=step, color=color, size_wh=self.size_wh, live=False)
                self.video.publish(result)

    @property
    def whep(self) -> Any:
        return self.web._pages.whep

    @property
    def viewers(self) -> int:
        return self.web._pages.live.viewers

    def close(self) -> None:
        self.over.set()
        self._thread.join()
        self.web.close()
        self.video.close()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Have aiortc's clients, which close some of their sockets late, collected here and not in another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def site(make_result: MakeResult) -> Iterator[Site]:
    with closing(Site(make_result)) as opened:
        yield opened


def run(work: Awaitable[None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work, 30)

    asyncio.run(limited())


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        await asyncio.sleep(0.02)


class Viewer:
    """A client; `colors` are what it sees in the middle of each picture."""

    def __init__(self, url: str) -> None:
        self.colors: list[Any] = []
        self.sizes: list[tuple[int, int]] = []
        self.location = ""
        self.answer = ""
        self._url = url
        self.connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self._watching: asyncio.Task[None] | None = None

    async def offer(self) -> str:
        self.connection.addTransceiver("video", direction="recvonly")
        self.connection.on("track", self._watch)
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return str(self.connection.localDescription.sdp)

    async def open(self, camera: str = "front") -> None:
        status, headers, text = await post(f"{self._url}whep?camera={camera}", await self.offer())
        assert status == 201, text
        assert headers["Content-Type"] == "application/sdp"
        self.location, self.answer = headers["Location"], text
        await self.connection.setRemoteDescription(aiortc.RTCSessionDescription(text, "answer"))

    def _watch(self, track: Any) -> None:
        async def watch() -> None:
            try:
                while True:
                    picture = (await track.recv()).to_ndarray(format="rgb24")
                    self.sizes.append(picture.shape[1::-1])
                    self.colors.append(picture[picture.shape[0] // 2, picture.shape[1] // 2].astype(int))
            except aiortc.mediastreams.MediaStreamError:
                pass

        self._watching = asyncio.ensure_future(watch())

    def seen(self) -> set[int]:
        """Which of `COLORS` were seen, within a few shades."""
        return {
            number
            for number, color in enumerate(COLORS)
            if any(np.abs(seen - color).max() < 10 for seen in self.colors)
        }

    async def aclose(self) -> None:
        await self.connection.close()
        if self._watching is not None:
            await self._watching


@asynccontextmanager
async def watching(site: Site) -> AsyncIterator[Viewer]:
    viewer = Viewer(site.web.url)
    try:
        await viewer.open()
        yield viewer
    finally:
        await viewer.aclose()


async def post(url: str, body: str | bytes, content_type: str = "application/sdp") -> tuple[int, Any, str]:
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, data=body, headers={"Content-Type": content_type}) as response,
    ):
        return response.status, response.headers, await response.text()


async def delete(url: str) -> int:
    async with aiohttp.ClientSession() as client, client.delete(url) as response:
        return response.status


def test_moving_pictures_arrive_in_their_colours_and_delete_ends_them(site: Site) -> None:
    async def work() -> None:
        assert site.video.encoded == 0
        async with watching(site) as viewer:
            await until(lambda: viewer.seen() == {0, 1, 2})
            assert set(viewer.sizes) == {(320, 240)}
            codecs = {line.split()[1] for line in viewer.answer.splitlines() if line.startswith("a=rtpmap:")}
            assert codecs == {"H264/90000", "rtx/90000"}
            assert site.viewers == 1
            url = site.web.url.rstrip("/") + viewer.location
            assert await delete(url) == 200
            await until(lambda: site.viewers == 0 and site.video.takers == 0)
            assert await delete(url) == 404

    run(work())


def test_client_that_leaves_before_its_answer_leaves_no_socket_open(site: Site) -> None:
    async def work() -> None:
        async with aclosing(Viewer("")) as viewer:
            offer, descriptors = await viewer.offer(), Path("/proc/self/fd")
            before = len(list(descriptors.iterdir()))
            for steps in range(0, 60, 2):
                peer = peer_module.Peer(site.video, lambda: None)
                answering = asyncio.create_task(peer.answer(offer))
                for _ in range(steps):
                    await asyncio.sleep(0)
                answering.cancel()
                await asyncio.wait([answering])
                await peer.close()
            assert len(list(descriptors.iterdir())) == before

    run(work())


def test_viewers_share_one_encoder_up_to_the_limit(site: Site) -> None:
    async def work() -> None:
        async with watching(site) as first, watching(site) as second, watching(site) as third:
            viewers = (first, second, third)
            await until(lambda: all(viewer.seen() == {0, 1, 2} for viewer in viewers))
            assert site.video.takers == 3
            assert site.video.encoded < 1.5 * max(len(viewer.colors) for viewer in viewers) + 10
            extra = Viewer(site.web.url)
            status, headers, text = await post(f"{site.web.url}whep", await extra.offer())
            assert (status, headers["Retry-After"]) == (503, "5")
            assert "all 3 places are taken" in text
            await extra.aclose()
            async with aiohttp.ClientSession() as client, client.get(f"{site.web.url}stream.mjpg") as response:
                assert response.status == 503
        await until(lambda: site.viewers == 0)
        before = site.video.encoded
        await asyncio.sleep(0.3)
        assert site.video.encoded <= before + 1

    run(work())


def test_size_may_change_while_somebody_watches(site: Site) -> None:
    async def work() -> None:
        async with watching(site) as viewer:
            await until(lambda: viewer.colors)
            site.size_wh = (200, 120)
            await until(lambda: viewer.sizes[-1] == (200, 120))
            viewer.colors.clear()
            await until(lambda: viewer.seen() == {0, 1, 2})

    run(work())


def test_peer_that_vanishes_without_a_word_is_dropped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "SILENT_S", 3.0)

    async def work() -> None:
        async with watching(site) as viewer:
            await until(lambda: viewer.colors)
            await asyncio.sleep(3.5)
            assert site.viewers == 1  # it is there, and was heard of
            (transceiver,) = viewer.connection.getTransceivers()
            ice = transceiver.receiver.transport.transport._connection
            for protocol in ice._protocols:
                protocol.transport.abort()
            await until(lambda: site.viewers == 0 and site.video.takers == 0)

    run(work())


def test_peer_that_cannot_be_looked_after_gives_its_place_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(sender: Any) -> tuple[int, int]:
        raise KeyError("no such report")

    monkeypatch.setattr(peer_module, "_counts", fails)

    async def work() -> None:
        async with watching(site):
            await until(lambda: site.viewers == 0 and site.whep.peers == 0 and site.video.takers == 0)

    run(work())


def test_peer_that_waits_for_a_silent_camera_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "SILENT_S", 1.0)

    async def work() -> None:
        async with watching(site) as viewer:
            await until(lambda: viewer.colors)
            site.filming.clear()
            await asyncio.sleep(3)
            viewer.colors.clear()
            site.filming.set()
            await until(lambda: viewer.seen() == {0, 1, 2})

    run(work())


def test_session_that_never_connects_is_dropped_and_nothing_is_encoded_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "CONNECT_S", 1.0)

    async def work() -> None:
        viewer = Viewer(site.web.url)
        status, _, _ = await post(f"{site.web.url}whep", await viewer.offer())
        await viewer.aclose()
        assert (status, site.viewers) == (201, 1)
        await until(lambda: site.viewers == 0)
        assert site.video.encoded == 0

    run(work())


def test_keyframe_comes_when_a_peer_asks_for_it(site: Site) -> None:
    async def work() -> None:
        async with watching(site) as viewer:
            keys: list[bool] = []
            await until(lambda: viewer.colors)
            site.video.subscribe(lambda packet: keys.append(packet.keyframe))
            await until(lambda: len(keys) > 3)
            await asyncio.sleep(0.5)
            keys.clear()
            (receiver,) = viewer.connection.getReceivers()
            (ssrc,) = receiver._RTCRtpReceiver__remote_streams
            await receiver._send_rtcp_pli(ssrc)
            await until(lambda: any(keys), timeout_s=1.0)

    run(work())


def test_slow_viewer_sees_the_newest_and_slows_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    class SlowTrack(peer_module.PacketTrack):  # type: ignore[misc]
        async def recv(self) -> Any:
            await asyncio.sleep(0.2)
            return await super().recv()

    monkeypatch.setattr(packets, "CAPACITY", 5)
    track = peer_module.PacketTrack

    async def work() -> None:
        async with watching(site) as fast:
            monkeypatch.setattr(peer_module, "PacketTrack", SlowTrack)
            async with watching(site) as slow:
                monkeypatch.setattr(peer_module, "PacketTrack", track)
                await until(lambda: slow.seen() == {0, 1, 2})
                fast.colors.clear()
                slow.colors.clear()
                await asyncio.sleep(2)
                assert len(fast.colors) > 2 * len(slow.colors) > 0
        await until(lambda: site.viewers == 0)

    run(work())
    assert "too slow" in caplog.text


def test_closing_the_server_ends_all_peers_quickly(site: Site) -> None:
    async def work() -> None:
        async with watching(site) as viewer:
            await until(lambda: viewer.colors)
            start_s = time.monotonic()
            await asyncio.get_running_loop().run_in_executor(None, site.web.close)
            assert time.monotonic() - start_s < 1.5
            assert site.video.takers == 0

    run(work())


def test_what_is_no_fitting_offer_is_refused_with_the_reason_and_leaves_nothing(site: Site) -> None:
    async def work() -> None:
        viewer = Viewer(site.web.url)
        offer = await viewer.offer()
        await viewer.aclose()
        no_h264 = "\r\n".join(line for line in offer.splitlines() if "H264" not in line)
        high_only = offer.replace("42e01f", "640c1f").replace("42001f", "640c1f")
        cases: list[tuple[str | bytes, int, str]] = [
            ("", 400, "it has no video"),
            ("v=0\r\nm=video", 400, "it has no video"),
            (b"\xff\xfe", 400, "cannot be answered"),
            ("m=video 9 UDP/TLS/RTP/SAVPF 99\r\na=rtpmap:99 H264/90000\r\n", 400, "it has no ICE user"),
            (offer.replace("a=fingerprint", "a=x-fingerprint"), 400, "it has no fingerprint"),
            (offer.replace("a=ice-pwd", "a=x-ice-pwd"), 400, "it has no ICE password"),
            (offer.replace("m=video ", "m=video x"), 400, "cannot be answered"),
            (high_only, 400, "cannot be answered"),
            (offer + 3 * "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n", 400, "more than 3 m="),
            (offer + 70 * "a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n", 400, "more than 64 a=candidate:"),
            (no_h264, 406, "only H.264"),
            (offer + "a=x:" + "y" * 70_000, 413, ""),
        ]
        for body, expected, message in cases:
            status, _, text = await post(f"{site.web.url}whep", body)
            assert (status, message in text) == (expected, True), (body[:60], text)
        assert (await post(f"{site.web.url}whep", offer, "text/plain"))[0] == 415
        assert (await post(f"{site.web.url}whep?camera=back", offer))[0] == 404
        async with aiohttp.ClientSession() as client:
            for path, method in (("whep", "GET"), ("whep/x", "PATCH")):
                async with client.request(method, f"{site.web.url}{path}") as response:
                    assert response.status == 405
        assert (site.viewers, site.whep.peers, site.video.takers) == (0, 0, 0)

    run(work())


def test_without_live_video_the_answer_says_how_to_turn_it_on() -> None:
    async def work(url: str) -> None:
        status, _, text = await post(f"{url}whep", "v=0")
        assert (status, "stream: {webrtc: true}" in text) == (404, True)

    with closing(WebPublisher(OverlayRenderer(()), (), "tiny", port=0)) as web:
        run(work(web.url))
