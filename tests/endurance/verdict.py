"""The verdict on a soak: what must hold, and whether it did."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tests.endurance.soak import Record

SLOPE_MB_PER_H = 1.0
LEVEL_S = 300.0
Z95 = 1.96


def theil_sen(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of the slopes between all pairs of points, and its 95 % interval (Sen 1968).

    A few points that are far off, as in a fault, do not change it much.
    """
    slopes = sorted(
        (ys[j] - ys[i]) / (xs[j] - xs[i]) for i in range(len(xs)) for j in range(i + 1, len(xs)) if xs[j] != xs[i]
    )
    if not slopes:
        return math.nan, -math.inf, math.inf
    count = len(xs)
    spread = Z95 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, round((len(slopes) - spread) / 2) - 1)
    high = min(len(slopes) - 1, round((len(slopes) + spread) / 2))
    return statistics.median(slopes), slopes[low], slopes[high]


def rests(record: Record) -> list[dict[str, float]]:
    """Return the medians of each pause between faults after the warm-up."""
    windows = []
    for (phase, _), rows in groupby(record.samples, key=lambda row: (row["phase"], row["fault"])):
        window = [row for row in rows if row["s"] >= record.options.warm_up_s]
        if phase == "rest" and window:
            keys = ("s", "rss_mb", "anonymous_mb", "threads", "fds")
            windows.append({key: statistics.median(row[key] for row in window) for key in keys})
    return windows


def levels(record: Record) -> tuple[list[float], list[float]]:
    """Return the hours of each five minutes after the warm-up, and the median MB of resident memory in them.

    Clips, viewers and results that wait come and go in memory: the least of five minutes is some rare moment, the
    median is not.
    """
    kept = [row for row in record.samples if row["s"] >= record.options.warm_up_s and row["rss_mb"] > 0]
    windows = [list(rows) for _, rows in groupby(kept, key=lambda row: row["s"] // LEVEL_S)]
    hours = [statistics.median(row["s"] for row in window) / 3600 for window in windows]
    return hours, [statistics.median(row["rss_mb"] for row in window) for window in windows]


def drift(windows: list[dict[str, float]], key: str) -> tuple[float, float, float, float]:
    """Return the medians of the first and the last quarter, the least and the most."""
    values = [window[key] for window in windows]
    quarter = max(1, len(values) // 4)
    return statistics.median(values[:quarter]), statistics.median(values[-quarter:]), min(values), max(values)


def judge(record: Record) -> list[tuple[str, bool, str]]:
    """Return what is demanded, whether it was met, and what was seen."""
    windows = rests(record)
    found: list[tuple[str, bool, str]] = []

    def demand(what: str, met: bool, seen: Any) -> None:
        found.append((what, met, str(seen)))

    times = sum(len(injected.kinds) for injected in record.injected)
    demand("the process is the same from beginning to end", not record.crashed, record.crashed or f"{times} faults")
    ended_well = record.exit_code == 0 and record.end_s < 2.5
    demand("SIGTERM ends it within 2 s, with 0", ended_well, f"{record.exit_code} after {record.end_s:.2f} s")
    lost = [f"{name} after {' + '.join(one.kinds)}" for one in record.injected for name in one.missing]
    seen = "; ".join(lost) or f"{len(record.injected)} times {len(record.counts)} of them"
    demand(f"every sink delivers again within {record.options.bound_s:g} s", not lost, seen)
    wrong = [text for one in record.injected for text in one.wrong]
    demand("every fault could be made, and SIGHUP was obeyed", not wrong, "; ".join(wrong) or "yes")
    demand("nothing that arrived was damaged, no traceback in the log", not record.defects, record.defects[:5] or "yes")
    unsent = record.lost_ends.get("webhook", 0)
    told = f"{record.counts.get('ends in events.jsonl', 0)} objects ended; {unsent} of them not told. "
    # Of the database, which is full, rows go at once that seem to be of the day before.
    told += f"Not seen in the database: {record.lost_ends.get('event database', 0)}"
    demand("no event is lost on the way to the webhook", not unsent, told)
    if len(windows) < 4:
        demand(
            "long enough to judge memory, threads and descriptors", False, f"{len(windows)} pauses after the warm-up"
        )
        return found
    hours, level_mb = levels(record)
    slope, low, high = theil_sen(hours, level_mb)
    told = f"{slope:+.2f} MB/h, 95 % interval {low:+.2f} to {high:+.2f}, medians of {len(hours)} times 5 minutes"
    demand(f"resident memory grows by less than {SLOPE_MB_PER_H:g} MB/h", slope < SLOPE_MB_PER_H, told)
    for key, name in (("threads", "threads"), ("fds", "file descriptors (without clips)")):
        first, last, least, most = drift(windows, key)
        told = f"{first:g} in the first quarter, {last:g} in the last, between {least:g} and {most:g}"
        demand(f"no more {name} at the end than at the beginning", last - first < 1, told)
    abandoned = [int(row["abandoned"]) for row in record.samples if row["abandoned"] != ""]
    demand("no call is left behind", not abandoned or abandoned[-1] == 0, abandoned[-1] if abandoned else "not asked")
    return found
