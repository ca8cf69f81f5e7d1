"""Whether the service does its work: pictures come from all cameras, and are searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_detector.publishers.web.site import Site
from edge_detector.runtime.metrics import CameraStatus, ServiceStatus

SILENT_S = 10.0  # a camera without a picture, or a search without an end, for so long is not ready


def faults(site: Site, status: ServiceStatus | None) -> list[str]:
    """Return what keeps the service from being ready, a line each, without what only users may know.

    A camera whose detection is paused is ready, and so is a device that the CPU stands in for.
    """
    cameras: Mapping[str, CameraStatus] = {} if status is None else status.cameras
    found = [line for name in site.hubs if (line := _camera_fault(site, name, cameras.get(name)))]
    return [*found, *_inference_faults(cameras)]


def _camera_fault(site: Site, name: str, status: CameraStatus | None) -> str | None:
    hub, state = site.hubs[name], "" if status is None else f" ({status.state})"
    if hub.result is None:
        return f"{name}: no picture yet{state}"
    if hub.silent_s > SILENT_S:
        return f"{name}: no picture for {hub.silent_s:.0f} s{state}"
    if status is not None and status.state == "frozen":
        return f"{name}: the picture is frozen"
    return None


def _inference_faults(cameras: Mapping[str, CameraStatus]) -> Iterator[str]:
    """Yield what is wrong with inference: it is one for all cameras, which it serves in turn."""
    wanting = [one for one in cameras.values() if one.detecting]
    if not wanting:
        return
    if not any(one.stats.inferred for one in cameras.values()):  # also without a picture: the first may come just now
        yield "inference has not run yet"
        return
    longest_s = max((one.pending_s for one in wanting if one.silent_s is not None), default=0.0)
    rested_s = min(one.searched_s for one in cameras.values() if one.searched_s is not None)
    if longest_s > SILENT_S and rested_s > SILENT_S:
        yield f"inference has stopped: nothing was searched for {rested_s:.0f} s"
