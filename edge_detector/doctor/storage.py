"""Checks of the files that the settings name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_detector.config import Config
from edge_detector.doctor.context import SERVICE, Context
from edge_detector.doctor.finding import Finding, error, ok, skipped
from edge_detector.doctor.host import User, kind_of

OWN_FOLDER = "/var/lib/edge-detector"
_GIVEN_BY_UNIT = {  # key of a unit -> where systemd makes folders that the service may write to
    "StateDirectory": "/var/lib",
    "LogsDirectory": "/var/log",
    "CacheDirectory": "/var/cache",
    "RuntimeDirectory": "/run",
}


@dataclass(frozen=True, slots=True)
class Output:
    """A file or folder that the settings name; `often` where it is written to all the time."""

    key: str
    path: str
    is_folder: bool = False
    often: bool = False


def outputs_of(config: Config) -> list[Output]:
    """Return what the settings have written to."""
    synced = config.output.jsonl_sync_s is not None
    found = [
        Output("output.jsonl", config.output.jsonl or "", often=not synced),
        Output("output.video", (config.output.video or "").replace("{camera}", "camera"), often=True),
        Output("events.path", config.events.path or ""),
        Output("events.jsonl", config.events.jsonl or ""),
        Output("snapshots.path", config.snapshots.path or "", is_folder=True),
        Output("recordings.path", config.recordings.path or "", is_folder=True, often=True),
    ]
    for name, sink in config.sinks.items():
        for key in ("target", "path"):
            if isinstance(sink.options.get(key), str):
                found.append(Output(f"sinks.{name}.options.{key}", sink.options[key], often=sink.kind == "jsonl"))
    return [output for output in found if output.path and output.path != "-"]


def check_outputs(context: Context) -> Iterator[Finding]:
    """Whether the service may write where the settings say."""
    config = context.config
    if config is None:
        yield skipped("outputs", "the settings cannot be used")
        return
    user, found = context.runs_as, outputs_of(config)
    for output in found:
        yield _check_output(context, output, user)
    if not found:
        yield skipped("outputs", "the settings write no files")


def _check_output(context: Context, output: Output, user: User) -> Finding:
    whole = whole_path(context, output.path)
    path, text = context.host.path(whole), f"{output.key}: {output.path}"
    folder = here = whole if output.is_folder else whole.parent
    try:
        kind = kind_of(path)
        while kind_of(context.host.path(here)) != "folder" and here != here.parent:
            here = here.parent
    except PermissionError:
        return skipped("outputs", f"{text}: hidden from this user; run it with sudo")
    if kind is not None and (kind == "folder") != output.is_folder:
        return error("outputs", f"{text} is a {kind}", "Name another in the settings.")
    make = f"sudo mkdir -p {folder} && sudo chown {user.name}: {folder}"
    if here != folder and not output.is_folder:
        return error("outputs", f"{text}: there is no folder {folder}", command=make)
    closed = [one for one in [here, *here.parents] if not user.may(context.host.path(one), os.X_OK)]
    if closed or not user.may(context.host.path(here), os.W_OK | os.X_OK):
        where = closed[-1] if closed else here
        own = not closed and (here != folder or here.is_relative_to(OWN_FOLDER))
        advice = None if own else f"Name a folder of {user.name} in the settings, such as {OWN_FOLDER}."
        return error("outputs", f"{text}: {user.name} may not write to {where}", advice, make if own else None)
    if kind == "file" and not user.may(path, os.W_OK):
        return error("outputs", f"{text}: {user.name} may not write to it", command=f"sudo chown {user.name}: {whole}")
    if _hides(context, whole):
        return error(
            "outputs", f"{text}: the service has no such folder (ProtectHome, PrivateTmp)", f"Write to {OWN_FOLDER}."
        )
    if not _is_open_to_unit(context, whole):
        drop_in = f"/etc/systemd/system/{SERVICE}.service.d"
        return error(
            "outputs",
            f"{text}: the service is shut off from there (ProtectSystem=strict)",
            f"Write to {OWN_FOLDER} instead, or let the service in:",
            f"sudo mkdir -p {drop_in} && printf '[Service]\\nReadWritePaths={folder}\\n' | "
            f"sudo tee {drop_in}/paths.conf && sudo systemctl daemon-reload && sudo systemctl restart {SERVICE}",
        )
    return ok("outputs", f"{text}, written by {user.name}")


def whole_path(context: Context, path: str) -> Path:
    """Return a path as the service sees it: relative ones count from its working folder."""
    folder = context.unit.get("WorkingDirectory", "").lstrip("!~") or ("/" if context.unit else str(Path.cwd()))
    return Path(os.path.normpath(Path(folder) / Path(path).expanduser()))


def _is_open_to_unit(context: Context, path: Path) -> bool:
    """Return whether the service may write there, as systemd.exec(5) says of ProtectSystem=strict."""
    if context.unit.get("ProtectSystem") != "strict":
        return True
    folders = ["/dev/shm", *(word.lstrip("-+") for word in context.unit.get("ReadWritePaths", "").split())]
    for key, parent in _GIVEN_BY_UNIT.items():
        folders += [f"{parent}/{word.partition(':')[0]}" for word in context.unit.get(key, "").split()]
    return any(path.is_relative_to(folder) for folder in folders)


def _hides(context: Context, path: Path) -> bool:
    """Return whether the service's sandbox hides a path from it."""
    hidden = ["/home", "/root", "/run/user"] if context.unit.get("ProtectHome") in ("yes", "tmpfs") else []
    hidden += ["/tmp", "/var/tmp"] if context.unit.get("PrivateTmp") == "yes" else []
    return any(path.is_relative_to(folder) for folder in hidden)


def check_inputs(context: Context) -> Iterator[Finding]:
    """Whether the service may read certificates, keys, labels and model."""
    config = context.config
    if config is None:
        yield skipped("inputs", "the settings cannot be used")
        return
    named = {"model.labelmap_path": config.model.labelmap_path, "model.edgetpu_path": config.model.edgetpu_path}
    named |= {f"mqtt.{key}": getattr(config.mqtt, key) for key in ("tls_ca_certs", "tls_client_cert", "tls_client_key")}
    named |= {"web.tls_cert": config.web.tls_cert, "web.tls_key": config.web.tls_key}
    named["model.path"] = config.model.path if os.sep in config.model.path else None
    paths = {key: whole_path(context, name) for key, name in named.items() if name is not None}
    wrong = [found for key, path in paths.items() if (found := _check_input(context, key, path)) is not None]
    yield from wrong
    if not paths:
        yield skipped("inputs", "the settings name no certificates, labels or models")
    elif not wrong:
        yield ok("inputs", f"{', '.join(paths)}: read by {context.runs_as.name}")


def _check_input(context: Context, key: str, path: Path) -> Finding | None:
    user, below = context.runs_as, context.host.path(path)
    try:
        if kind_of(below) is None:
            return error("inputs", f"{key}: {path}: no such file", "Correct the path in the settings.")
    except PermissionError:
        return skipped("inputs", f"{key}: {path}: hidden from this user; run it with sudo")
    closed = [one for one in path.parents if not user.may(context.host.path(one), os.X_OK)]
    if _hides(context, path) or closed:
        why = f"may not enter {closed[-1]}" if closed else "sees nothing of that (ProtectHome, PrivateTmp)"
        copy = f"sudo install -o {user.name} -m 0640 {path} {OWN_FOLDER}/"
        return error("inputs", f"{key}: {path}: {user.name} {why}", "Copy it, and name the copy in the settings:", copy)
    if not user.may(below, os.R_OK):
        command = f"sudo chgrp {user.name} {path} && sudo chmod g+r {path}"
        return error("inputs", f"{key}: {path}: {user.name} may not read it", command=command)
    return None
