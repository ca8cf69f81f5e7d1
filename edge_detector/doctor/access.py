"""Checks of users, their groups, and the devices that these open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_detector.doctor.context import SERVICE, Context
from edge_detector.doctor.finding import Finding, error, ok, skipped
from edge_detector.doctor.host import User, owned_by

_GROUPS = ("video", "render", "plugdev")
_NODES = ("/dev/video*", "/dev/media*", "/dev/v4l-subdev*", "/dev/dma_heap/*", "/dev/vchiq", "/dev/vcio", "/dev/dri/*")
_USB = "/dev/bus/usb/*/*"


def check_groups(context: Context) -> Iterator[Finding]:
    """Whether the users who run it are in the groups that devices belong to."""
    host = context.host
    service = host.user(context.unit.get("User") or SERVICE)
    users = {"this user": host.current_user()}
    if service is not None and service.uid != users["this user"].uid:
        users["service"] = context.runs_as
    known = host.group_members()
    nodes = [node for pattern in (*_NODES, _USB) for node in host.glob(pattern)]
    for title, user in users.items():
        yield _check_user(title, user, {name: known[name][0] for name in _GROUPS if name in known}, nodes)
    if service is None:
        yield skipped("groups", f"no user {SERVICE}: the service is not installed")


def _check_user(title: str, user: User, groups: dict[str, int], nodes: Sequence[Path]) -> Finding:
    if user.uid == 0:
        return ok("groups", f"{title}: root, who may use everything")
    missing = [name for name, gid in groups.items() if gid not in user.groups]
    needed = []
    for name in missing:
        closed = [node for node in nodes if owned_by(node, groups[name]) and not user.may(node, 6)]
        needed += [name] if closed else []
    joined = ", ".join(name for name in groups if name not in missing) or f"no group of {', '.join(groups)}"
    found = f"{title}: {user.name} is in {joined}"
    if needed:
        again = ", and log in again:" if title == "this user" else ", and restart the service:"
        command = f"sudo usermod -aG {','.join(needed)} {user.name}"
        return error("groups", f"{found}, not in {', '.join(needed)}, whose devices are there", f"Join{again}", command)
    rest = f"; nothing of {', '.join(missing)} is connected" if missing else ""
    return ok("groups", found + rest)
