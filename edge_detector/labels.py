"""Label files in the formats that models come with -> names by 0-based class id."""

from __future__ import annotations

import re
from pathlib import Path

from edge_detector.errors import ModelError

UNUSED = "???"  # a class id that no object has, such as the gaps among COCO's 90 ids
_BACKGROUND = frozenset({UNUSED, "background", "__background__"})
_NUMBERED = re.compile(r"(\d+)\s*[:\s]\s*(.*)")
_PBTXT_ITEM = re.compile(r"\bitem\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_PBTXT_FIELD = re.compile(r"""\b(id|name|display_name)\s*:\s*(?:(\d+)|"([^"]*)"|'([^']*)')""")


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the names in the file `path`, by 0-based class id; see `parse_labels`.

    Raises:
        ModelError: the file is missing, no text, or holds no labels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ModelError(f"{path}: labels cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not a text file; give labels as UTF-8 text, one name per line") from error
    return parse_labels(text, str(path))


def parse_labels(text: str, name: str) -> tuple[str, ...]:
    """Return names by 0-based class id, gaps filled with `UNUSED`; `name` is for messages.

    Understood are: one name per line; `id name` and `id: name` on every line; .pbtxt label maps (ids from 1).
    A background entry in the first place is dropped; ids that start from 1 are shifted to 0.

    Raises:
        ModelError: there are no labels, or an id occurs twice or is out of range.
    """
    by_id = _pbtxt(text) if _PBTXT_ITEM.search(text) else _numbered(text)
    labels = _by_line(text) if by_id is None else _by_id(by_id, name)
    if labels and labels[0].lower() in _BACKGROUND:
        labels = labels[1:]
    if not labels:
        raise ModelError(f"{name}: holds no labels; write one name per line")
    return tuple(labels)


def _by_line(text: str) -> list[str]:
    # A line's place is its class id, so that an empty line inside is an unused id.
    return [line.strip() or UNUSED for line in text.rstrip().splitlines()]


def _numbered(text: str) -> list[tuple[int, str]] | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    matches = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    if not lines or len(matches) < len(lines):
        return None
    return [(int(match[1]), match[2]) for match in matches]


def _pbtxt(text: str) -> list[tuple[int, str]]:
    text = re.sub(r"(?m)^\s*#.*", "", text)
    entries = []
    for item in _PBTXT_ITEM.finditer(text):
        body = re.sub(r"\{[^{}]*\}", "", item[1])  # drops keypoints, which have ids of their own
        fields = {match[1]: match[2] or match[3] or match[4] or "" for match in _PBTXT_FIELD.finditer(body)}
        if fields.get("id", "").isdigit():
            entries.append((int(fields["id"]), fields.get("display_name") or fields.get("name") or UNUSED))
    return entries


def _by_id(entries: list[tuple[int, str]], name: str) -> list[str]:
    names = dict(entries)
    if len(names) < len(entries):
        raise ModelError(f"{name}: a class id occurs twice; give every id once")
    if not names or max(names) > 9999:
        raise ModelError(f"{name}: no class ids from 0 to 9999 found; write one name per line, or `id name`")
    first = 0 if 0 in names else 1
    return [names.get(class_id, UNUSED) for class_id in range(first, max(names) + 1)]
