from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_detector.frame import FrameResult
from edge_detector.publishers.web.hub import FrameHub, HubClosed, Look

MakeResult = Callable[..., FrameResult]


class GatedEncoder:
    """Encodes a result to its frame number, while `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.encoded: list[int] = []

    def __call__(self, result: FrameResult, _: Look) -> bytes:
        assert self.gate.wait(10)
        self.encoded.append(result.frame.frame_id)
        return str(result.frame.frame_id).encode()


def test_nothing_is_encoded_until_somebody_asks(make_result: MakeResult) -> None:
    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            encoder = GatedEncoder()
            hub = FrameHub(encoder, executor)
            for frame_id in range(5):
                hub.announce(make_result(frame_id=frame_id))
            await asyncio.sleep(0.02)
            assert encoder.encoded == []
            assert (await hub.picture()).jpeg == b"4"
            assert encoder.encoded == [4]

    asyncio.run(scene())


def test_many_viewers_share_one_encode_and_the_next_waits_for_a_newer_frame(make_result: MakeResult) -> None:
    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            encoder = GatedEncoder()
            hub = FrameHub(encoder, executor)
            waiting = [asyncio.create_task(hub.picture()) for _ in range(10)]
            await asyncio.sleep(0)
            hub.announce(make_result(frame_id=7))
            pictures = await asyncio.gather(*waiting)
            assert {picture.jpeg for picture in pictures} == {b"7"}
            later = asyncio.create_task(hub.picture(after=pictures[0].serial))
            await asyncio.sleep(0.02)
            assert not later.done()
            hub.announce(make_result(frame_id=8))
            assert (await later).jpeg == b"8"
            assert encoder.encoded == [7, 8]

    asyncio.run(scene())


def test_frames_that_come_while_one_is_encoded_are_skipped_but_the_newest(make_result: MakeResult) -> None:
    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            encoder = GatedEncoder()
            encoder.gate.clear()
            hub = FrameHub(encoder, executor)
            hub.announce(make_result(frame_id=0))
            first = asyncio.create_task(hub.picture())
            await asyncio.sleep(0)
            for frame_id in range(1, 6):
                hub.announce(make_result(frame_id=frame_id))
            second = asyncio.create_task(hub.picture())
            await asyncio.sleep(0)
            encoder.gate.set()
            assert (await first).serial == (await second).serial == 1
            assert (await hub.picture(after=1)).jpeg == b"5"
            assert encoder.encoded == [0, 5]

    asyncio.run(scene())


def test_viewer_who_leaves_does_not_take_the_picture_from_the_others(make_result: MakeResult) -> None:
    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            encoder = GatedEncoder()
            encoder.gate.clear()
            hub = FrameHub(encoder, executor)
            hub.announce(make_result(frame_id=3))
            leaver, stayer = (asyncio.create_task(hub.picture()) for _ in range(2))
            await asyncio.sleep(0.01)
            leaver.cancel()
            await asyncio.sleep(0)
            encoder.gate.set()
            assert (await stayer).jpeg == b"3"
            assert leaver.cancelled()

    asyncio.run(scene())


def test_close_sends_those_who_wait_away() -> None:
    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            hub = FrameHub(GatedEncoder(), executor)
            waiting = asyncio.create_task(hub.picture())
            await asyncio.sleep(0)
            hub.close()
            with pytest.raises(HubClosed):
                await waiting

    asyncio.run(scene())


def test_failed_encode_reaches_the_viewer_and_the_next_frame_is_encoded_again(make_result: MakeResult) -> None:
    def encode(result: FrameResult, _: Look) -> bytes:
        if result.frame.frame_id == 0:
            raise ValueError("too large")
        return b"fine"

    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            hub = FrameHub(encode, executor)
            hub.announce(make_result(frame_id=0))
            with pytest.raises(ValueError, match="too large"):
                await hub.picture()
            hub.announce(make_result(frame_id=1))
            assert (await hub.picture()).jpeg == b"fine"

    asyncio.run(scene())


def test_no_result_is_missed_that_another_thread_announces_just_as_somebody_begins_to_wait(
    make_result: MakeResult,
) -> None:
    turns, taken = 1000, threading.Semaphore(1)
    result = make_result()

    async def scene() -> None:
        with ThreadPoolExecutor(2) as executor:
            hub = FrameHub(GatedEncoder(), executor)

            def announce_all() -> None:
                for _ in range(turns):
                    assert taken.acquire(timeout=10)
                    hub.announce(result)

            announcing = asyncio.get_running_loop().run_in_executor(executor, announce_all)
            serial = 0
            while serial < turns:
                serial, _ = await asyncio.wait_for(hub.newest(serial), 10)
                taken.release()
            await announcing

    asyncio.run(scene())


def test_results_that_nobody_waits_for_do_not_wake_the_loop(make_result: MakeResult) -> None:
    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            hub = FrameHub(GatedEncoder(), executor)
            hub.announce(make_result())
            await hub.newest()
            loop = asyncio.get_running_loop()
            calls: list[object] = []
            tell, loop.call_soon_threadsafe = loop.call_soon_threadsafe, calls.append  # type: ignore[method-assign,assignment]
            try:
                hub.announce(make_result())
                hub.announce(make_result())
                assert calls == []
                waiting = asyncio.create_task(hub.newest(3))
                await asyncio.sleep(0)
                hub.announce(make_result())
                hub.announce(make_result())
                assert len(calls) == 1
            finally:
                loop.call_soon_threadsafe = tell  # type: ignore[method-assign]
            loop.call_soon(calls[0])  # type: ignore[arg-type]
            assert (await waiting)[0] == 5

    asyncio.run(scene())
