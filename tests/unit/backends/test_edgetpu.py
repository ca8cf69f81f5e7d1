"""An accelerator in a child process, with a real delegate that fails, hangs and crashes on command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_detector.backends import edgetpu
from edge_detector.backends.edgetpu import Interrupted, count_left_behind, split_device
from edge_detector.backends.tflite import TfliteBackend
from edge_detector.errors import ConfigError, DelegateError, ModelError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
FAULTS = {  # command -> what the message must say
    "create fail": "open the device reports: .*told to refuse; plug it in",
    "create segfault": "open the device was ended by SIGSEGV; .*built for",
    "create abort": r"was ended by SIGABRT \(F fault_delegate.c: transfer on tag 1 failed. Abort.\)",
    "create exit": "open the device ended with exit status 3",
    "create hang": "open the device has not answered for 1.5 s; plug it in",
    "prepare fail": "load the model reports: .*told to fail in Prepare.*edgetpu_compiler",
    "prepare segfault": "load the model was ended by SIGSEGV",
    "invoke fail": "run the model reports: .*told to fail in invoke.*unplug the device",
    "invoke segfault": "run the model was ended by SIGSEGV",
    "invoke hang": "run the model has not answered for 1.5 s; unplug",
    "invoke stop": "run the model has not answered for 1.5 s; unplug",
}


@pytest.fixture(autouse=True)
def nothing_stays(open_fds: Callable[[], list[str]], children: Callable[[], set[int]]) -> Iterator[None]:
    """Check that no test leaves a process (zombies too), a thread or a file descriptor."""
    before = open_fds(), children(), threading.active_count()
    yield
    assert (open_fds(), children(), threading.active_count()) == before
    assert count_left_behind() == 0


def test_words_for_devices() -> None:
    assert split_device("cpu") == ("cpu", "")
    assert split_device("auto") == ("auto", "")
    assert split_device("edgetpu") == ("edgetpu", "")
    assert split_device("edgetpu:usb") == ("edgetpu", "usb")
    assert split_device("edgetpu:pci:1") == ("edgetpu", "pci:1")
    for word in ("", "tpu", "edgetpu:", "edgetpu:gpu", "edgetpu:usb:x", "usb:0", "cpu:0", "CPU"):
        with pytest.raises(ConfigError, match="choose cpu, edgetpu"):
            split_device(word)


@pytest.mark.parametrize("model", ["od_api_tiny_int8", "raw_heads", "raw_heads_int16", "detection_op"])
def test_delegate_computes_what_the_cpu_does(delegate: Any, runtime: str, model: str, make_tensor: Any) -> None:
    cpu = TfliteBackend(FIXTURES / f"{model}.tflite", 1, runtime)
    backend = delegate.open(model, device="usb:0", runtime=runtime)
    try:
        assert backend.name == cpu.name.replace("1 threads", "Edge TPU usb:0")
        assert (backend.input_shape, backend.input_params) == (cpu.input_shape, cpu.input_params)
        for seed in (1, 2):
            tensor = make_tensor(cpu, seed)
            wanted, found = cpu.infer(tensor), backend.infer(tensor)
            assert list(found) == list(wanted)
            for name, output in wanted.items():
                np.testing.assert_array_equal(found[name].values, output.values)
                assert found[name].values.dtype == output.values.dtype
                assert found[name].params == output.params
    finally:
        backend.close()
    assert [line.partition(" ")[2].partition(" ")[2] for line in delegate.record("create")] == ["device=usb:0"]
    assert int(delegate.record("take")[0].split()[0]) >= 2
    runs = len(delegate.record("invoke"))
    assert runs >= 3
    assert runs % 3 == 0, "the warm-up and two inferences"
    assert len(delegate.record("destroy")) == 1, "a healthy process releases the device"
    assert f"pid={os.getpid()}" not in delegate.record("create")[0]


def test_compiled_model_that_no_cpu_runs_is_run(
    delegate: Any, runtime: str, compiled: Any, tmp_path: Path, make_tensor: Any
) -> None:
    model = compiled(FIXTURES / "raw_heads_int8.tflite", tmp_path / "raw_heads_int8_edgetpu.tflite")
    with pytest.raises(ModelError, match="edgetpu-custom-op"):
        TfliteBackend(model, 1, runtime)
    cpu = TfliteBackend(FIXTURES / "raw_heads_int8.tflite", 1, runtime)
    backend = delegate.open(model, runtime=runtime)
    tensor = make_tensor(cpu)
    found = backend.infer(tensor)
    backend.close()
    for name, output in cpu.infer(tensor).items():
        np.testing.assert_array_equal(found[name].values, output.values)
    assert delegate.record("create")[0].startswith("0 "), "no option without a device"


@pytest.mark.parametrize("command", FAULTS)
def test_fault_at_the_start_is_one_error_that_says_what_to_do(delegate: Any, runtime: str, command: str) -> None:
    delegate.command(command)
    with pytest.raises(DelegateError, match=FAULTS[command]) as caught:
        delegate.open(runtime=runtime, start_timeout_s=1.5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("action", ["fail", "segfault", "abort", "hang"])
def test_fault_in_mid_run_spends_the_backend(delegate: Any, runtime: str, action: str, make_tensor: Any) -> None:
    backend = delegate.open("raw_heads_int8", runtime=runtime, invoke_timeout_s=0.5)
    backend.infer(make_tensor(backend))
    assert (backend.health.running, backend.health.failures, backend.health.error) == ("edgetpu", 0, None)
    delegate.command(f"invoke {action} 3")
    message = {"fail": "told to fail", "segfault": "SIGSEGV", "abort": "SIGABRT.*tag 1", "hang": "not answered"}
    started_s = time.monotonic()
    for _ in range(2):
        with pytest.raises(DelegateError, match=message[action]):
            backend.infer(make_tensor(backend))
    assert time.monotonic() - started_s < 1.0
    assert backend.health.failures == 1
    assert "SIG" in backend.health.error or "run the model" in backend.health.error
    backend.close()
    with pytest.raises(ModelError, match="closed"):
        backend.infer(make_tensor(backend))


def test_missing_and_foreign_libraries_are_named(delegate: Any) -> None:
    with pytest.raises(DelegateError, match=r"load the library reports: .*No such file.*; install libabsent\.so\.1"):
        delegate.open(library="libabsent.so.1")
    with pytest.raises(DelegateError, match=r"open the device reports: .*tflite_plugin_create_delegate"):
        delegate.open(library="libm.so.6")


def test_unusable_files_and_settings_are_told_before_a_process_is_started(delegate: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file"):
        delegate.open(tmp_path / "absent.tflite")
    with pytest.raises(ConfigError, match="num_threads"):
        delegate.open(num_threads=0)
    assert delegate.record("create") == []


def test_contract_of_a_backend(delegate: Any, make_tensor: Any) -> None:
    backend = delegate.open()
    tensor = make_tensor(backend)
    before = tensor.copy()
    first = backend.infer(tensor)
    np.testing.assert_array_equal(tensor, before)
    kept = {name: output.values.copy() for name, output in first.items()}
    backend.infer(make_tensor(backend, 2))
    for name, output in first.items():
        np.testing.assert_array_equal(output.values, kept[name], err_msg="outputs belong to the caller")
        output.values[...] = 7
    for name, output in backend.infer(tensor).items():
        np.testing.assert_array_equal(output.values, kept[name])
    with pytest.raises(ModelError, match=r"takes .*\[1, \d+, \d+, 3\], got .*\[1, \d+, \d+, 2\]"):
        backend.infer(tensor[..., :2])
    with pytest.raises(ModelError, match="got float64"):
        backend.infer(tensor.astype(np.float64))
    backend.close()
    backend.close()
    with pytest.raises(ModelError, match="closed"):
        backend.infer(tensor)


@pytest.mark.parametrize("command", ["create hang", "prepare hang", "invoke hang", "create stop"])
def test_start_is_given_up_when_the_program_stops(delegate: Any, command: str) -> None:
    delegate.command(command)
    stop = threading.Event()
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    started_s = time.monotonic()
    with pytest.raises(Interrupted, match="interrupted"):
        delegate.open(stopped=stop.is_set)
    assert 0.5 <= time.monotonic() - started_s < 0.8
    timer.join()


@pytest.mark.parametrize("by", ["close", "stopped"])
def test_inference_that_hangs_ends_when_another_thread_says_so(delegate: Any, by: str, make_tensor: Any) -> None:
    stop = threading.Event()
    backend = delegate.open("raw_heads_int8", stopped=stop.is_set, invoke_timeout_s=60)
    delegate.command("invoke hang")
    errors: list[Exception] = []

    def run() -> None:
        try:
            backend.infer(make_tensor(backend))
        except DelegateError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    started_s = time.monotonic()
    (backend.close if by == "close" else stop.set)()
    thread.join()
    assert time.monotonic() - started_s < 0.3
    assert [type(error) for error in errors] == [Interrupted]
    backend.close()


def test_process_ignores_the_signals_of_the_group(delegate: Any, children: Any, make_tensor: Any) -> None:
    before = children()
    backend = delegate.open("raw_heads_int8")
    (pid,) = children() - before
    assert os.getsid(pid) == pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    backend.infer(make_tensor(backend))
    backend.close()


@pytest.mark.parametrize("command", ["", "create hang", "invoke hang"])
def test_process_dies_with_its_parent_even_if_it_hangs(delegate: Any, command: str) -> None:
    delegate.command(command)
    code = (
        "import sys, time; from pathlib import Path; from edge_detector.backends.edgetpu import EdgeTpuBackend\n"
        "EdgeTpuBackend(Path(sys.argv[1]), library=sys.argv[2], num_threads=1); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", code, FIXTURES / "raw_heads_int8.tflite", delegate.library]
    with subprocess.Popen(arguments) as parent:
        event = {"": "invoke", "create hang": "create", "invoke hang": "invoke"}[command]
        wait_for(lambda: delegate.record(event))
        pid = int(delegate.record(event)[0].partition("pid=")[2].split()[0])
        time.sleep(0.3)
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    wait_for(lambda: not is_alive(pid))


def test_process_lives_on_when_the_thread_that_opened_it_ends(delegate: Any, make_tensor: Any) -> None:
    opened: list[Any] = []
    thread = threading.Thread(target=lambda: opened.append(delegate.open("raw_heads_int8")))
    thread.start()
    thread.join()
    time.sleep(0.2)
    opened[0].infer(make_tensor(opened[0]))
    opened[0].close()


def test_process_that_cannot_be_killed_is_left_behind_and_counted_until_it_ends(
    delegate: Any, monkeypatch: pytest.MonkeyPatch, make_tensor: Any
) -> None:
    backend = delegate.open("raw_heads_int8", invoke_timeout_s=0.2)
    delegate.command("invoke hang")
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: None)  # as a driver that hangs in the kernel does
    monkeypatch.setattr(edgetpu, "_KILL_S", 0.1)
    process = backend._child._process
    started_s = time.monotonic()
    with pytest.raises(DelegateError, match="not answered"):
        backend.infer(make_tensor(backend))
    assert time.monotonic() - started_s < 0.5
    # The kernel kills it by its stdin, which the parent has closed.
    wait_for(lambda: count_left_behind() == 0)
    assert process.returncode == -signal.SIGKILL
    backend.close()


def test_worker_loads_nothing_that_it_does_not_need() -> None:
    code = (
        "import sys, edge_detector.backends.worker; print(*{'cv2', 'pydantic', 'yaml', 'subprocess'} & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_many_crashes_leave_nothing(delegate: Any, open_fds: Any, children: Any, make_tensor: Any) -> None:
    def crash(count: int) -> int:
        for i in range(count):
            delegate.command("create segfault" if i % 2 else "")
            try:
                backend = delegate.open("raw_heads_int8")
                delegate.command("invoke segfault")
                with pytest.raises(DelegateError):
                    backend.infer(make_tensor(backend))
                backend.close()
            except DelegateError:
                pass
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    rss_before = crash(10)
    before = open_fds(), children(), threading.active_count()
    rss_after = crash(30)
    assert (open_fds(), children(), threading.active_count()) == before
    assert rss_after - rss_before < 2 << 20


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
