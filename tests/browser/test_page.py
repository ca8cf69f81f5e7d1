"""The live page in a real browser."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.web import WebPublisher
from edge_detector.runtime.metrics import (
    CameraStatus,
    DetectorStatus,
    LatencyMeter,
    PipelineStats,
    ProcessStatus,
    ServiceStatus,
)

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")

MakeResult = Callable[..., FrameResult]
LABELS = ("person", "<b>犬</b>")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
# Mean of red, green and blue in the middle of the picture as shown.
SHOWN_COLOR = """() => {
  const picture = document.getElementById("picture");
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d");
  context.drawImage(picture, picture.width / 2, picture.height / 2, 1, 1, 0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  return (red + green + blue) / 3;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium, such as Debian's package chromium")
    with playwright.sync_playwright() as engine:
        launched = engine.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def web() -> Iterator[WebPublisher]:
    publisher = WebPublisher(OverlayRenderer(LABELS), LABELS, "tiny", port=0)
    yield publisher
    publisher.close()


@contextmanager
def opened(browser: Any, url: str, **settings: Any) -> Iterator[tuple[Any, list[str]]]:
    """Yield the page and the list of what it complained about."""
    context = browser.new_context(**settings)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url) if "/stream" not in request.url else None)
    page.goto(url, wait_until="domcontentloaded")  # "load" comes with the first picture
    yield page, complaints
    context.close()


@contextmanager
def published(web: WebPublisher, make: Callable[[int], FrameResult]) -> Iterator[None]:
    """Publish `make(0)`, `make(1)`, ... at 20 per second meanwhile."""
    stop = threading.Event()

    def publish() -> None:
        frame_id = 0
        while not stop.wait(0.05):
            web.publish(make(frame_id))
            frame_id += 1

    thread = threading.Thread(target=publish)
    thread.start()
    yield
    stop.set()
    thread.join()


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size_wh", [(1366, 768), (390, 844), (320, 568)])
def test_picture_moves_and_nothing_overflows_or_complains(
    browser: Any, web: WebPublisher, make_result: MakeResult, size_wh: tuple[int, int], scheme: str
) -> None:
    boxes = [(10, 10, 60, 100), (100, 20, 150, 110)]
    with (
        published(web, lambda step: make_result(boxes, color=40 * (step % 5), size_wh=(320, 240), age_s=0.4)),
        opened(browser, web.url, viewport={"width": size_wh[0], "height": size_wh[1]}, color_scheme=scheme) as (
            page,
            complaints,
        ),
    ):
        page.wait_for_selector("#state[data-state=live]")
        wait_until(lambda: page.get_attribute("#picture", "data-size") == "320x240")
        shades = set()
        for _ in range(40):
            shades.add(round(page.evaluate(SHOWN_COLOR) / 40))
            page.wait_for_timeout(37)
        assert len(shades) >= 4
        assert page.evaluate("document.documentElement.scrollWidth") <= size_wh[0]
        assert complaints == []


def test_list_and_figures_are_those_of_the_json(browser: Any, web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(
        make_result([(0, 0, 9, 9), (5, 5, 30, 30), (1, 1, 2, 2)], class_ids=[0, 1, 0], tracker_ids=[4, 9, 2], age_s=3.5)
    )
    with opened(browser, web.url) as (page, complaints):
        page.wait_for_selector("#detections li")
        document = json.loads(urllib.request.urlopen(web.url + "api/detections").read())
        expected = [
            [found["label"], f"#{found['track_id']}", f"{found['score'] * 100:.0f}%"]
            for found in document["detections"]
        ]
        rows = page.locator("#detections li").all()
        assert [
            [row.locator(part).text_content() for part in (".label", ".track", ".score")] for row in rows
        ] == expected
        assert expected[1][0] == "<b>犬</b>"  # shown as text, never read as markup
        figures = {name: page.text_content(f"#{name}") for name in ("count", "age", "latency", "inference", "capture")}
        assert figures == {"count": "3", "age": "3.50", "latency": "402", "inference": "2.5", "capture": "25.0"}
        assert page.get_attribute("#age-tile", "class") == "old"
        assert complaints == []


def test_still_scene_is_said_and_its_age_is_no_fault(browser: Any, web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(replace(make_result(age_s=4.5, tracker_ids=[1]), still=True))
    with opened(browser, web.url) as (page, complaints):
        page.wait_for_selector("#detections li")
        assert [page.text_content("#age-of"), page.text_content("#age")] == ["Nothing moves", "4.50"]
        assert page.get_attribute("#age-tile", "class") != "old"
        assert complaints == []


def test_last_picture_is_shown_without_waiting_for_the_next(
    browser: Any, web: WebPublisher, make_result: MakeResult
) -> None:
    web.publish(make_result([], color=30))
    with opened(browser, web.url) as (page, _):
        wait_until(lambda: page.get_attribute("#picture", "data-size") == "160x120")
        for color in (200, 60, 160):
            web.publish(make_result([], color=color))
            wait_until(lambda wanted=color: abs(page.evaluate(SHOWN_COLOR) - wanted) < 6, timeout_s=3)  # type: ignore[misc]


def test_page_says_that_no_picture_came_yet(browser: Any, web: WebPublisher) -> None:
    with opened(browser, web.url) as (page, complaints):
        page.wait_for_selector("#state[data-state=waiting]")
        assert page.is_visible("text=Waiting for the first picture")
        assert complaints == []


def test_page_tells_silence_and_loss_and_comes_back(browser: Any, web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(make_result([], color=30))
    with opened(browser, web.url) as (page, _):
        page.wait_for_selector("#state[data-state=live]")
        page.wait_for_selector("#state[data-state=silent]", timeout=15000)
        web.close()
        page.wait_for_selector("#state[data-state=offline]")
        again = WebPublisher(OverlayRenderer(LABELS), LABELS, "tiny", port=int(web.url.split(":")[-1].strip("/")))
        try:
            again.publish(make_result([], color=180))
            page.wait_for_selector("#state[data-state=live]", timeout=15000)
            wait_until(lambda: abs(page.evaluate(SHOWN_COLOR) - 180) < 6)
        finally:
            again.close()


def test_closed_page_leaves_no_viewer(browser: Any, web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(make_result())
    with opened(browser, web.url) as (page, _):
        page.wait_for_selector("#state[data-state=live]")
        wait_until(lambda: web.wants_image)
    wait_until(lambda: not web.wants_image)


def test_hidden_page_stops_the_stream_and_resumes_it_when_seen(
    browser: Any, web: WebPublisher, make_result: MakeResult
) -> None:
    set_hidden = """hidden => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with published(web, lambda step: make_result(frame_id=step)), opened(browser, web.url) as (page, complaints):
        page.wait_for_selector("#state[data-state=live]")
        wait_until(lambda: web.wants_image)
        page.evaluate(set_hidden, True)
        wait_until(lambda: not web.wants_image)
        page.evaluate(set_hidden, False)
        wait_until(lambda: web.wants_image)
        asked = "performance.getEntriesByName(location.origin + '/api/status').length"
        before = page.evaluate(asked)
        wait_until(lambda: page.evaluate(asked) > before)
        assert complaints == []


class TwoCameras:
    """A service of two cameras, one of them away, whose detection can be paused; its TPU is away too."""

    def __init__(self) -> None:
        self.detecting = {"yard": True, "gate": True}

    def set_detecting(self, camera: str, on: bool) -> None:
        self.detecting[camera] = on

    def status(self) -> ServiceStatus:
        states = {"yard": ("live", None), "gate": ("reconnecting", "rtsp://***@gate: cannot be opened")}
        cameras = {
            name: CameraStatus(
                source=f"source of {name}",
                state=state,
                state_s=3.0,
                error=error,
                detecting=self.detecting[name],
                silent_s=None if error else 0.0,
                fps={"capture": 10.0, "inference": 5.0},
                stats=PipelineStats(),
                recovery={"reopened": 0, "recreated": 0, "freezes": 0, "abandoned": 0},
                latency=LatencyMeter().histogram,
                latency_p50_s=None,
                latency_p95_s=None,
            )
            for name, (state, error) in states.items()
        }
        detector = DetectorStatus(
            "tiny", "LiteRT", "edgetpu:usb:0", "cpu", "fallback", 4.0, 1, "no device <b>there</b>"
        )
        return ServiceStatus(detector, ProcessStatus(60.0, 5, 12, 100_000_000, 0), cameras)


def test_camera_is_chosen_its_trouble_told_and_detection_paused(browser: Any, make_result: MakeResult) -> None:
    service = TwoCameras()
    web = WebPublisher(
        OverlayRenderer(LABELS),
        LABELS,
        "tiny",
        port=0,
        cameras=("yard", "gate"),
        status=service.status,
        set_detecting=service.set_detecting,
    )

    def of_the_yard(frame_id: int) -> FrameResult:
        return replace(make_result(frame_id=frame_id, source="source of yard"), camera="yard")

    with closing(web), published(web, of_the_yard), opened(browser, web.url) as (page, complaints):
        wait_until(lambda: page.inner_text("#state") == "live")
        wait_until(lambda: page.inner_text("#count") == "1")
        assert page.inner_text("#notice") == "The cpu stands in for edgetpu:usb:0: no device <b>there</b>"
        page.select_option("#camera", "gate")
        wait_until(lambda: page.inner_text("#state") == "reconnecting")
        assert "rtsp://***@gate: cannot be opened" in page.inner_text("#message")
        assert page.inner_text("#count") == "0"
        assert not page.is_visible("#picture")
        assert page.get_attribute("#json", "href") == "/api/detections?camera=gate"
        page.select_option("#camera", "yard")
        wait_until(lambda: page.inner_text("#state") == "live")
        wait_until(lambda: page.is_visible("#picture"))
        with page.expect_response("**/api/control"):
            page.click("#pause")
        wait_until(lambda: page.inner_text("#state") == "paused")
        assert service.detecting == {"yard": False, "gate": True}
        page.reload(wait_until="domcontentloaded")  # the choice is in the address
        wait_until(lambda: page.inner_text("#state") == "paused")
        with page.expect_response("**/api/control"):
            page.click("#pause")
        wait_until(lambda: page.inner_text("#state") == "live")
        assert service.detecting["yard"]
        assert [text for text in complaints if "503" not in text] == []
