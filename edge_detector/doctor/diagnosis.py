"""All checks, one after the other; none can end or hold up the program, or show a secret."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edge_detector.abandoned import leave_behind
from edge_detector.doctor import access, camera, coral, model, network, software, storage, system, wear
from edge_detector.doctor.context import Context
from edge_detector.doctor.finding import Finding, error, ok
from edge_detector.doctor.host import Host
from edge_detector.errors import ConfigError, ConfigFileError
from edge_detector.sources import redact

logger = logging.getLogger(__name__)

Check = Callable[[Context], Iterator[Finding]]
CHECK_TIMEOUT_S = 150.0  # what hangs in spite of the limits within
HIDDEN = "***"


def check_settings(context: Context) -> Iterator[Finding]:
    """Whether the settings can be used."""
    if isinstance(context.settings, ConfigError):
        fix = "Correct that; edge-detector.yaml of the repository holds every key with its meaning."
        command = None
        absent = re.search(r"the environment has no EDGE_DETECTOR_(\w+)", str(context.settings))
        if absent and context.host.current_user().uid == 0:
            fix = "Write what it stands for into a file, then restart the service:"
            command = f"sudo nano /etc/edge-detector/secrets/{absent[1]}"
        elif absent or "Permission denied" in str(context.settings):
            fix = "Settings and secrets of the service are for root to read: run it with sudo."
        wrong = context.settings
        *lines, last = wrong.lines if isinstance(wrong, ConfigFileError) else [str(wrong)]
        yield from (error("settings", line) for line in lines)
        yield error("settings", last, fix, command)
    elif context.config_path is None:
        yield ok("settings", "no file; the defaults")
    else:
        yield ok("settings", str(context.config_path))


CHECKS: dict[str, list[Check]] = {
    "Machine": [
        system.check_board,
        system.check_power,
        system.check_temperature,
        system.check_memory,
        system.check_clock,
    ],
    "Software": [
        software.check_python,
        software.check_runtime,
        software.check_opencv,
        software.check_picamera2,
        software.check_video,
    ],
    "Service": [
        check_settings,
        system.check_service,
        access.check_groups,
        storage.check_outputs,
        storage.check_inputs,
    ],
    "Model": [model.check_models, coral.check_usb, coral.check_pcie, coral.check_library],
    "Cameras": [camera.check_cameras, camera.check_holders, camera.check_memory, network.check_streams],
    "Storage": [wear.check_space, wear.check_root, wear.check_cards],
    "Network": [network.check_port, network.check_broker, network.check_servers],
}


def diagnose(
    config: Path | None = None,
    host: Host | None = None,
    checks: Mapping[str, Sequence[Check]] = CHECKS,
    timeout_s: float = CHECK_TIMEOUT_S,
) -> Iterator[tuple[str, Finding]]:
    """Yield the group and the finding of each check, as they come; no secret is in them.

    Without `config` the file in /etc is looked at, if it is there. A check that fails or takes longer than `timeout_s`
    gives an error of its own.
    """
    context = Context(host or Host(), config)
    for group, members in checks.items():
        for check in members:
            for finding in _run(check, context, timeout_s):
                yield group, _without_secrets(finding, context)


def _run(check: Check, context: Context, timeout_s: float) -> list[Finding]:
    name = check.__name__.removeprefix("check_").replace("_", " ")
    found: list[Finding] = []

    def collect() -> None:
        try:
            found.extend(check(context))
        except Exception as problem:  # whatever is odd about a machine, the other checks go on
            logger.debug("", exc_info=problem)
            text = " ".join(str(problem).split())
            found.append(error(name, f"the check itself failed: {type(problem).__name__}: {text}", "Please report it."))

    thread = threading.Thread(target=collect, name=f"doctor {name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not thread.is_alive():
        return found
    leave_behind(thread)
    return [
        *found,
        error(name, f"no answer within {timeout_s:g} s", "Look at the log of the kernel:", "sudo dmesg | tail"),
    ]


def _without_secrets(finding: Finding, context: Context) -> Finding:
    def hide(text: str | None) -> str | None:
        if text is None:
            return None
        for secret in context.secrets:
            text = text.replace(secret, HIDDEN)
        return redact(text)

    return replace(finding, found=hide(finding.found) or "", fix=hide(finding.fix), command=hide(finding.command))
