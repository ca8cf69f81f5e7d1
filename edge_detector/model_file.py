"""A model file: a .tflite with its manifest and labels in a ZIP behind it (the TFLite Metadata convention)."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from edge_detector.errors import ModelError
from edge_detector.manifest import LABELS_FILE, MANIFEST_FILE, ModelManifest

_MAGIC = b"TFL3"  # at byte 4
_FOREIGN = {  # first bytes -> what they belong to
    b"\x89HDF": "a Keras HDF5 file",
    b"PK\x03\x04": "a ZIP, as PyTorch (.pt, .pth) and Keras (.keras) write it",
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    b"<": "a web page or XML",
}


def read_model_file(path: Path) -> bytes:
    """Return the bytes of the .tflite file at `path`.

    Raises:
        ModelError: the file is missing, empty, unreadable or no .tflite.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such model file; check the path, or give the name of a shipped model") from error
    except OSError as error:
        raise ModelError(f"{path}: model cannot be read: {error.strerror}; give a readable .tflite file") from error
    check_tflite(content, str(path))
    return content


def check_tflite(content: bytes, name: str) -> None:
    """Check that `content` starts like a .tflite file; `name` is for messages.

    Raises:
        ModelError: it does not.
    """
    if not content:
        raise ModelError(f"{name}: the file is empty; copy or download the model again")
    if content[4:8] != _MAGIC:
        kind = next((text for start, text in _FOREIGN.items() if content.startswith(start)), "something else")
        raise ModelError(
            f"{name}: not a TFLite model but {kind}; convert it with tools/quantize, or give a .tflite file"
        )


def read_appended(content: bytes, name: str) -> dict[str, bytes]:
    """Return the files in the ZIP behind the model, by name; none if there is no ZIP.

    Raises:
        ModelError: the ZIP is damaged or cut off.
    """
    if not zipfile.is_zipfile(BytesIO(content)):
        if MANIFEST_FILE.encode() in content:
            raise ModelError(f"{name}: cut off inside its manifest; copy or download it again")
        return {}
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return {member: archive.read(member) for member in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ModelError(
            f"{name}: the files behind the model are damaged ({error}); copy or download it again"
        ) from error


def read_manifest(content: bytes, name: str) -> ModelManifest | None:
    """Return the manifest that the model file `content` carries, or None.

    Raises:
        ModelError: the manifest is damaged or not one of version 1.
    """
    appended = read_appended(content, name)
    if MANIFEST_FILE not in appended:
        return None
    labels = appended.get(LABELS_FILE, b"").decode("utf-8", errors="replace").splitlines()
    parts = parse_json_object(appended[MANIFEST_FILE], f"{name}: {MANIFEST_FILE}")
    return build_manifest({"labels": labels, **parts}, f"{name}: {MANIFEST_FILE}")


def parse_json_object(content: bytes, name: str) -> dict[str, Any]:
    """Return a JSON object; `name` is for messages.

    Raises:
        ModelError: `content` is no JSON object.
    """
    try:
        parts = json.loads(content)
    except ValueError as error:
        raise ModelError(f"{name}: not valid JSON: {error}") from error
    if not isinstance(parts, dict):
        raise ModelError(f'{name}: must be a JSON object with keys such as "input" and "labels"')
    return parts


def build_manifest(parts: dict[str, Any], name: str) -> ModelManifest:
    """Return the manifest with these parts; `name` is for messages.

    Raises:
        ModelError: a part is missing, unknown or out of range; the message names it.
    """
    try:
        return ModelManifest.model_validate(parts)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ModelError(f"{name}: {'; '.join(faults)}") from error


def with_manifest(content: bytes, manifest: ModelManifest, extra: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """Return the model file with `manifest`, its labels and `extra` files behind it, in place of those of their names.

    Other files in its ZIP are kept. The same input gives the same bytes.

    Raises:
        ModelError: `content` is no .tflite, or its ZIP is damaged.
    """
    check_tflite(content, manifest.name)
    members = read_appended(content, manifest.name) | dict(extra)
    members[MANIFEST_FILE] = manifest.model_dump_json(indent=2, exclude={"labels"}).encode()
    members[LABELS_FILE] = "".join(f"{label}\n" for label in manifest.labels).encode()
    output = BytesIO()
    output.write(content[: _zip_start(content)])
    with zipfile.ZipFile(output, "a") as archive:
        for member in sorted(members):
            archive.writestr(zipfile.ZipInfo(member), members[member])
    return output.getvalue()


def append_manifest(path: Path, manifest: ModelManifest) -> None:
    """Put `manifest` into the file `path`; it is replaced in one step, never half-written.

    Raises:
        ModelError: the file is missing or no .tflite, or cannot be replaced.
    """
    content = with_manifest(read_model_file(path), manifest)
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(content)
        temporary.chmod(path.stat().st_mode)
        temporary.replace(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be replaced: {error.strerror}; check space and permissions") from error
    finally:
        temporary.unlink(missing_ok=True)


def _zip_start(content: bytes) -> int:
    if not zipfile.is_zipfile(BytesIO(content)):
        return len(content)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        return min((member.header_offset for member in archive.infolist()), default=archive.start_dir)
