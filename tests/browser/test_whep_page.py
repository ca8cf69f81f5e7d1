"""WebRTC in a real browser: Chromium plays what /whep gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.web import WebPublisher
from edge_detector.stream_config import StreamConfig

pytest.importorskip("aiortc", reason="needs aiortc: pip install aiortc")
pytest.importorskip("av", reason="needs PyAV: pip install av")

MakeResult = Callable[..., FrameResult]
COLORS = ((220, 30, 30), (30, 200, 30), (30, 30, 220))
PLAY = """async () => {
  const connection = new RTCPeerConnection();
  const video = document.createElement("video");
  video.muted = true;
  video.autoplay = true;
  document.body.replaceChildren(video);
  connection.addTransceiver("video", { direction: "recvonly" });
  connection.ontrack = event => { video.srcObject = new MediaStream([event.track]); };
  await connection.setLocalDescription(await connection.createOffer());
  const answer = await fetch("/whep?camera=front", {
    method: "POST", headers: { "Content-Type": "application/sdp" }, body: connection.localDescription.sdp,
  });
  if (answer.status !== 201) throw new Error(await answer.text());
  window.session = answer.headers.get("Location");
  window.connection = connection;
  await connection.setRemoteDescription({ type: "answer", sdp: await answer.text() });
}"""
SHOWN = """() => {
  const video = document.querySelector("video");
  if (!video.videoWidth) return null;
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.drawImage(video, video.videoWidth / 2, video.videoHeight / 2, 1, 1, 0, 0, 1, 1);
  return [video.videoWidth, video.videoHeight, ...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}"""


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.05)


def test_picture_moves_in_its_colours_and_a_closed_page_leaves_no_viewer(
    browser: Any, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_detector.publishers.web.peer.SILENT_S", 3.0)
    overlay, over = OverlayRenderer(("person",)), threading.Event()

    def film() -> None:
        step = 0
        while not over.wait(0.05):
            step += 1
            color = COLORS[step // 10 % 3]
            video.publish(make_result([], frame_id=step, color=color, size_wh=(640, 360), live=False))

    with (
        closing(LiveVideo("front", overlay, StreamConfig(encoder="libx264"))) as video,
        closing(WebPublisher(overlay, ("person",), "tiny", cameras=("front",), port=0, videos={"front": video})) as web,
    ):
        thread = threading.Thread(target=film)
        thread.start()
        try:
            page = browser.new_page()
            page.goto(web.url + "healthz")
            page.evaluate(PLAY)
            seen: set[int] = set()

            def look() -> bool:
                shown = page.evaluate(SHOWN)
                if shown is not None:
                    assert shown[:2] == [640, 360]
                    for number, color in enumerate(COLORS):
                        if np.abs(np.subtract(shown[2:], color)).max() < 12:
                            seen.add(number)
                return len(seen) == 3

            wait_until(look)
            assert video.takers == 1
            page.close()
            wait_until(lambda: video.takers == 0)
            assert not web.wants_image
        finally:
            over.set()
            thread.join()
