"""What all checks share: the machine, the settings, the installed service."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_detector.config import SECRET_KEYS, Config, load_config
from edge_detector.doctor.host import Host, User, kind_of
from edge_detector.errors import ConfigError

SERVICE = "edge-detector"
USUAL_CONFIG = "/etc/edge-detector/edge-detector.yaml"
_UNIT_KEYS = (
    "LoadState,ActiveState,SubState,Result,NRestarts,ExecMainStatus,MainPID,User,SupplementaryGroups,"
    "EnvironmentFiles,WorkingDirectory,ProtectHome,ProtectSystem,ReadWritePaths,StateDirectory,LogsDirectory,CacheDirectory,RuntimeDirectory,PrivateTmp"
)
_SHORTEST_SECRET = 4  # what is shorter would also be found in words that hold no secret


class Context:
    """The machine, the settings and the service; each is looked up once, when it is first needed."""

    def __init__(self, host: Host, config: Path | None) -> None:
        """Look at `host`; without a file `config` the usual one is taken, if it is there."""
        self.host = host
        self.config_path: Path | None = host.path(USUAL_CONFIG) if config is None else config
        with suppress(PermissionError):  # that there is one, reading it will say
            if config is None and kind_of(self.config_path) is None:
                self.config_path = None

    @cached_property
    def settings(self) -> Config | ConfigError:
        """The settings, or what is wrong with them; the defaults where there is no file."""
        if self.config_path is None:
            return Config()
        self._take_secrets_of_service()
        try:
            return load_config(self.config_path)
        except ConfigError as wrong:
            return wrong
        except Exception as odd:  # noqa: BLE001 - such as a file nested too deeply
            return ConfigError(f"{self.config_path}: cannot be used: {type(odd).__name__}")

    @property
    def config(self) -> Config | None:
        """The settings, or None where they cannot be used."""
        return self.settings if isinstance(self.settings, Config) else None

    @cached_property
    def unit(self) -> dict[str, str]:
        """What systemd says of the service; nothing where it is not installed or there is no systemd."""
        answer = self.host.run("systemctl", "show", f"{SERVICE}.service", f"--property={_UNIT_KEYS}")
        if answer is None or answer.code != 0:
            return {}
        lines = (line.partition("=") for line in answer.output.splitlines())
        found = {key: value for key, _, value in lines}
        return found if found.get("LoadState") == "loaded" else {}

    @cached_property
    def runs_as(self) -> User:
        """Who the service runs as: the user of its unit, or `edge-detector`, or whoever is here now."""
        user = self.host.user(self.unit.get("User") or SERVICE)
        if user is None:
            return self.host.current_user()
        known = self.host.group_members()
        added = {known[name][0] for name in self.unit.get("SupplementaryGroups", "").split() if name in known}
        return User(user.name, user.uid, user.groups | added)

    def sources(self) -> list[str]:
        """Return the URIs of all cameras; none where the settings cannot be used."""
        return [] if self.config is None else [feed.source for feed in self.config.feeds.values()]

    @cached_property
    def secrets(self) -> list[str]:
        """All that must not be shown, longest first."""
        found = {value for name, value in os.environ.items() if name.startswith("EDGE_DETECTOR_")}
        if self.config is not None:
            found |= set(_secrets(self.config.model_dump()))
            found |= set(self.config.web.users.values())
        return sorted((secret for secret in found if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)

    def _take_secrets_of_service(self) -> None:
        """Set what the service gets from its environment files and credentials, as far as they can be read here."""
        for name in re.findall(r"(/\S+) \(ignore_errors=", self.unit.get("EnvironmentFiles", "")):
            for key, value in re.findall(r"(?m)^\s*(EDGE_DETECTOR_[A-Z0-9_]+)=(.*)$", self.host.read(name) or ""):
                os.environ.setdefault(key, value.strip().strip("\"'"))
        for path in self.host.glob("/etc/edge-detector/secrets/*"):
            text = self.host.read(f"/etc/edge-detector/secrets/{path.name}")
            if text is not None:
                os.environ.setdefault(f"EDGE_DETECTOR_{path.name}", text)
        credentials = self.host.path(f"/run/credentials/{SERVICE}.service")
        if os.access(credentials, os.R_OK):
            os.environ.setdefault("CREDENTIALS_DIRECTORY", str(credentials))


def _secrets(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _secrets(item, str(name))
    elif isinstance(value, str) and "://" in value:
        yield from re.findall(r"://[^\s/@]*?:(\S+)@", value)
        if key == "url":  # whose path may hold a token
            yield from re.findall(r"://[^/\s]+/(\S{12,})", value)
    elif isinstance(value, str) and key != "source" and key.endswith(SECRET_KEYS):
        yield value
