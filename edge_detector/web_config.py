"""Settings of the web server: who may open it, and how."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from edge_detector.object_config import Count, Name, Part, Positive
from edge_detector.passwords import check_password
from edge_detector.sink_config import Secret, known


def is_loopback(host: str) -> bool:
    """Return whether an address or name means this machine alone."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback


def _check_hash(text: str) -> str:
    check_password("", text)
    return text


def _check_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", text):
        raise ValueError("give a name alone, such as camera.example.org")
    return text.lower()


def _check_token(text: str) -> str:
    if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("give 16 letters, digits or signs at least, such as `openssl rand -hex 16` prints")
    return text


PasswordHash = Annotated[Secret, known(_check_hash)]
HostName = Annotated[str, AfterValidator(_check_name)]


class WebConfig(Part):
    """Who may open the page that `http` gives the address of.

    Attributes:
        users: password hashes by name, as `edge-detector password` prints them.
        token: for programs, in the header `Authorization: Bearer`.
        insecure: without users and token, everybody on the network may look and switch.
        hosts: names that the page is opened under, beside those that the machine has itself.
        tls_cert: file of the certificate with those of its authorities; null: no encryption; and
        tls_key: of its key.
        max_viewers: live pictures that are sent at the same time.
        session_days: after which one has to log in again.
    """

    users: dict[Name, PasswordHash] = Field(default_factory=dict)
    token: Annotated[Secret, known(_check_token)] | None = None
    insecure: bool = False
    hosts: list[HostName] = Field(default_factory=list)
    tls_cert: str | None = None
    tls_key: str | None = None
    max_viewers: Count = 16
    session_days: Positive = 30.0

    @model_validator(mode="after")
    def _check_together(self) -> WebConfig:
        if (self.tls_key is None) != (self.tls_cert is None):
            raise ValueError("tls_cert and tls_key belong together: give both")
        if self.insecure and self.is_guarded:
            raise ValueError("insecure is without users and token: delete the one or the other")
        return self

    @property
    def is_guarded(self) -> bool:
        """Whether one has to say who one is."""
        return bool(self.users) or self.token is not None

    def opens_to(self, host: str) -> str | None:
        """Return what is wrong with listening on `host`, or None."""
        if is_loopback(host) or self.is_guarded or self.insecure:
            return None
        return (
            f"everybody on the network could open the page on {host}: add web.users (`edge-detector password` makes an "
            "entry) or web.token to the settings, or allow it with web.insecure: true (--insecure)"
        )
