"""LiveVideo: the annotated picture of a camera as H.264, encoded once for all who take it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_detector.abandoned import leave_behind
from edge_detector.errors import PublishError
from edge_detector.frame import FrameResult
from edge_detector.overlay import OverlayRenderer
from edge_detector.publishers.h264 import H264Encoder, VideoPacket, import_av
from edge_detector.resize import resize
from edge_detector.runtime.metrics import SinkStatus, sink_status
from edge_detector.stream_config import StreamConfig

logger = logging.getLogger(__name__)

Callback = Callable[[VideoPacket], None]

KEYFRAME_S = 2.0  # from one keyframe to the next, so that who lost something sees again
SOONEST_S = 0.4  # between keyframes that are asked for: they are large, and all takers get them
RETRY_S = 5.0  # after the encoder failed
EARLY = 0.25  # of a period: a camera of the same rate is never quite on time
CLOSE_S = 0.5


@dataclass(eq=False, slots=True)
class _Taker:
    callback: Callback
    started: bool = False  # it has had a keyframe


class LiveVideo:
    """A `Publisher` that draws, scales and encodes on a thread of its own, and only while somebody has subscribed.

    `publish` returns at once: the newest result wins. `encoded` counts pictures. A failing encoder is tried again.

    Raises:
        ConfigError: PyAV is not installed.
    """

    def __init__(self, camera: str, overlay: OverlayRenderer, settings: StreamConfig) -> None:
        import_av()
        self.name = f"live video of {camera}"
        self.encoded = 0
        self._overlay = overlay
        self._settings = settings
        self._period_s = 1 / settings.fps
        self._changed = threading.Condition()  # guards all down to the thread
        self._newest: FrameResult | None = None
        self._waiting: FrameResult | None = None  # to be encoded
        self._due_s = -math.inf
        self._takers: list[_Taker] = []
        self._keyframe_wanted = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"publish {self.name}", daemon=True)
        self._encoder: H264Encoder | None = None  # of the thread alone, as what follows
        self._size_wh = (0, 0)
        self._keyframe_s = -math.inf
        self._failed_s = -math.inf
        self._failing: tuple[float, Exception] | None = None  # since when, and how last
        self._failed = 0
        self._busy_since: float | None = None
        self._dropped = 0  # pictures that the encoder was too slow for
        self._encoder_name: str = settings.encoder
        self._thread.start()

    @property
    def takers(self) -> int:
        """How many have subscribed."""
        return len(self._takers)

    def publish(self, result: FrameResult) -> None:
        """Make `result` the newest.

        Raises:
            PublishError: it is closed.
        """
        with self._changed:
            if self._closed:
                raise PublishError(f"{self.name} is closed")
            self._newest = result
            now_s = time.monotonic()
            if self._takers and now_s >= self._due_s - EARLY * self._period_s:
                late_s = now_s - self._due_s
                self._due_s = (self._due_s if late_s < self._period_s else now_s) + self._period_s
                self._dropped += self._waiting is not None
                self._waiting = result
                self._changed.notify()

    def status(self) -> SinkStatus:
        """Return how the encoder is; from any thread."""
        return sink_status(
            failing=self._failing,
            busy_since=self._busy_since,
            queued=int(self._waiting is not None),
            dropped=self._dropped,
            failed=self._failed,
            written=self.encoded,
        )

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Have `callback` called with every packet from the next keyframe on; return what ends that.

        It is called on the thread that encodes, and must return at once; one that fails is not called again.
        """
        taker = _Taker(callback)
        with self._changed:
            self._takers.append(taker)
        self.request_keyframe()
        return lambda: self._remove(taker)

    def request_keyframe(self) -> None:
        """Let one of the next pictures be a keyframe, if need be the newest again; from any thread."""
        with self._changed:
            self._keyframe_wanted = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread; safe to call twice. One that hangs in the encoder is left behind."""
        with self._changed:
            self._closed = True
            self._takers.clear()
            self._changed.notify()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            leave_behind(self._thread)
            logger.warning("%s hangs in the encoder and is left behind", self.name)

    def _remove(self, taker: _Taker) -> None:
        with self._changed:
            if taker in self._takers:
                self._takers.remove(taker)
                self._changed.notify()

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                result = self._next()
                keyframe = self._keyframe_is_due()
            if not self._takers:
                self._encoder = None
            elif result is not None:
                self._try(result, keyframe)
        self._encoder = None

    def _next(self) -> FrameResult | None:
        """Wait for something to do; return what to encode, None where something else has changed."""
        while not self._closed:
            pause_s: float | None = None
            if not self._takers:
                self._waiting = None
                if self._encoder is not None:
                    return None
            elif self._waiting is not None or (self._keyframe_wanted and self._newest is not None):
                ready_s = self._failed_s + RETRY_S
                if self._waiting is None:  # the newest picture again: only for its keyframe
                    ready_s = max(ready_s, self._keyframe_s + SOONEST_S)
                pause_s = ready_s - time.monotonic()
                if pause_s <= 0:
                    result, self._waiting = self._waiting or self._newest, None
                    return result
            self._changed.wait(pause_s)
        return None

    def _keyframe_is_due(self) -> bool:
        return time.monotonic() - self._keyframe_s >= (SOONEST_S if self._keyframe_wanted else KEYFRAME_S)

    def _try(self, result: FrameResult, keyframe: bool) -> None:
        self._busy_since = time.monotonic()
        try:
            packets = self._encode(result, keyframe)
        except Exception as error:  # noqa: BLE001 - whatever a driver does: video is not what the service is for
            self._encoder = None
            self._failed_s = time.monotonic()
            self._failed += 1
            if self._encoder_name == "auto":  # hardware that works at first and then fails is not taken again
                self._encoder_name = "libx264"
            if self._failing is None:
                logger.warning("%s: %s; it is tried again every %g s", self.name, error, RETRY_S)
            self._failing = (self._failed_s if self._failing is None else self._failing[0]), error
            return
        finally:
            self._busy_since = None
        if self._failing is not None:
            self._failing = None
            logger.info("%s works again", self.name)
        for packet in packets:
            self._hand_out(packet)

    def _encode(self, result: FrameResult, keyframe: bool) -> list[VideoPacket]:
        image = self._overlay.draw(_scaled_down(result, self._settings.max_width))
        size_wh = image.shape[1], image.shape[0]
        settings = self._settings
        if self._encoder is None or size_wh != self._size_wh:
            self._encoder = None  # a device may have only one
            self._encoder = H264Encoder(size_wh, settings.fps, settings.bitrate_kbps, self._encoder_name)
            self._size_wh = size_wh
            keyframe = True
            logger.info("%s: %dx%d by %s", self.name, *size_wh, self._encoder.name)
        if keyframe:
            self._keyframe_wanted = False
            self._keyframe_s = time.monotonic()
        # The time of encoding, not of the camera: a receiver buffers for what varies between the two.
        packets = self._encoder.encode(image, time.monotonic(), keyframe)
        self.encoded += 1
        return packets

    def _hand_out(self, packet: VideoPacket) -> None:
        with self._changed:
            takers = list(self._takers)
        for taker in takers:
            taker.started = taker.started or packet.keyframe
            if taker.started:
                try:
                    taker.callback(packet)
                except Exception:
                    logger.exception("%s: a taker failed and gets no more", self.name)
                    self._remove(taker)


def _scaled_down(result: FrameResult, max_width: int | None) -> FrameResult:
    """Return the result with picture and boxes so wide at most: drawn after that, lines and letters stay sharp."""
    width, height = result.frame.size_wh
    if max_width is None or width <= max_width:
        return result
    scale = max_width / width
    small_wh = max_width, max(2, round(height * scale))
    image = resize(result.frame.image, small_wh)
    detections = replace(result.detections, xyxy=result.detections.xyxy * scale)
    return replace(result, frame=replace(result.frame, image=image), detections=detections)
