"""Glass-to-glass latency in Chromium of MJPEG, the WebSocket and WebRTC: python tests/integration/latency.py.

Pictures carry the time at which they were made as black and white blocks; the browser reads them from what it shows
and compares with its own clock. Also tells the processor time of the server, that of making the pictures included.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from playwright.sync_api import sync_playwright

from edge_detector.detections import Detections
from edge_detector.frame import Frame, FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.live_video import LiveVideo
from edge_detector.publishers.web import WebPublisher
from edge_detector.stream_config import StreamConfig

SETTLE_MS = 8000  # in which who has gone is noticed
BITS, BLOCK = 32, 24  # milliseconds of the day fit in 27 bits; the others check them
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
READ = """
  const context = new OffscreenCanvas(BITS * BLOCK, 1).getContext("2d", { willReadFrequently: true });
  const seen = new Set();
  const delays = [];
  window.delays = delays;
  function read(picture) {
    context.drawImage(picture, 0, BLOCK / 2, BITS * BLOCK, 1, 0, 0, BITS * BLOCK, 1);
    const row = context.getImageData(0, 0, BITS * BLOCK, 1).data;
    let made = 0, check = 0;
    for (let bit = 0; bit < BITS; bit++) {
      const one = row[4 * (bit * BLOCK + BLOCK / 2)] > 127 ? 1 : 0;
      if (bit < 27) made = made * 2 + one; else check = check * 2 + one;
    }
    if (made % 31 !== check || seen.has(made)) return;
    seen.add(made);
    delays.push((performance.timeOrigin + performance.now()) % 86400000 - made);
  }
""".replace("BITS", str(BITS)).replace("BLOCK", str(BLOCK))
MJPEG = (
    "() => {"
    + READ
    + """
  const picture = new Image();
  picture.src = "/stream.mjpg";
  document.body.replaceChildren(picture);
  const look = () => { if (picture.naturalWidth) read(picture); requestAnimationFrame(look); };
  look();
}"""
)
SOCKET = (
    "() => {"
    + READ
    + """
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws?pictures=true");
  socket.onmessage = async ({ data }) => {
    if (typeof data === "string") return;
    const bitmap = await createImageBitmap(data);
    requestAnimationFrame(() => { read(bitmap); bitmap.close(); });
  };
}"""
)
WEBRTC = (
    "async () => {"
    + READ
    + """
  const connection = new RTCPeerConnection();
  const video = document.createElement("video");
  video.muted = video.autoplay = true;
  document.body.replaceChildren(video);
  const receiver = connection.addTransceiver("video", { direction: "recvonly" }).receiver;
  if (HINT) receiver.jitterBufferTarget = 0;
  connection.ontrack = event => { video.srcObject = new MediaStream([event.track]); };
  const look = () => { read(video); video.requestVideoFrameCallback(look); };
  video.requestVideoFrameCallback(look);
  await connection.setLocalDescription(await connection.createOffer());
  const answer = await fetch("/whep", {
    method: "POST", headers: { "Content-Type": "application/sdp" }, body: connection.localDescription.sdp,
  });
  await connection.setRemoteDescription({ type: "answer", sdp: await answer.text() });
}"""
)


class Camera:
    """Publishes pictures with the time in them."""

    def __init__(self, targets: list[Any], size_wh: tuple[int, int], fps: float) -> None:
        self._targets, self._fps = targets, fps
        noise = np.random.default_rng(0).integers(60, 190, (size_wh[1] // 8, size_wh[0] // 8, 3), np.uint8)
        self._scene = noise.repeat(8, axis=0).repeat(8, axis=1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        step, start_s = 0, time.monotonic()
        while not self._over.wait(max(0.0, start_s + step / self._fps - time.monotonic())):
            step += 1
            image = np.roll(self._scene, 2 * step, axis=1)
            image[:BLOCK, : BITS * BLOCK] = _blocks(round(time.time() * 1000) % 86_400_000)
            frame = Frame(image, step, time.monotonic(), time.time(), "clock")
            for target in self._targets:
                target.publish(FrameResult(frame, Detections.empty(), None))


def _blocks(made_ms: int) -> npt.NDArray[np.uint8]:
    bits = [made_ms >> bit & 1 for bit in range(26, -1, -1)] + [made_ms % 31 >> bit & 1 for bit in range(4, -1, -1)]
    return (np.array(bits, np.uint8) * 255).repeat(BLOCK)[None, :, None]


@contextmanager
def served(size_wh: tuple[int, int], fps: float, kbps: int) -> Iterator[tuple[str, LiveVideo]]:
    overlay, settings = OverlayRenderer(()), StreamConfig(fps=60, bitrate_kbps=kbps)
    with (
        closing(LiveVideo("camera", overlay, settings)) as video,
        closing(WebPublisher(overlay, (), "clock", port=0, videos={"camera": video})) as web,
        closing(Camera([web, video], size_wh, fps)),
    ):
        yield web.url, video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--fps", type=float, default=20)
    parser.add_argument("--bitrate-kbps", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("needs Chromium")
    with (
        served((width, height), given.fps, given.bitrate_kbps) as (url, video),
        sync_playwright() as engine,
        closing(engine.chromium.launch(executable_path=chromium, args=ARGUMENTS)) as browser,
    ):
        ways = {"MJPEG": MJPEG, "WebSocket, as the page": SOCKET, "WebRTC": WEBRTC.replace("HINT", "false")}
        ways["WebRTC, jitterBufferTarget = 0"] = WEBRTC.replace("HINT", "true")
        for name, script in ways.items():
            page = browser.new_page()
            page.goto(url + "healthz")
            page.evaluate(script)
            page.wait_for_timeout(3000)
            page.evaluate("window.delays.length = 0")
            before_s = _cpu_s()
            page.wait_for_timeout(1000 * given.seconds)
            used = (_cpu_s() - before_s) / given.seconds
            delays = np.array(page.evaluate("window.delays"))
            median, p95 = np.percentile(delays, [50, 95]) if len(delays) else (np.nan, np.nan)
            print(
                f"{name}: {len(delays)} pictures, median {median:.0f} ms, p95 {p95:.0f} ms, server {used:.0%} of a core"
            )
            page.close()
        for count in (0, 1, 5):
            pages = [browser.new_page() for _ in range(count)]
            for page in pages:
                page.goto(url + "healthz")
                page.evaluate(ways["WebRTC"])
            (pages or [browser.new_page()])[0].wait_for_timeout(SETTLE_MS)
            if video.takers != count:
                sys.exit(f"{video.takers} viewers are connected, not {count}")
            sizes: list[int] = []
            leave = video.subscribe(lambda packet, sizes=sizes: sizes.append(len(packet.data))) if count else None
            before_s = _cpu_s()
            time.sleep(given.seconds)
            used, kbps = (_cpu_s() - before_s) / given.seconds, sum(sizes) * 8 / 1000 / given.seconds
            if leave is not None:
                leave()
            print(f"{count} viewers of WebRTC, each {kbps:.0f} kbit/s: server {used:.1%} of a core")
            for page in pages:
                page.close()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
