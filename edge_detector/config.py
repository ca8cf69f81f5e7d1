"""Settings of the service: one YAML file; an unknown key is an error that names its path."""

from __future__ import annotations

import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, Field, ValidationError, model_validator

from edge_detector.config_checks import ConfigMistakes, together_errors
from edge_detector.config_file import ConfigFile, read_config_file, shown_key, unknown_key
from edge_detector.errors import ConfigError
from edge_detector.frame import parse_size
from edge_detector.object_config import (
    LineConfig,
    MotionConfig,
    Name,
    ObjectsConfig,
    OverlayConfig,
    Part,
    RegionsConfig,
    RuleConfig,
    TrackingConfig,
    ZoneConfig,
)
from edge_detector.sink_config import (
    Address,
    EventsConfig,
    MqttConfig,
    OutputConfig,
    RecordingsConfig,
    Secret,
    SinkConfig,
    SnapshotsConfig,
    UdpConfig,
    WebhookConfig,
    parse_address,
)
from edge_detector.stream_config import StreamConfig
from edge_detector.web_config import WebConfig

DEFAULT_MODEL = "ssd_resnet50_fpn_person_640_int8"


def _check_size(text: str) -> str:
    parse_size(text)
    return text


def _check_device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|edgetpu(:(usb|pci)(:\d+)?)?", text):
        raise ValueError("give auto, cpu, edgetpu, edgetpu:usb:0 or edgetpu:pci:0")
    return text


class ModelConfig(Part):
    """Which model, and how it is run; `path` is a file or the name of a shipped model.

    `edgetpu_path` is the same model compiled for the Edge TPU; the CPU stands in with `path` while the TPU is away,
    unless `fallback` is false.
    """

    path: str = DEFAULT_MODEL
    edgetpu_path: str | None = None
    device: Annotated[str, AfterValidator(_check_device)] = "auto"
    fallback: bool = True
    delegate_library: str = "libedgetpu.so.1"
    invoke_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    labelmap_path: str | None = None
    runtime: Literal["auto", "litert", "tflite"] = "auto"
    num_threads: Annotated[int, Field(ge=1, le=64)] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None


class CameraConfig(Part):
    """A camera: where it is, how it takes pictures, how often it is searched, and when it is given up.

    Attributes:
        source: URI; the query of a device's URI goes before the keys here.
        size: "WIDTHxHEIGHT" to ask the device for.
        fps: pictures per second to ask the device for.
        format: "mjpg" or "yuyv"; USB cameras only.
        rotation: degrees clockwise that the picture is turned by.
        stream: which stream of a CSI camera to take, "main" or "lores".
        controls: settings of the device by its own names.
        detect: whether it is searched from the start.
        detect_fps: at most so many inferences per second.
        max_age_s: frames and boxes that are older are not used any more.
        stall_s: without a picture for so long, though open, it is opened again.
        frozen_s: so too if no pixel changed for so long, once; null never looks.
        give_up_s: when no camera has given a picture for so long, the program ends with exit code 75.
        tracking: and the keys after it: blocks as at the top level, for this camera alone; null: the one there.
    """

    source: Secret = "auto"
    size: Annotated[str, AfterValidator(_check_size)] | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    format: Literal["mjpg", "yuyv"] | None = None
    rotation: Literal[0, 90, 180, 270] = 0
    stream: Literal["main", "lores"] = "main"
    controls: dict[str, bool | int | float | str] = Field(default_factory=dict)
    detect: bool = True
    detect_fps: Annotated[float, Field(gt=0)] | None = None
    max_age_s: Annotated[float, Field(gt=0)] = 10.0
    stall_s: Annotated[float, Field(ge=0.5)] = 5.0
    frozen_s: Annotated[float, Field(gt=0)] | None = 60.0
    give_up_s: Annotated[float, Field(gt=0)] = 600.0
    tracking: TrackingConfig | None = None
    objects: ObjectsConfig | None = None
    zones: dict[Name, ZoneConfig] | None = None
    lines: dict[Name, LineConfig] | None = None
    motion: MotionConfig | None = None
    regions: RegionsConfig | None = None


class FeedConfig(CameraConfig):
    """A camera with all blocks filled in."""

    tracking: TrackingConfig
    objects: ObjectsConfig
    zones: dict[Name, ZoneConfig]
    lines: dict[Name, LineConfig]
    motion: MotionConfig
    regions: RegionsConfig


_BLOCKS = tuple(key for key, field in FeedConfig.model_fields.items() if field.is_required())


class Config(Part):
    """The whole file; every key has a default, so an empty file is valid."""

    source: Secret | None = None
    cameras: dict[Name, CameraConfig] = Field(default_factory=dict)
    model: ModelConfig = ModelConfig()
    http: Address | None = "127.0.0.1:8080"
    web: WebConfig = WebConfig()
    output: OutputConfig = OutputConfig()
    tracking: TrackingConfig = TrackingConfig()
    objects: ObjectsConfig = ObjectsConfig()
    zones: dict[Name, ZoneConfig] = Field(default_factory=dict)
    lines: dict[Name, LineConfig] = Field(default_factory=dict)
    motion: MotionConfig = MotionConfig()
    regions: RegionsConfig = RegionsConfig()
    rules: dict[Name, RuleConfig] = Field(default_factory=dict)
    events: EventsConfig = EventsConfig()
    overlay: OverlayConfig = OverlayConfig()
    mqtt: MqttConfig = MqttConfig()
    webhooks: dict[Name, WebhookConfig] = Field(default_factory=dict)
    stream: StreamConfig = StreamConfig()
    udp: UdpConfig = UdpConfig()
    snapshots: SnapshotsConfig = SnapshotsConfig()
    recordings: RecordingsConfig = RecordingsConfig()
    sinks: dict[Name, SinkConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_together(self) -> Config:
        if self.source is not None and self.cameras:
            raise ValueError("cameras: give either source or cameras")
        if len(self.cameras) > 1 and self.output.video is not None and "{camera}" not in self.output.video:
            raise ValueError("output.video: of several cameras, write {camera} where its name shall stand")
        if len(self.cameras) > 1 and self.stream.rtsp_push is not None and "{camera}" not in self.stream.rtsp_push:
            raise ValueError("stream.rtsp_push: of several cameras, write {camera} where its name shall stand")
        if self.stream.webrtc and self.http is None:
            raise ValueError("stream.webrtc: needs http, the address that it is offered at")
        wrong = list(together_errors(self))
        closed = None if self.http is None else self.web.opens_to(parse_address(self.http)[0])
        wrong += [] if closed is None else [f"http: {closed}"]
        if wrong:
            raise ConfigMistakes(wrong)
        return self

    @property
    def feeds(self) -> dict[str, FeedConfig]:
        """The cameras by name, with the top level's blocks where they lack one; `source` alone is called "camera"."""
        cameras = self.cameras or {"camera": CameraConfig.model_construct(source=self.source or "auto")}
        return {name: self._filled(camera) for name, camera in cameras.items()}

    def _filled(self, camera: CameraConfig) -> FeedConfig:
        blocks = {key: getattr(self, key) for key in _BLOCKS if getattr(camera, key) is None}
        return FeedConfig.model_construct(**(dict(camera) | blocks))


SECRET_KEYS = ("source", "password", "secret", "token", "url", "rtsp_push")


def load_config(path: Path) -> Config:
    """Read a YAML file.

    Raises:
        ConfigFileError: the file cannot be read, is no YAML, or has a key that is unknown, out of range or there twice.
    """
    return read_config(read_config_file(path))


def read_config(file: ConfigFile, missing: set[str] | None = None) -> Config:
    """Return the settings in a file; secrets that are nowhere are added to `missing`, or without it an error.

    Raises:
        ConfigFileError: a key is unknown, out of range or there twice; the message has the lines and paths of all.
    """
    mistakes = list(file.twice)
    try:
        config = Config.model_validate(file.content, context=None if missing is None else {"missing": missing})
    except ValidationError as error:
        for item in error.errors():
            for told in _explain(item):
                mistakes.append((file.line_of(item["loc"]) or file.line_of_message(told), told))
        raise file.error(mistakes) from error
    if mistakes:
        raise file.error(mistakes)
    return config


def parse_config(content: Any, name: str) -> Config:
    """Return the settings in `content`, a mapping as YAML gives it; `name` is for messages.

    Raises:
        ConfigError: a key is unknown or its value out of range; the message names the key's path.
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        told = [f"{name}: {text}" for item in error.errors() for text in _explain(item)]
        raise ConfigError("; ".join(told)) from error


def _explain(item: Any) -> list[str]:
    """Return what is wrong, each with its path and without what may be secret."""
    key = ".".join(shown_key(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "extra_forbidden":
        return [f"{key}: {unknown_key(item['loc'][-1], _known_keys(item['loc'][:-1]))}"]
    if item["type"] in ("model_type", "model_attributes_type"):
        given = "a text" if isinstance(item["input"], str) else "a list or a value"  # which may be a secret
        return [f"{key or '(top level)'}: must hold keys and values, not {given}"]
    message = str(item["msg"]).removeprefix("Value error, ")
    if not key:  # messages name the keys themselves
        error = item.get("ctx", {}).get("error")
        return list(error.messages) if isinstance(error, ConfigMistakes) else [message]
    may_be_secret = (
        "…" in key or key.endswith(SECRET_KEYS) or key.startswith(("webhooks", "sinks", "mqtt.host", "web.users"))
    )
    if may_be_secret or not isinstance(item["input"], bool | int | float | str | None):
        return [f"{key}: {message}"]
    return [f"{key}: {message}, got {item['input']!r}"]


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    part: Any = Config
    for key in location:
        # A name, as that of a camera, is no field: what such names map to is.
        part = get_args(part)[1] if get_origin(part) is dict else part.model_fields[str(key)].annotation
        if get_origin(part) is UnionType:  # or null
            part = get_args(part)[0]
    return list(part.model_fields)
