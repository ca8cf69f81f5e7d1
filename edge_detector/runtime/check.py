"""`edge-detector check`: what is wrong with a file of settings on this machine, without opening camera or device."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from edge_detector.backends.failover import check_twins
from edge_detector.config import Config, ModelConfig, read_config
from edge_detector.config_checks import known_labels, unknown_labels
from edge_detector.config_file import read_config_file
from edge_detector.errors import ConfigError, DelegateError, ModelError, PublishError, SourceError
from edge_detector.manifest import ModelManifest
from edge_detector.publishers import bind_sink
from edge_detector.publishers.web.certificate import Certificate
from edge_detector.registry import resolve_model
from edge_detector.runtime.outputs import OFFERED
from edge_detector.runtime.service import capture_options, open_detector
from edge_detector.sink_config import MqttConfig
from edge_detector.sources import check_source, redact

_EXTRA = "pip install 'edge-detector[stream]'"


def check_file(path: Path) -> tuple[str, list[str]]:
    """Check a file of settings; return what it asks for, in a few lines, and what could not be checked.

    Secrets that are neither in the environment nor credentials are no mistake here: the service may have them.

    Raises:
        ConfigFileError: something is wrong; it has all mistakes with their lines.
    """
    file = read_config_file(path)
    missing: set[str] = set()
    config = read_config(file, missing)
    mistakes: list[str] = []
    manifest = _check_model(config, mistakes)
    for errors in (_source_errors, _sink_errors, _path_errors, _package_errors, _certificate_errors):
        mistakes += errors(config)
    if mistakes or manifest is None:
        raise file.error((file.line_of_message(mistake), mistake) for mistake in mistakes)
    unchecked = []
    for number, line in enumerate(file.text.splitlines(), 1):
        named = sorted(name for name in missing if f"{{{name}}}" in line and not line.lstrip().startswith("#"))
        unchecked += [
            f"{path}:{number}: {name}: neither in this environment nor a credential, so not checked" for name in named
        ]
    return f"{path}: ok\n" + "\n".join(f"  {line}" for line in _summary(config, manifest)), unchecked


def _check_model(config: Config, mistakes: list[str]) -> ModelManifest | None:
    """Return the model's manifest, or None and add what is wrong with it, and with labels that it does not have."""
    model = config.model
    try:  # on the processor: a running service may have the device
        with closing(open_detector(model.model_copy(update={"device": "cpu", "edgetpu_path": None}))) as detector:
            manifest = detector.manifest
    except ModelError as error:
        of_labels = model.labelmap_path is not None and "label" in str(error)
        mistakes.append(f"model.{'labelmap_path' if of_labels else 'path'}: {error}")
        return None
    except DelegateError as error:
        mistakes.append(f"model.runtime: {error}")
        return None
    mistakes += _device_errors(model)
    for key, label in unknown_labels(config, manifest.labels):
        mistakes.append(f"{key}: {label!r} is no label of the model, which knows: {known_labels(manifest.labels)}")
    return manifest


def _device_errors(model: ModelConfig) -> Iterator[str]:
    if model.edgetpu_path is None and not model.device.startswith("edgetpu"):
        return
    path = resolve_model(model.path)
    compiled = path.with_name(f"{path.stem}_edgetpu.tflite") if model.edgetpu_path is None else Path(model.edgetpu_path)
    try:
        check_twins(path, compiled)
    except ModelError as error:
        yield f"model.{'device' if model.edgetpu_path is None else 'edgetpu_path'}: {error}"


def _source_errors(config: Config) -> Iterator[str]:
    for name, camera in config.feeds.items():
        key = f"cameras.{name}.source" if config.cameras else "source"
        try:
            if "{EDGE_DETECTOR_" not in camera.source:
                check_source(camera.source, capture_options(camera))
        except (SourceError, OSError, RuntimeError) as error:
            yield f"{key}: {error}"


def _sink_errors(config: Config) -> Iterator[str]:
    for name, sink in config.sinks.items():
        try:
            bind_sink(sink.kind, sink.options, dict.fromkeys(OFFERED))
        except ConfigError as error:
            yield f"sinks.{name}: {error}"


def _path_errors(config: Config) -> Iterator[str]:
    folders = {"snapshots.path": config.snapshots.path, "recordings.path": config.recordings.path}
    files = {"events.path": config.events.path, "events.jsonl": config.events.jsonl}
    files |= {"output.jsonl": config.output.jsonl, "output.video": config.output.video}
    for name, sink in config.sinks.items():
        files |= {f"sinks.{name}.options.{key}": sink.options.get(key) for key in ("target", "path")}
    for key, path in folders.items():
        if path is not None and (problem := _folder_problem(Path(path), made=True)):
            yield f"{key}: {problem}"
    for key, path in files.items():
        if isinstance(path, str) and path != "-" and (problem := _file_problem(Path(path))):
            yield f"{key}: {problem}"


def _file_problem(path: Path) -> str | None:
    """Return why a file cannot be written, or None."""
    try:
        if path.is_dir():
            return f"{path} is a folder; give a file"
        if path.exists():
            return None if _may_write(path) else f"{path} cannot be written to by this user"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return _folder_problem(path.parent, made=False)


def _folder_problem(path: Path, *, made: bool) -> str | None:
    """Return why nothing can be put into a folder, which may be `made`, or None."""
    try:
        there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists() or not made)
        if not there.is_dir():
            return f"{there} is {'no folder' if there.exists() else 'not there; make this folder'}"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None if _may_write(there) else f"{there} cannot be written to by this user"


def _may_write(path: Path) -> bool:
    wanted = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
    return os.access(path, wanted, effective_ids=True)


def _package_errors(config: Config) -> Iterator[str]:
    if config.recordings.path is not None and find_spec("av") is None:
        yield f"recordings.path: needs PyAV: {_EXTRA}"
    if config.stream.rtsp_push is not None and find_spec("av") is None:
        yield f"stream.rtsp_push: needs PyAV: {_EXTRA}"
    if config.stream.webrtc and find_spec("aiortc") is None:
        yield f"stream.webrtc: needs aiortc: {_EXTRA}"


def _certificate_errors(config: Config) -> Iterator[str]:
    if config.web.tls_cert is not None:
        try:
            Certificate(config.web)
        except PublishError as error:
            yield str(error)
    yield from _mqtt_errors(config.mqtt)


def _mqtt_errors(mqtt: MqttConfig) -> Iterator[str]:
    context = ssl.create_default_context()
    try:
        key = "mqtt.tls_ca_certs"
        if mqtt.tls_ca_certs is not None:
            context.load_verify_locations(mqtt.tls_ca_certs)
        key = "mqtt.tls_client_cert"
        if mqtt.tls_client_cert is not None:
            context.load_cert_chain(mqtt.tls_client_cert, mqtt.tls_client_key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        yield f"{key}: cannot be used: {error.strerror or error}"


def _summary(config: Config, manifest: ModelManifest) -> Iterator[str]:
    cameras = ", ".join(f"{name} ({redact(feed.source)})" for name, feed in config.feeds.items())
    yield f"{'cameras' if len(config.feeds) > 1 else 'camera'}: {cameras}"
    labels = manifest.labels[0] if len(manifest.labels) == 1 else f"{len(manifest.labels)} labels"
    size = f"{manifest.input.width}x{manifest.input.height}"
    yield f"model: {manifest.name}, {size}, {labels}; device: {config.model.device}"
    scheme = "http" if config.web.tls_cert is None else "https"
    yield "page: none" if config.http is None else f"page: {scheme}://{config.http}"
    yield f"sinks: {', '.join(_sinks(config)) or 'none'}"


def _sinks(config: Config) -> Iterator[str]:
    """Yield the keys of all that results and events go to; addresses may hold secrets, and are not shown."""
    single: dict[str, object] = {
        "mqtt": config.mqtt.host,
        "udp": config.udp.address,
        "snapshots": config.snapshots.path,
        "recordings": config.recordings.path,
        "events": config.events.path or config.events.jsonl,
        "output.jsonl": config.output.jsonl,
        "output.video": config.output.video,
        "stream.rtsp_push": config.stream.rtsp_push,
        "stream.webrtc": config.stream.webrtc or None,
    }
    yield from (key for key, value in single.items() if value is not None)
    yield from (f"webhooks.{name}" for name in config.webhooks)
    yield from (f"sinks.{name}" for name in config.sinks)
