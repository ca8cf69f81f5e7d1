"""Settings of where results and events go; words and meanings of `mqtt` are Frigate's."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from edge_detector.object_config import Count, Fraction, Labels, NotNegative, Part, Positive

_SECRET = re.compile(r"\{(EDGE_DETECTOR_[A-Z0-9_]+)\}")


def _with_secrets(text: str, info: ValidationInfo) -> str:
    """Return `text` with `{EDGE_DETECTOR_NAME}` replaced by what `_secret` gives.

    What is missing is an error, unless the context has a set "missing" for its names: then it stays as it is.
    """

    def value_of(match: re.Match[str]) -> str:
        secret = _secret(match[1])
        if secret is not None:
            return secret
        if info.context is not None:
            info.context["missing"].add(match[1])
            return match[0]
        raise ValueError(
            f"the environment has no {match[1]}, and systemd gives no credential of this name; set it, for example in "
            f"EnvironmentFile= or with LoadCredential={match[1]}:/some/file"
        )

    return _SECRET.sub(value_of, text)


def _secret(name: str) -> str | None:
    """Return that environment variable, else that credential of systemd, else None."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if name in os.environ or not folder:
        return os.environ.get(name)
    try:
        return Path(folder, name).read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"the credential {name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"the credential {name} is no text in UTF-8") from None


def known(check: Callable[[str], str]) -> AfterValidator:
    """Return what checks a text that may be secret, if it is known here; see `_with_secrets`."""
    return AfterValidator(lambda text: text if _SECRET.search(text) else check(text))


def _check_topic(text: str) -> str:
    if not re.fullmatch(r"[^+#/\0]+(/[^+#/\0]+)*", text) or text.startswith("$"):
        raise ValueError("give a topic such as edge_detector or home/edge_detector, without +, # and a / at its ends")
    return text


def _check_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"[^!-~]|\.\.", text):
        raise ValueError("give an address such as https://example.org/hook")
    if parts.username is not None:
        raise ValueError("user and password in the address are not sent; use a secret, or a token in the path")
    return text


def _check_host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*|[0-9A-Fa-f:.]+(%\w+)?", text):
        raise ValueError(
            "give a name or address alone, such as 192.168.1.5; port, user and password have their own keys"
        )
    return text


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT" ("[::1]:8080" for IPv6; port 0 takes a free one).

    Raises:
        ValueError: the text is no address.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address: give HOST:PORT, such as 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_address(text: str) -> str:
    parse_address(text)
    return text


def _check_receiver(text: str) -> str:
    if parse_address(text)[1] == 0:
        raise ValueError("give the port that is listened on, 1 to 65535")
    return text


def _check_secret(text: str) -> str:
    if text.startswith("whsec_"):
        try:
            base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except ValueError as error:
            raise ValueError("what follows whsec_ must be base64") from error
    return text


Kind = Literal["new", "update", "end", "alert"]
Secret = Annotated[str, AfterValidator(_with_secrets)]
Topic = Annotated[str, AfterValidator(_check_topic)]
Address = Annotated[str, AfterValidator(_check_address)]
Jpeg = Annotated[int, Field(ge=1, le=100)]


def _usual_kinds() -> list[Kind]:
    return ["new", "end", "alert"]


class SinkFilterConfig(Part):
    """What of results and events goes to a sink.

    Attributes:
        labels: of objects; empty: all.
        cameras: likewise.
        zones: one of which an object must be in, or of an event, have been in; empty: anywhere.
        min_score: that an object must have; of an event, that it must have reached.
        min_area: of its box, in pixels, or below 1 in fractions of the picture; a snapshot is also that of an object
            that has become smaller since.
        max_per_s: of each camera at most so many inferences, and so many events of each kind. The end of an object is
            told if, and only if, its beginning was, which an update becomes where that came too soon. null: all. Of
            files all go.
    """

    labels: Labels = Field(default_factory=list)
    cameras: Labels = Field(default_factory=list)
    zones: Labels = Field(default_factory=list)
    min_score: Fraction = 0.0
    min_area: NotNegative = 0.0
    max_per_s: Positive | None = None


class EventsConfig(Part):
    """Where the story of objects is kept.

    Attributes:
        path: file of the data base; null keeps it in memory only.
        max_age_days: what is older is deleted.
        max_mb: so is the oldest, when it grows beyond this.
        jsonl: events are appended to this file, one line of JSON each.
        jsonl_filter: which.
        update_s: an object that stays is told anew this often.
    """

    path: str | None = None
    max_age_days: Positive = 30.0
    max_mb: Positive = 200.0
    jsonl: str | None = None
    jsonl_filter: SinkFilterConfig = SinkFilterConfig()
    update_s: Positive = 10.0


class OutputConfig(Part):
    """Files that results are written to, beside the web page; of several cameras, "{camera}" stands for the name.

    JSONL files, that of events too, are moved to FILE.1, FILE.2 and so on, `jsonl_keep` of them, before they grow
    beyond `jsonl_max_mb`, or when they were begun `jsonl_max_days` ago (null: at any age). They are synced to the
    medium at most once in `jsonl_sync_s` seconds; null leaves it to Linux, which does it within about 30 s.
    """

    jsonl: str | None = None
    jsonl_filter: SinkFilterConfig = SinkFilterConfig()
    jsonl_max_mb: Positive = 100.0
    jsonl_max_days: Positive | None = None
    jsonl_keep: Count = 5
    jsonl_sync_s: Positive | None = None
    video: str | None = None


class HomeAssistantConfig(Part):
    """Whether Home Assistant is told by MQTT of all there is; `prefix` is its own discovery prefix."""

    enabled: bool = True
    prefix: Topic = "homeassistant"


class MqttConfig(Part):
    """An MQTT broker that results and events are sent to, and that detection is switched by.

    Attributes:
        host: of the broker; null: no MQTT.
        port: of the broker.
        user: null where the broker asks for none; and
        password: likewise.
        topic_prefix: of all topics.
        client_id: must be of this device alone; null: edge_detector and the name of the host.
        qos: 0, 1 or 2.
        tls: encrypted, as also with one of the keys below; the broker's certificate is checked.
        tls_ca_certs: file of the authorities that the broker's certificate is checked against; null: the system's.
        tls_client_cert: file of our certificate, and
        tls_client_key: of its key.
        tls_insecure: a certificate of another name than `host` will do.
        stats_interval: seconds from one message about the service itself to the next.
        queue_max: so many events wait while the broker is away; then the oldest go,
        queue_max_age_s: and those that are older.
        filter: which detections, counts and events it gets.
        home_assistant: see there.
    """

    host: Annotated[str, AfterValidator(_check_host)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    user: Secret | None = None
    password: Secret | None = None
    topic_prefix: Topic = "edge_detector"
    client_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    qos: Literal[0, 1, 2] = 1
    tls: bool = False
    tls_ca_certs: str | None = None
    tls_client_cert: str | None = None
    tls_client_key: str | None = None
    tls_insecure: bool = False
    stats_interval: Positive = 60.0
    queue_max: Count = 1000
    queue_max_age_s: Positive = 3600.0
    filter: SinkFilterConfig = SinkFilterConfig()
    home_assistant: HomeAssistantConfig = HomeAssistantConfig()

    @model_validator(mode="after")
    def _check_together(self) -> MqttConfig:
        if self.password is not None and self.user is None:
            raise ValueError("password needs a user")
        if (self.tls_client_key is None) != (self.tls_client_cert is None):
            raise ValueError("tls_client_cert and tls_client_key belong together: give both")
        return self


class WebhookConfig(SinkFilterConfig):
    """An HTTP server that events and alerts are posted to.

    Attributes:
        url: its address; may hold `{EDGE_DETECTOR_...}`, as may
        secret: what messages are signed with, as standardwebhooks.com says; null: they are not.
        kinds: of events, and alerts.
        snapshot: with the object's picture, JPEG in base64.
        timeout_s: for an answer.
    """

    url: Annotated[Secret, known(_check_url)]
    secret: Annotated[Secret, Field(min_length=1), known(_check_secret)] | None = None
    kinds: Annotated[list[Kind], Field(min_length=1)] = Field(default_factory=_usual_kinds)
    snapshot: bool = False
    timeout_s: Positive = 5.0


class UdpConfig(SinkFilterConfig):
    """A receiver that gets each inference as a datagram of JSON; `address` is HOST:PORT, null: none."""

    address: Annotated[str, AfterValidator(_check_receiver)] | None = None


class SnapshotsConfig(SinkFilterConfig):
    """A folder for the best picture of each object.

    Attributes:
        path: of the folder; null: none.
        crop: the object with its surroundings, instead of the whole picture.
        quality: of the JPEG, 1 to 100.
        max_age_days: what is older is deleted.
        max_mb: so are the oldest, when all take more.
    """

    path: str | None = None
    crop: bool = False
    quality: Jpeg = 90
    max_age_days: Positive = 30.0
    max_mb: Positive = 500.0


class RecordingsConfig(SinkFilterConfig):
    """A folder for clips of wanted objects.

    Attributes:
        path: of the folder; null: none.
        pre_roll_s: a clip begins so long before the object came,
        post_roll_s: and ends so long after it went.
        max_clip_s: then the next clip begins.
        fps: pictures per second, at most.
        max_width: larger pictures are made smaller; null: they are not.
        bitrate_kbps: at most; null leaves it to the quality.
        overlay: with what is drawn into the picture.
        max_age_days: what is older is deleted.
        max_mb: so are the oldest, when all take more.
    """

    path: str | None = None
    pre_roll_s: NotNegative = 5.0
    post_roll_s: NotNegative = 5.0
    max_clip_s: Annotated[float, Field(ge=2)] = 60.0
    fps: Annotated[float, Field(gt=0, le=100)] = 10.0
    max_width: Annotated[int, Field(ge=64)] | None = 1280
    bitrate_kbps: Annotated[int, Field(ge=50)] | None = None
    overlay: bool = True
    max_age_days: Positive = 7.0
    max_mb: Positive = 2000.0


class SinkConfig(SinkFilterConfig):
    """A sink more: `kind` is its name in `publishers.SINKS`, `options` what it is opened with."""

    kind: str
    options: dict[str, Any] = Field(default_factory=dict)
