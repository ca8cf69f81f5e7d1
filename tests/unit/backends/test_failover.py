"""From the accelerator to the CPU and back, with a real delegate that fails, hangs and crashes on command."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_detector.backends import Backend, DeviceOptions
from edge_detector.backends.edgetpu import EdgeTpuBackend, Interrupted
from edge_detector.backends.failover import FailoverBackend, open_device
from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ConfigError, DelegateError, ModelError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODEL = FIXTURES / "raw_heads_int8.tflite"


@pytest.fixture(autouse=True)
def nothing_stays(open_fds: Callable[[], list[str]], children: Callable[[], set[int]]) -> Iterator[None]:
    """Check that no test leaves a process (zombies too), a thread or a file descriptor."""
    before = open_fds(), children(), threading.active_count()
    yield
    assert (open_fds(), children(), threading.active_count()) == before


@pytest.fixture
def failover(delegate: Any) -> Iterator[Callable[..., FailoverBackend]]:
    """Return a function that opens a FailoverBackend on the delegate; `opened` counts what it has opened."""
    backends: list[FailoverBackend] = []

    def make(twin: Path = MODEL, opened: list[str] | None = None, **options: Any) -> FailoverBackend:
        def primary(stopped: Callable[[], bool]) -> Backend:
            (opened if opened is not None else []).append("primary")
            return EdgeTpuBackend(
                MODEL,
                library=str(delegate.library),
                num_threads=1,
                start_timeout_s=1.0,
                invoke_timeout_s=0.4,
                stopped=stopped,
            )

        def cpu() -> Backend:
            (opened if opened is not None else []).append("twin")
            return TfliteBackend(twin, 1)

        backends.append(FailoverBackend(primary, cpu, **({"retry_s": 0.2, "retry_max_s": 5.0} | options)))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()


@pytest.mark.parametrize("action", ["fail", "segfault", "abort", "hang"])
def test_frame_at_which_the_device_fails_is_answered_and_the_device_is_used_again(
    delegate: Any, failover: Any, make_tensor: Any, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    opened: list[str] = []
    backend = failover(opened=opened, wanted="edgetpu:usb")
    tensor, cpu = make_tensor(backend), TfliteBackend(MODEL, 1)
    wanted = cpu.infer(tensor)
    cpu.close()

    def infer() -> None:
        for name, output in backend.infer(tensor).items():
            np.testing.assert_array_equal(output.values, wanted[name].values)

    infer()
    health = backend.health
    assert (health.wanted, health.running, health.state) == ("edgetpu:usb", "edgetpu:usb", "ok")
    assert (health.failures, health.error) == (0, None)
    assert opened == ["primary"], "the twin is opened when it is needed"
    delegate.command(f"invoke {action}")
    infer()
    assert (backend.name, backend.health.running, backend.health.state) == (cpu.name, "cpu", "fallback")
    assert backend.health.failures == 1
    assert "fault_delegate.so" in backend.health.error
    wait_for(lambda: backend.health.failures >= 3, infer)
    delegate.command()
    wait_for(lambda: backend.health.state == "ok", infer)
    assert (backend.health.running, backend.health.error) == ("edgetpu:usb", None)
    assert backend.name.endswith("Edge TPU")
    runs = len(delegate.record("invoke"))
    infer()
    assert len(delegate.record("invoke")) == runs + 1
    assert opened.count("twin") == 1
    levels = [record.levelname for record in caplog.records if record.name.startswith("edge_detector")]
    assert levels == ["WARNING", "INFO"], caplog.text
    assert caplog.messages[-1] == f"edgetpu:usb is back: {backend.name}"


@pytest.mark.parametrize("command", ["create fail", "create segfault", "prepare fail", "invoke segfault"])
def test_device_absent_at_the_start_is_used_once_it_is_there(
    delegate: Any, failover: Any, make_tensor: Any, command: str
) -> None:
    delegate.command(command)
    backend = failover()
    assert (backend.health.running, backend.health.state, backend.health.failures) == ("cpu", "fallback", 1)
    tensor = make_tensor(backend)
    backend.infer(tensor)
    delegate.command()
    wait_for(lambda: backend.health.state == "ok", lambda: backend.infer(tensor))


def test_device_is_tried_again_once_there_is_room_for_a_thread(
    delegate: Any, failover: Any, make_tensor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # as Python says it

    delegate.command("create fail")
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", no_room)
        backend = failover()
        tensor = make_tensor(backend)
        for _ in range(2):
            backend.infer(tensor)
    delegate.command()
    wait_for(lambda: backend.health.state == "ok", lambda: backend.infer(tensor))


def test_without_fallback_the_error_is_raised(delegate: Any, failover: Any, make_tensor: Any) -> None:
    opened: list[str] = []
    backend = failover(fallback=False, opened=opened)
    delegate.command("invoke segfault")
    for _ in range(2):
        with pytest.raises(DelegateError, match="SIGSEGV"):
            backend.infer(make_tensor(backend))
    assert "SIGSEGV" in backend.health.error
    delegate.command("create fail")
    with pytest.raises(DelegateError, match="told to refuse"):
        failover(fallback=False, opened=opened)
    assert opened == ["primary", "primary"]


def test_pauses_double_and_start_anew_only_after_a_healthy_time(
    delegate: Any, failover: Any, make_tensor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "edge_detector.backends.failover")
    delegate.command("create fail")
    backend = failover(retry_s=0.1, retry_max_s=0.3, healthy_s=0.5)
    tensor = make_tensor(backend)

    def pauses() -> list[float]:
        texts = [message.partition("next try in ")[2] for message in caplog.messages if "next try" in message]
        return [float(text.removesuffix(" s")) for text in texts]

    wait_for(lambda: len(pauses()) >= 4)
    for pause, mean in zip(pauses(), (0.2, 0.3, 0.3, 0.3), strict=False):
        assert 0.74 * mean - 0.05 <= pause <= 1.26 * mean + 0.05
    delegate.command()
    wait_for(lambda: backend.health.state == "ok", lambda: backend.infer(tensor))
    delegate.command("invoke fail")
    backend.infer(tensor)
    assert backend._attempts > 3, "it has failed at once again"
    delegate.command()
    wait_for(lambda: backend.health.state == "ok", lambda: backend.infer(tensor))
    time.sleep(0.6)
    delegate.command("invoke fail")
    backend.infer(tensor)
    assert backend._attempts <= 1


@pytest.mark.parametrize("command", ["create hang", "invoke hang"])
def test_closing_ends_an_attempt_under_way(delegate: Any, failover: Any, make_tensor: Any, command: str) -> None:
    backend = failover(retry_s=0.01)
    delegate.command("invoke segfault")
    backend.infer(make_tensor(backend))
    seen = len(delegate.record("create"))
    delegate.command(command)
    wait_for(lambda: backend.health.state == "retrying" and len(delegate.record("create")) > seen)
    started_s = time.monotonic()
    backend.close()
    assert time.monotonic() - started_s < 0.5
    with pytest.raises(ModelError, match="closed"):
        backend.infer(make_tensor(backend))


def test_closing_from_another_thread_ends_a_hanging_inference(
    delegate: Any, failover: Any, make_tensor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend = failover()
    delegate.command("invoke hang")
    errors: list[str] = []

    def run() -> None:
        try:
            backend.infer(make_tensor(backend))
        except DelegateError as error:
            errors.append(type(error).__name__)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.2)
    started_s = time.monotonic()
    backend.close()
    assert time.monotonic() - started_s < 0.5
    thread.join(0.5)
    assert errors == ["Interrupted"]
    assert caplog.messages == [], "nothing is wrong with the device"


def test_start_is_given_up_when_the_program_stops(delegate: Any, failover: Any) -> None:
    delegate.command("create hang")
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    with pytest.raises(Interrupted):
        failover(stopped=stop.is_set)
    timer.join()


def test_closing_in_the_middle_of_everything_leaves_nothing(delegate: Any, failover: Any, make_tensor: Any) -> None:
    commands = ["", "create segfault", "invoke segfault", "invoke hang", "create hang"]
    for round_number in range(10):
        delegate.command()
        backend = failover(retry_s=0.02)
        tensor = make_tensor(backend)
        errors: list[str] = []

        def run(backend: Any = backend, tensor: Any = tensor, errors: list[str] = errors) -> None:
            try:
                while True:
                    backend.infer(tensor)
            except (ModelError, Interrupted) as error:
                errors.append(type(error).__name__)

        thread = threading.Thread(target=run)
        thread.start()
        delegate.command(commands[round_number % len(commands)])
        time.sleep(0.05 * round_number)
        started_s = time.monotonic()
        backend.close()
        assert time.monotonic() - started_s < 0.6
        thread.join(1)
        assert len(errors) == 1


def test_different_models_are_told_apart(delegate: Any, failover: Any, make_tensor: Any) -> None:
    backend = failover(twin=FIXTURES / "od_api_tiny_int8.tflite")
    delegate.command("invoke fail")
    with pytest.raises(
        ModelError, match=r"input is float32 \[1, 64, 64, 3\] in one and int8 \[1, 640, 640, 3\], scale"
    ):
        backend.infer(make_tensor(backend))
    delegate.command()
    backend = failover(twin=FIXTURES / "raw_heads.tflite")
    tensor = make_tensor(backend)
    backend.infer(tensor)
    delegate.command("invoke fail")
    with pytest.raises(
        ModelError, match=r"classes_int8 is int8 \[1, 516, 2\], scale 0.0625, zero point 3 in one and abs"
    ):
        backend.infer(tensor)


class TestOpenDevice:
    @pytest.fixture
    def pair(self, compiled: Any, tmp_path: Path) -> Path:
        """Return the model for the CPU; beside it lies the one for the delegate, which no CPU runs."""
        shutil.copy(MODEL, tmp_path / "heads.tflite")
        compiled(MODEL, tmp_path / "heads_edgetpu.tflite")
        return tmp_path / "heads.tflite"

    def open(self, delegate: Any, model: Path, stop: threading.Event | None = None, **options: Any) -> Backend:
        return open_device(model, DeviceOptions(library=str(delegate.library), **options), 1, stop=stop)

    def test_pair_runs_on_the_device_then_on_the_cpu(self, delegate: Any, pair: Path, make_tensor: Any) -> None:
        backend = self.open(delegate, pair, device="edgetpu:usb:0")
        tensor = make_tensor(backend)
        first = backend.infer(tensor)
        assert backend.name.endswith("Edge TPU usb:0")
        assert delegate.record("create")[0].endswith("device=usb:0")
        delegate.command("invoke segfault")
        second = backend.infer(tensor)
        assert (backend.health.wanted, backend.health.running) == ("edgetpu:usb:0", "cpu")
        for name, output in first.items():
            np.testing.assert_array_equal(second[name].values, output.values)
        backend.close()

    def test_auto_takes_the_device_if_there_is_a_model_for_it(self, delegate: Any, pair: Path) -> None:
        backend = self.open(delegate, pair, device="auto")
        assert (backend.health.wanted, backend.health.running) == ("edgetpu", "edgetpu")
        backend.close()
        delegate.command("create fail")
        backend = self.open(delegate, pair, device="auto", fallback=False)
        assert backend.health.running == "cpu", "auto never insists"
        backend.close()
        pair.with_name("heads_edgetpu.tflite").unlink()
        backend = self.open(delegate, pair, device="auto")
        assert isinstance(backend, TfliteBackend)
        backend.close()

    def test_cpu_does_not_touch_the_device(self, delegate: Any, pair: Path) -> None:
        backend = self.open(delegate, pair, device="cpu")
        assert isinstance(backend, TfliteBackend)
        assert delegate.record("create") == []
        backend.close()

    def test_files_that_are_no_pair_are_refused_before_anything_runs(
        self, delegate: Any, pair: Path, compiled: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(ModelError, match=r"absent\.tflite: no such file; compile heads\.tflite"):
            self.open(delegate, pair, device="edgetpu", edgetpu_model=tmp_path / "absent.tflite")
        with pytest.raises(ModelError, match="is not compiled for an Edge TPU"):
            self.open(delegate, pair, device="edgetpu", edgetpu_model=MODEL)
        other = compiled(FIXTURES / "raw_heads.tflite", tmp_path / "other_edgetpu.tflite")
        with pytest.raises(ModelError, match=r"differ: classes_int8 is int8.* and absent in the other"):
            self.open(delegate, pair, device="edgetpu", edgetpu_model=other)
        with pytest.raises(ConfigError, match="choose cpu"):
            self.open(delegate, pair, device="gpu")
        assert delegate.record("create") == []

    def test_start_is_given_up_when_the_program_stops(self, delegate: Any, pair: Path) -> None:
        delegate.command("create hang")
        stop = threading.Event()
        timer = threading.Timer(0.3, stop.set)
        timer.start()
        with pytest.raises(Interrupted):
            self.open(delegate, pair, device="edgetpu", stop=stop)
        timer.join()


def wait_for(
    condition: Callable[[], Any], meanwhile: Callable[[], Any] = lambda: None, timeout_s: float = 15.0
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        meanwhile()
        time.sleep(0.01)
