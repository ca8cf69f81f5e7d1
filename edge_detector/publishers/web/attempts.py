"""Attempts: makes those wait who guess passwords."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict

FREE = 5  # failures of one address without a wait,
FREE_IN_ALL = 50  # and of all
MAX_WAIT_S = 60.0
FORGET_S = 900.0
MAX_ADDRESSES = 1000
_ALL = ""


class Attempts:
    """Failed logins by address, IPv6 by its /64; after some free ones each failure doubles the wait, up to a minute.

    Many addresses wait together, too; one that goes on alone does not make the others wait.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and when the last was

    def wait_s(self, address: str) -> float:
        """Return how long this address must not try."""
        return max(self._wait_s(_network(address), FREE), self._wait_s(_ALL, FREE_IN_ALL))

    def failed(self, address: str) -> None:
        """Count a failure."""
        if self._count(_network(address)) <= FREE:
            self._count(_ALL)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def passed(self, address: str) -> None:
        """Forget the failures of an address."""
        self._failures.pop(_network(address), None)

    def _count(self, key: str) -> int:
        count, at_s = self._failures.pop(key, (0, 0.0))
        now_s = time.monotonic()
        count = 1 if now_s - at_s > FORGET_S else count + 1
        self._failures[key] = count, now_s
        return count

    def _wait_s(self, key: str, free: int) -> float:
        count, at_s = self._failures.get(key, (0, 0.0))
        if count < free:
            return 0.0
        return max(0.0, at_s + min(MAX_WAIT_S, 2.0 ** min(count - free, 10)) - time.monotonic())


def _network(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else address
