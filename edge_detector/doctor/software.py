"""Checks of Python and its packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from edge_detector.doctor.context import Context
from edge_detector.doctor.finding import Finding, error, ok, skipped, warning
from edge_detector.doctor.host import PIP, SUDO, ProbeError

OLDEST, NEWEST = (3, 10), (3, 13)
LAST_32_BIT = (3, 11)  # tflite-runtime, the only runtime for 32-bit ARM, ends here
OLD_NUMPY = "'numpy<2' 'opencv-python-headless<=4.11.0.86'"
_SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"


def check_python(context: Context) -> Iterator[Finding]:
    """Version and bits of Python, against those of the kernel."""
    host = context.host
    version = ".".join(map(str, host.python))
    found = f"{version}, {host.bits} bit, on {host.machine}"
    if host.bits == 32 and host.machine in ("aarch64", "x86_64"):
        yield error(
            "python",
            f"{found}: 32-bit Python on a 64-bit kernel, for which pip installs 64-bit packages",
            "Install the 64-bit Raspberry Pi OS, or start a 32-bit kernel and make the environment anew:",
            "echo arm_64bit=0 | sudo tee -a /boot/firmware/config.txt && sudo reboot",
        )
    elif host.python[:2] < OLDEST or (host.bits == 32 and host.python[:2] > LAST_32_BIT):
        needed = "3.10 to 3.11, or a 64-bit system," if host.bits == 32 else "3.10 or later"
        yield error("python", f"{found}: too {'old' if host.python[:2] < OLDEST else 'new'}", f"It needs {needed}.")
    elif host.python[:2] > NEWEST:
        yield warning("python", f"{found}: newer than it was tested with (3.13)")
    else:
        yield ok("python", found)


def check_runtime(context: Context) -> Iterator[Finding]:
    """Which runtimes are installed, and whether they work with this numpy."""
    word = "auto" if context.config is None else context.config.model.runtime
    tried = {name: context.host.probe("runtime", name) for name in ("litert", "tflite")}
    titles = {"litert": "LiteRT", "tflite": "tflite-runtime"}
    installed = [name for name in tried if tried[name]["version"] is not None]
    used = word if word != "auto" else next(iter(installed), None)
    if used is None or used not in installed:
        missing = "no TFLite runtime is" if used is None else f"{titles[used]}, which the settings name, is not"
        package = "tflite-runtime==2.14.0 " + OLD_NUMPY if used == "tflite" else "ai-edge-litert"
        yield error("runtime", f"{missing} installed", command=f"{PIP} install {package}")
    for name in installed:
        version, numpy, problem = (tried[name][key] for key in ("version", "numpy", "problem"))
        found = f"{titles[name]} {version} with numpy {numpy}"
        if problem is None:
            slow = name == "tflite" and name == used and context.host.bits == 64
            yield (warning if slow else ok)("runtime", found + (": slow on int8 models" if slow else ""))
            continue
        made_for_1 = name == "tflite" and int(numpy.partition(".")[0]) >= 2
        command = f"{PIP} install " + (OLD_NUMPY if made_for_1 else f"--force-reinstall {name_of(name)}")
        if name == used:
            why = "it is built for numpy 1" if made_for_1 else problem
            yield error("runtime", f"{found} does not work: {why}", command=command)
        else:
            yield warning(
                "runtime", f"{found} does not work, and is not used", command=f"{PIP} uninstall {name_of(name)}"
            )


def name_of(runtime: str) -> str:
    """Return the package of a runtime."""
    return {"litert": "ai-edge-litert", "tflite": "tflite-runtime"}[runtime]


def check_opencv(context: Context) -> Iterator[Finding]:
    """Whether OpenCV can be imported, and is installed once."""
    headless = f"{PIP} uninstall -y opencv-python opencv-python-headless && {PIP} install opencv-python-headless"
    try:
        answer = context.host.probe("import", "cv2")
    except ProbeError as problem:
        text = str(problem)
        if "libGL" in text or "libgthread" in text or "libSM" in text:
            text += ": this build of OpenCV is for desktops"
        yield error("opencv", text, command=headless)
        return
    packages = {name: version for name, version in answer["packages"].items() if name.startswith("opencv")}
    found = ", ".join(f"{name} {version}" for name, version in packages.items()) or f"cv2 {answer['version']}"
    if len(packages) > 1:
        yield warning("opencv", f"{found}: they overwrite each other", command=headless)
    else:
        yield ok("opencv", found)


def check_picamera2(context: Context) -> Iterator[Finding]:
    """Whether libcamera and picamera2, which come from apt, can be used in this environment."""
    host, wanted = context.host, any(source.startswith("csi:") for source in context.sources())
    try:
        for module in ("libcamera", "picamera2"):
            answer = host.probe("import", module)
    except ProbeError as problem:
        missing = "ModuleNotFoundError" in str(problem)
        if missing and not wanted and not host.is_pi():
            yield skipped("picamera2", "not installed; only CSI cameras of a Raspberry Pi need it")
        else:
            yield (error if wanted else warning)("picamera2", *_explain(context, str(problem)))
    else:
        versions = " ".join(answer["packages"].values()) or answer["version"]
        yield ok("picamera2", f"{versions} with libcamera".strip())


def _explain(context: Context, problem: str) -> tuple[str, str | None, str | None]:
    """Return what is wrong with picamera2 and what to do: a sentence, a command."""
    host = context.host
    system = host.path(_SYSTEM_PACKAGES)
    if "ModuleNotFoundError" in problem:
        if not (system / "picamera2").exists():
            return "not installed", None, "sudo apt install python3-picamera2"
        built = [path.name for path in host.glob(f"{_SYSTEM_PACKAGES}/libcamera/_libcamera.cpython-*.so")]
        own = "cpython-{}{}".format(*host.python)
        if built and not any(f".{own}-" in name for name in built):
            other = "-".join(built[0].split(".")[1].split("-")[:2])
            return (
                f"apt's libcamera is for another Python ({other}) than this ({own})",
                "Make the environment with the system's Python:",
                "/usr/bin/python3 -m venv --system-site-packages --clear .venv",
            )
        pyvenv = Path(sys.prefix) / "pyvenv.cfg"
        return (
            "apt has installed it, but this environment does not see the system's packages",
            None,
            f"{SUDO}sed -i 's/\\(include-system-site-packages = \\)false/\\1true/' {pyvenv}",
        )
    if "numpy.dtype size changed" in problem or "compiled using NumPy 1" in problem or "numpy.core" in problem:
        return (
            "apt's picamera2 and simplejpeg are built for numpy 1, and this environment has numpy 2",
            None,
            f"{PIP} install {OLD_NUMPY}",
        )
    if "undefined symbol" in problem:
        return f"apt's libcamera and picamera2 do not fit each other ({problem})", None, "sudo apt full-upgrade"
    return problem, None, "sudo apt install --reinstall python3-picamera2 python3-libcamera"


def check_video(context: Context) -> Iterator[Finding]:
    """Whether PyAV is there, if the settings need it."""
    config = context.config
    if config is None:
        yield skipped("video", "the settings cannot be used")
        return
    named = {"recordings": config.recordings.path, "stream.rtsp_push": config.stream.rtsp_push}
    wanted = [key for key, value in {**named, "stream.webrtc": config.stream.webrtc}.items() if value]
    if not wanted:
        yield skipped("video", "no H.264 in the settings (recordings, stream)")
        return
    for module in ("av", "aiortc") if config.stream.webrtc else ("av",):
        try:
            answer = context.host.probe("import", module)
        except ProbeError as problem:
            used = ", ".join(wanted)
            yield error("video", f"{used}: {problem}", command=f"{PIP} install av aiortc")
            return
    yield ok("video", f"{module} {answer['version']} for {', '.join(wanted)}")
