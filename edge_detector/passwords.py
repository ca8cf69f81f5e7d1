"""Passwords as scrypt hashes in the text form of passlib: $scrypt$ln=14,r=8,p=1$SALT$HASH."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

LOG2_N = 14  # 16 MiB and about 50 ms on a PC: what OWASP asks for with r=8 and p=5 would take a Pi seconds
_R, _P = 8, 1
_MAX_BYTES = 64 << 20  # a hash from elsewhere must not take all memory of a small computer,
_MAX_P = 4  # nor minutes
_FORM = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{43})")


def hash_password(password: str) -> str:
    """Return the hash of a password under a salt of its own."""
    salt = secrets.token_bytes(16)
    key = _derive(password, salt, LOG2_N, _R, _P)
    return f"$scrypt$ln={LOG2_N},r={_R},p={_P}${_encode(salt)}${_encode(key)}"


def check_password(password: str, hashed: str) -> bool:
    """Return whether `hashed` is of this password; takes as long as hashing does.

    Raises:
        ValueError: `hashed` is no such hash, or one that would take too much memory.
    """
    match = _FORM.fullmatch(hashed)
    if match is None:
        raise ValueError("give what `edge-detector password` prints")
    log2_n, r, p = (int(match[group]) for group in (1, 2, 3))
    if log2_n < 1 or r < 1 or not 1 <= p <= _MAX_P or 128 * r << log2_n > _MAX_BYTES:
        raise ValueError("this hash takes too much memory; make one with `edge-detector password`")
    return hmac.compare_digest(_derive(password, _decode(match[4]), log2_n, r, p), _decode(match[5]))


def _derive(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    n = 1 << log2_n
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=129 * n * r * p + (1 << 20), dklen=32)


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
