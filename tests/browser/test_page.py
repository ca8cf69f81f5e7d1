"""The live page in a real browser."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from edge_detector.errors import PublishError
from edge_detector.events import Event, ObjectState
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.passwords import hash_password
from edge_detector.publishers.event_store import EventStore
from edge_detector.publishers.web import WebPublisher
from edge_detector.runtime.metrics import (
    CameraStatus,
    DetectorStatus,
    LatencyMeter,
    PipelineStats,
    ProcessStatus,
    ServiceStatus,
    SinkStatus,
)
from edge_detector.web_config import WebConfig

MakeResult = Callable[..., FrameResult]
LABELS = ("person", "<b>犬</b>")
# Mean of red, green and blue in the middle of the picture as shown.
SHOWN_COLOR = """() => {
  const picture = document.getElementById("picture");
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d");
  context.drawImage(picture, picture.width / 2, picture.height / 2, 1, 1, 0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  return (red + green + blue) / 3;
}"""


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
        wait_until(lambda: page.text_content("#latency") != "–")
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
        sinks = {
            "mqtt://broker:1883": SinkStatus("failing", 31.4, "it is <b>away</b>", 3, 0, 1, 0),
            "out.jsonl": SinkStatus("ok", 0.0, None, 0, 0, 0, 9),
        }
        return ServiceStatus(detector, ProcessStatus(60.0, 5, 12, 100_000_000, 0), cameras, sinks)


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
        assert page.inner_text("#notice").splitlines() == [
            "The cpu stands in for edgetpu:usb:0: no device <b>there</b>",
            "mqtt://broker:1883 is failing (31 s): it is <b>away</b>",
        ]
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


@contextmanager
def two_cameras(make_result: MakeResult, **settings: Any) -> Iterator[tuple[WebPublisher, TwoCameras]]:
    """A server with pictures of two cameras: yard dark with one box, gate bright without."""
    service = TwoCameras()
    web = WebPublisher(
        OverlayRenderer(LABELS),
        LABELS,
        "tiny",
        port=settings.pop("port", 0),
        cameras=("yard", "gate"),
        status=service.status,
        set_detecting=service.set_detecting,
        **settings,
    )
    stop = threading.Event()

    def publish() -> None:
        frame_id = 0
        while not stop.wait(0.05):
            with suppress(PublishError):  # a test has closed it
                web.publish(replace(make_result([(20, 20, 60, 60)], color=40, frame_id=frame_id), camera="yard"))
                web.publish(replace(make_result([], color=200, frame_id=frame_id), camera="gate"))
            frame_id += 1

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield web, service
    finally:
        stop.set()
        thread.join()
        web.close()


# What a canvas shows: the share of the box's border, and of all else, that has the colour of its class.
BORDER = """([x1, y1, x2, y2]) => {
  const canvas = document.getElementById("picture");
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.width, canvas.height];
  const colored = (x, y) => {
    const { data } = context.getImageData(Math.round(x) - 1, Math.round(y) - 1, 3, 3);
    const near = (at) => Math.abs(data[at] - 46) + Math.abs(data[at + 1] - 230) + Math.abs(data[at + 2] - 166) < 40;
    return [0, 4, 8, 12, 16, 20, 24, 28, 32].some(near);
  };
  let on = 0;
  for (let step = 0.2; step < 0.95; step += 0.1) {
    on += colored((x1 + (x2 - x1) * step) * width, y2 * height);
    on += colored(x1 * width, (y1 + (y2 - y1) * step) * height) + colored(x2 * width, (y1 + (y2 - y1) * step) * height);
  }
  return [on / 24, colored(((x1 + x2) / 2) * width, ((y1 + y2) / 2) * height), colored(width - 3, height - 3)];
}"""


@pytest.mark.parametrize("scale", [1, 2])
def test_boxes_on_the_canvas_are_where_the_json_says(
    browser: Any, web: WebPublisher, make_result: MakeResult, scale: int
) -> None:
    web.publish(make_result([(128, 120, 384, 360)], size_wh=(640, 480)))
    with opened(browser, web.url, device_scale_factor=scale) as (page, complaints):
        wait_until(lambda: page.get_attribute("#picture", "data-size") == "640x480")
        (found,) = json.loads(urllib.request.urlopen(web.url + "api/detections").read())["detections"]
        wait_until(lambda: page.evaluate(BORDER, found["box_norm"]) == [1, False, False])
        page.select_option("#mode", "plain")
        wait_until(lambda: page.evaluate(BORDER, found["box_norm"]) == [0, False, False])
        page.select_option("#mode", "picture")
        wait_until(lambda: page.evaluate(BORDER, found["box_norm"])[0] > 0.7)
        assert [text for text in complaints if "getImageData" not in text] == []


def test_stale_boxes_fade_and_say_their_age(browser: Any, web: WebPublisher, make_result: MakeResult) -> None:
    web.publish(make_result([(128, 120, 384, 360)], size_wh=(640, 480), age_s=2.0))
    with opened(browser, web.url) as (page, _):
        wait_until(lambda: page.get_attribute("#picture", "data-size") == "640x480")
        box = [0.2, 0.25, 0.6, 0.75]
        assert page.evaluate(BORDER, box)[0] == 0  # not in its full colour
        web.publish(make_result([(128, 120, 384, 360)], size_wh=(640, 480)))
        wait_until(lambda: page.evaluate(BORDER, box)[0] == 1)


def test_filters_hide_objects_in_list_and_picture_and_are_kept(
    browser: Any, web: WebPublisher, make_result: MakeResult
) -> None:
    web.publish(make_result([(32, 30, 96, 90), (100, 10, 150, 40)], class_ids=[0, 1]))
    with opened(browser, web.url) as (page, complaints):
        wait_until(lambda: page.inner_text("#count") == "2")
        page.click("#filter summary")
        page.evaluate("""() => {
          const range = document.getElementById("threshold");
          range.value = 80;
          range.dispatchEvent(new Event("input"));
        }""")
        wait_until(lambda: page.inner_text("#count") == "1")
        page.uncheck("#labels label:has-text('person') input")
        wait_until(lambda: page.inner_text("#count") == "0")
        assert page.inner_text("#nothing") == "All that is found is filtered out."
        assert page.evaluate(BORDER, [32 / 160, 30 / 120, 96 / 160, 90 / 120])[0] == 0
        page.reload(wait_until="domcontentloaded")
        wait_until(lambda: page.inner_text("#filter summary") == "Filter: from 80%, without person")
        assert [text for text in complaints if "getImageData" not in text] == []


def test_all_cameras_are_seen_at_once_and_one_is_chosen(browser: Any, make_result: MakeResult) -> None:
    shade = """name => {
      const canvas = document.querySelector(`#grid [data-camera=${name}] canvas`);
      return canvas.getContext("2d").getImageData(canvas.width - 3, canvas.height - 3, 1, 1).data[0];
    }"""
    with two_cameras(make_result) as (web, _), opened(browser, web.url) as (page, complaints):
        page.wait_for_selector("#camera:visible")
        page.select_option("#camera", "*")
        wait_until(lambda: page.locator("#grid figure").count() == 2)
        wait_until(lambda: abs(page.evaluate(shade, "yard") - 40) < 6 and abs(page.evaluate(shade, "gate") - 200) < 6)
        badges = "#grid figcaption .state"
        wait_until(lambda: page.locator(badges).all_text_contents() == ["live", "reconnecting"])
        page.reload(wait_until="domcontentloaded")
        wait_until(lambda: page.locator("#grid figure").count() == 2)
        page.click("#grid [data-camera=gate] button")
        page.wait_for_selector("#single:visible")
        assert page.input_value("#camera") == "gate"
        assert not page.is_visible("#grid")
        assert [text for text in complaints if "getImageData" not in text] == []


def test_login_is_asked_for_and_remembered_over_a_restart(
    browser: Any, make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    access = WebConfig(users={"ada": hash_password("geheim")})
    guarded: dict[str, Any] = {"access": access, "settings": {"web": {"users": {"ada": "***"}}}}
    with two_cameras(make_result, **guarded) as (web, _):
        port = int(web.url.rpartition(":")[2].strip("/"))
        with opened(browser, web.url + "?camera=gate") as (page, complaints):
            page.wait_for_selector("#login")
            assert page.title() == "Log in · edge detector"
            page.fill("#user", "ada")
            page.fill("#password", "falsch")
            page.keyboard.press("Enter")
            page.wait_for_selector("#error:visible")
            assert page.inner_text("#error") == "Wrong user or password."
            page.fill("#password", "geheim")
            page.keyboard.press("Enter")
            page.wait_for_selector("#state")
            assert page.url.endswith("/?camera=gate")  # where one wanted to be
            wait_until(lambda: page.get_attribute("#picture", "data-size") == "160x120")
            web.close()
            page.wait_for_selector("#state[data-state=offline]")
            with two_cameras(make_result, port=port, **guarded):
                page.select_option("#camera", "yard")
                page.wait_for_selector("#state[data-state=live]", timeout=15000)
                complaints.clear()
                page.click("#logout")
                page.wait_for_selector("#login")
                assert [text for text in complaints if "/api/" not in text] == []  # those were cut off by leaving


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.example/x",
        "https://evil.example/",
        "javascript:alert(1)",
        "\\\\evil.example",
        "/.//evil.example",
        "http://",
    ],
)
def test_login_leads_to_no_other_server(
    browser: Any, make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    with (
        two_cameras(make_result, access=WebConfig(users={"ada": hash_password("geheim")})) as (web, _),
        opened(browser, f"{web.url}login?next={quote(wanted)}") as (page, _),
    ):
        page.fill("#user", "ada")
        page.fill("#password", "geheim")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/login" not in url, wait_until="commit")
        assert page.url.startswith(web.url)


def test_clip_is_recorded_and_saved(browser: Any, make_result: MakeResult, tmp_path: Path) -> None:
    with two_cameras(make_result) as (web, _), opened(browser, web.url) as (page, complaints):
        wait_until(lambda: page.get_attribute("#picture", "data-size") == "160x120")
        page.click("#record")
        page.wait_for_timeout(2500)
        with page.expect_download() as saved:
            page.click("#record")
        clip = tmp_path / saved.value.suggested_filename
        saved.value.save_as(clip)
        reader = cv2.VideoCapture(str(clip))
        frames = sum(1 for _ in iter(lambda: reader.read()[0], False))
        assert frames > 10
        assert complaints == []


def test_events_are_listed_with_their_pictures(browser: Any, make_result: MakeResult) -> None:
    state = ObjectState(
        id="yard-1",
        camera="yard",
        track_id=1,
        label="person",
        score=0.7,
        top_score=0.9,
        box=(1.0, 1.0, 9.0, 9.0),
        box_norm=(0.1, 0.1, 0.5, 0.5),
        start_ts=time.time() - 20,
        seen_ts=time.time(),
        duration_s=20.0,
        entered_zones=("door",),
    )
    store = EventStore()
    store.write([Event("new", state, np.full((16, 24, 3), 90, np.uint8))])
    with two_cameras(make_result, events=store) as (web, _), opened(browser, web.url) as (page, complaints):
        page.wait_for_selector("#events li")
        assert page.inner_text("#events b") == "person"
        assert page.inner_text("#events small").endswith("here now · yard · door")
        wait_until(lambda: page.evaluate("document.querySelector('#events img').naturalWidth") == 24)
        assert complaints == []
    store.finish()


def test_everything_is_named_for_those_who_do_not_see_it(browser: Any, make_result: MakeResult) -> None:
    """All that can be operated is reached by keyboard and has a name; pictures have a text."""
    unnamed = """() => [...document.querySelectorAll("button, a, select, input, canvas[role=img], video, img")]
      .filter((one) => one.checkVisibility() && one.getAttribute("aria-hidden") !== "true")
      .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length || one.hasAttribute("alt")))
      .map((one) => one.outerHTML)"""
    with two_cameras(make_result) as (web, _), opened(browser, web.url) as (page, _):
        wait_until(lambda: page.inner_text("#count") == "1")
        assert page.evaluate(unnamed) == []
        wait_until(lambda: page.get_attribute("#picture", "aria-label") == "Live picture: person")
        reached = set()
        for _ in range(20):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert {"camera", "mode", "pause", "record", "snapshot", "fullscreen"} <= reached


def test_late_answer_about_another_camera_is_not_shown(browser: Any, make_result: MakeResult) -> None:
    with two_cameras(make_result) as (web, _), opened(browser, web.url) as (page, _):
        page.wait_for_selector("#camera:visible")

        def late(route: Any) -> None:
            answer = route.fetch()
            time.sleep(0.4)
            route.fulfill(response=answer)

        page.route("**/api/status*", late)
        with page.expect_request("**/api/status*"):
            pass
        page.select_option("#camera", "gate")
        for _ in range(20):
            assert page.input_value("#camera") == "gate"
            page.wait_for_timeout(50)
        wait_until(lambda: page.inner_text("#state") == "reconnecting")
        page.unroute_all(behavior="wait")


def test_old_browsers_ask_about_the_chosen_camera_too(browser: Any, make_result: MakeResult) -> None:
    with two_cameras(make_result) as (web, _):
        context = browser.new_context()
        context.add_init_script("delete URLSearchParams.prototype.size")
        page = context.new_page()
        page.goto(web.url + "?camera=gate", wait_until="domcontentloaded")
        page.wait_for_selector("#camera:visible")
        assert page.input_value("#camera") == "gate"
        assert page.get_attribute("#snapshot", "href") == "/snapshot.jpg?camera=gate"
        context.close()


def test_unknown_camera_of_a_bookmark_leads_to_the_first(browser: Any, make_result: MakeResult) -> None:
    with two_cameras(make_result) as (web, _), opened(browser, web.url + "?camera=attic") as (page, _):
        page.wait_for_selector("#state[data-state=live]")
        assert page.input_value("#camera") == "yard"


def test_page_goes_on_when_the_cameras_have_changed(browser: Any, web: WebPublisher, make_result: MakeResult) -> None:
    port = int(web.url.rpartition(":")[2].strip("/"))
    web.close()
    with (
        two_cameras(make_result, port=port) as (first, _),
        opened(browser, first.url + "?camera=*") as (page, _),
    ):
        wait_until(lambda: page.locator("#grid figure").count() == 2)
        first.close()
        page.wait_for_selector("#state[data-state=offline]")
        again = WebPublisher(OverlayRenderer(LABELS), LABELS, "tiny", port=port, cameras=("yard", "shed"))
        with closing(again):
            again.publish(replace(make_result(), camera="yard"))
            names = "#grid figcaption b"
            wait_until(lambda: page.locator(names).all_text_contents() == ["yard", "shed"], timeout_s=15)
            page.wait_for_selector("#state[data-state=live]")


def test_page_works_where_nothing_may_be_stored(browser: Any, make_result: MakeResult) -> None:
    with two_cameras(make_result) as (web, _):
        context = browser.new_context()
        context.add_init_script("""Object.defineProperty(window, "localStorage", {
          get() { throw new DOMException("denied", "SecurityError"); }
        })""")
        page = context.new_page()
        page.goto(web.url, wait_until="domcontentloaded")
        page.wait_for_selector("#state[data-state=live]")
        page.select_option("#mode", "plain")
        context.close()


def test_video_is_shown_and_comes_back_after_a_restart(browser: Any, make_result: MakeResult) -> None:
    pytest.importorskip("aiortc", reason="needs aiortc")
    from edge_detector.publishers.live_video import LiveVideo
    from edge_detector.stream_config import StreamConfig

    overlay = OverlayRenderer(LABELS)
    video = LiveVideo("yard", overlay, StreamConfig(encoder="libx264"))
    given: dict[str, Any] = {"videos": {"yard": video}, "settings": {"stream": {"webrtc": True}}}
    stop = threading.Event()

    def film() -> None:
        while not stop.wait(0.05):
            video.publish(replace(make_result([], size_wh=(320, 240)), camera="yard"))

    thread = threading.Thread(target=film)
    thread.start()
    shown = "document.getElementById('video').videoWidth"
    try:
        with two_cameras(make_result, **given) as (web, _), opened(browser, web.url) as (page, _):
            port = int(web.url.rpartition(":")[2].strip("/"))
            page.wait_for_selector("#mode option[value=video]", state="attached")
            page.select_option("#mode", "video")
            wait_until(lambda: page.evaluate(shown) == 320)
            assert web._pages.whep.peers == 1
            web.close()
            page.wait_for_selector("#state[data-state=offline]")
            with two_cameras(make_result, port=port, **given) as (again, _):
                wait_until(lambda: page.evaluate(shown) == 320 and again._pages.whep.peers == 1, timeout_s=20)
                assert page.input_value("#mode") == "video"
                page.select_option("#mode", "sharp")
                wait_until(lambda: again._pages.whep.peers == 0)
    finally:
        stop.set()
        thread.join()
        video.close()
