"""Checks of the files that the settings name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_detector.config import Config
from edge_detector.doctor.context import SERVICE, Context
from edge_detector.doctor.finding import Finding, error, ok, skipped
from edge_detector.doctor.host import User

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
    folder = whole if output.is_folder else whole.parent
    if path.exists() and path.is_dir() != output.is_folder:
        return error("outputs", f"{text} is a {'folder' if path.is_dir() else 'file'}", "Name another in the settings.")
    here = folder
    while not context.host.path(here).is_dir() and here != here.parent:
        here = here.parent
    make = f"sudo mkdir -p {folder} && sudo chown {user.name}: {folder}"
    if here != folder and not output.is_folder:
        return error("outputs", f"{text}: there is no folder {folder}", command=make)
    closed = [one for one in [here, *here.parents] if not user.may(context.host.path(one), os.X_OK)]
    if closed or not user.may(context.host.path(here), os.W_OK | os.X_OK):
        where = closed[-1] if closed else here
        own = not closed and (here != folder or here.is_relative_to(OWN_FOLDER))
        advice = None if own else f"Name a folder of {user.name} in the settings, such as {OWN_FOLDER}."
        return error("outputs", f"{text}: {user.name} may not write to {where}", advice, make if own else None)
    if path.is_file() and not user.may(path, os.W_OK):
        return error("outputs", f"{text}: {user.name} may not write to it", command=f"sudo chown {user.name}: {whole}")
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
    folders += ["/tmp", "/var/tmp"] if context.unit.get("PrivateTmp") == "yes" else []
    for key, parent in _GIVEN_BY_UNIT.items():
        folders += [f"{parent}/{word.partition(':')[0]}" for word in context.unit.get(key, "").split()]
    return any(path.is_relative_to(folder) for folder in folders)


def check_inputs(context: Context) -> Iterator[Finding]:
    """Whether the service may read certificates, keys, labels and model."""
    config = context.config
    if config is None:
        yield skipped("inputs", "the settings cannot be used")
        return
    named = {"model.labelmap_path": config.model.labelmap_path, "model.edgetpu_path": config.model.edgetpu_path}
    named |= {key: getattr(config.mqtt, key) for key in ("tls_ca_certs", "tls_client_cert", "tls_client_key")}
    named |= {"web.tls_cert": config.web.tls_cert, "web.tls_key": config.web.tls_key}
    if "/" in config.model.path:
        named["model.path"] = config.model.path
    if context.config_path is not None and context.unit:
        named["settings"] = str(context.config_path)
    user, wrong = context.runs_as, False
    for key, name in named.items():
        if name is None:
            continue
        path = whole_path(context, name)
        below = Path(name) if key == "settings" else context.host.path(path)
        if not below.exists():
            wrong = True
            yield error("inputs", f"{key}: {name}: no such file", "Correct the path in the settings.")
        elif not user.may(below, os.R_OK):
            wrong = True
            command = f"sudo chgrp {user.name} {path} && sudo chmod g+r {path}"
            yield error("inputs", f"{key}: {name}: {user.name} may not read it", command=command)
    if not wrong:
        count = sum(name is not None for name in named.values())
        yield (
            ok("inputs", f"{count} files, read by {user.name}")
            if count
            else skipped("inputs", "no files in the settings")
        )
