"""What a recording costs per picture, idle and while it records: python tests/integration/recording.py."""

from __future__ import annotations

import tempfile
import time

import cv2
import numpy as np

from edge_detector.assets import DEMO_CLIP
from edge_detector.detections import Detections
from edge_detector.events import Event, ObjectState
from edge_detector.frame import Frame, FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.clip import Clip
from edge_detector.publishers.recorder import Recorder, open_clips
from edge_detector.sink_config import RecordingsConfig

SIZE_WH, FPS = (1280, 720), 10
IDLE, CATCHING_UP, RECORDED = 200, 60, 400  # pictures
WALL_TS = 1.7e9


class Camera:
    """Gives a recorder the demo clip, enlarged, with two boxes in each picture."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        reader = cv2.VideoCapture(str(DEMO_CLIP))
        pictures = [reader.read()[1] for _ in range(60)]
        self._pictures = [cv2.cvtColor(cv2.resize(one, SIZE_WH), cv2.COLOR_BGR2RGB) for one in pictures]
        boxes = np.array([[200, 200, 300, 400], [500, 100, 600, 350]], np.float32)
        self._found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), np.array([1, 2]))
        self._began_s = time.monotonic() + 1000  # so that no clip is over while this runs
        self.taken = 0

    def show(self, count: int) -> str:
        """Give so many pictures, and return what each took."""
        took_ms = []
        for _ in range(count):
            at_s, image = self.taken / FPS, self._pictures[self.taken % len(self._pictures)]
            frame = Frame(image.astype(np.uint8, copy=False), self.taken, self._began_s + at_s, WALL_TS + at_s, "demo")
            result = FrameResult(frame, self._found, self._began_s + at_s, camera="front")
            start_s = time.perf_counter()
            self._recorder.write(result)
            took_ms.append(1000 * (time.perf_counter() - start_s))
            self.taken += 1
        median, p95 = np.percentile(took_ms, [50, 95])
        return f"{median:.1f} ms per picture, p95 {p95:.1f}"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        settings = RecordingsConfig(path=folder)
        clips = open_clips(settings)
        recorder = Recorder(settings, ("person",), OverlayRenderer(("person",)), clips, Clip)
        camera = Camera(recorder)
        print(f"nobody there: {camera.show(IDLE)}")
        whole, now_ts = (0.0, 0.0, 1.0, 1.0), WALL_TS + camera.taken / FPS
        recorder.write_event(
            Event("new", ObjectState("o", "front", 1, "person", 0.9, 0.9, whole, whole, now_ts, now_ts))
        )
        print(f"catching up with what came before: {camera.show(CATCHING_UP)}")
        print(f"recording: {camera.show(RECORDED)}")
        recorder.finish(True)
        shapes = clips.list_clips()
        seconds = sum(shape["end_ts"] - shape["start_ts"] for shape in shapes)
        print(f"{sum(shape['bytes'] for shape in shapes) * 8 / 1000 / seconds:.0f} kbit/s over {seconds:.0f} s")


if __name__ == "__main__":
    main()
