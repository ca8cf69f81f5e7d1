"""Read-only access to flatbuffers and flexbuffers. Source: FlatBuffers "Internals" and "FlexBuffers" specifications.

Every access is checked against the end of the bytes: damaged ones raise `struct.error` or `ValueError`.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt


def unpack(content: bytes, fmt: str, position: int) -> Any:
    """Return one little-endian number; `fmt` is a `struct` letter."""
    if position < 0:
        raise ValueError(f"position {position} lies before the first byte")
    return struct.unpack_from("<" + fmt, content, position)[0]


class Table:
    """A flatbuffer table; fields are asked for by their index in the schema, and may be absent."""

    __slots__ = ("_content", "_position", "_vtable", "_vtable_size")

    def __init__(self, content: bytes, position: int) -> None:
        self._content = content
        self._position = position
        self._vtable = position - unpack(content, "i", position)
        self._vtable_size = unpack(content, "H", self._vtable)

    @classmethod
    def root(cls, content: bytes) -> Table:
        """Return the table that a flatbuffer starts with."""
        return cls(content, unpack(content, "I", 0))

    def scalar(self, field: int, fmt: str, default: int = 0) -> Any:
        """Return a number stored in the table itself."""
        slot = self._slot(field)
        return default if slot is None else unpack(self._content, fmt, slot)

    def table(self, field: int) -> Table | None:
        """Return a table that the field refers to, or None."""
        target = self._target(field)
        return None if target is None else Table(self._content, target)

    def tables(self, field: int) -> list[Table]:
        """Return a vector of tables; empty if absent."""
        start = (self._target(field) or 0) + 4
        offsets = self.numbers(field, np.uint32).tolist()
        return [Table(self._content, start + 4 * i + offset) for i, offset in enumerate(offsets)]

    def numbers(self, field: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a vector of numbers, a read-only view; empty if absent."""
        target = self._target(field)
        count = 0 if target is None else unpack(self._content, "I", target)
        if target is None or count == 0:
            return np.empty(0, dtype)
        return np.frombuffer(self._content, np.dtype(dtype).newbyteorder("<"), count, target + 4)

    def text(self, field: int) -> str:
        """Return a string; empty if absent."""
        return self.numbers(field, np.uint8).tobytes().decode("utf-8", errors="replace")

    def _slot(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_size:
            return None
        offset = unpack(self._content, "H", self._vtable + entry)
        return self._position + offset if offset else None

    def _target(self, field: int) -> int | None:
        slot = self._slot(field)
        return None if slot is None else slot + int(unpack(self._content, "I", slot))


_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}
_SCALARS = {  # flexbuffer type -> struct letter by width in bytes
    1: {1: "b", 2: "h", 4: "i", 8: "q"},  # int
    2: _UNSIGNED,
    3: {2: "e", 4: "f", 8: "d"},  # float
    26: _UNSIGNED,  # bool
}
_MAP = 9


def read_flexbuffer_map(content: bytes) -> dict[str, int | float]:
    """Return the numbers of a flexbuffer whose root is a map; entries of other types are left out."""
    root_width, root_type = unpack(content, "B", len(content) - 1), unpack(content, "B", len(content) - 2) >> 2
    if root_type != _MAP:
        return {}
    width = 1 << (unpack(content, "B", len(content) - 2) & 3)

    def unsigned(position: int, size: int) -> int:
        return int(unpack(content, _UNSIGNED[size], position))

    root = len(content) - 2 - root_width
    values = root - unsigned(root, root_width)
    keys = values - 3 * width - unsigned(values - 3 * width, width)
    key_width = unsigned(values - 2 * width, width)
    count = unsigned(values - width, width)
    entries: dict[str, int | float] = {}
    for i in range(count):
        letter = _SCALARS.get(unpack(content, "B", values + count * width + i) >> 2, {}).get(width)
        if letter is not None:
            key = keys + i * key_width - unsigned(keys + i * key_width, key_width)
            name = content[key : content.index(b"\0", key)].decode("utf-8", errors="replace")
            entries[name] = unpack(content, letter, values + i * width)
    return entries
