"""python tests/endurance: runs the service under faults, and judges what that did to it.

Writes samples (CSV), the record (JSON), a report (Markdown) and plots into --out; exits with 1 if a demand was not met.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as `python tests/endurance` from anywhere

from tests.endurance.disk import keep_mounts_to_ourselves
from tests.endurance.report import write_report
from tests.endurance.soak import Options, soak
from tests.endurance.verdict import judge


def main() -> int:
    """Run, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("endurance"))
    parser.add_argument("--warm-up", type=float, default=300, help="seconds of which memory and threads do not count")
    parser.add_argument("--rest", type=float, default=8, help="seconds between a recovery and the next fault")
    parser.add_argument("--bound", type=float, default=60, help="seconds in which a sink must deliver again")
    parser.add_argument("--scale", type=float, default=1, help="of the faults' durations")
    parser.add_argument("--together", type=float, default=0.25, help="how often two faults overlap, 0 to 1")
    parser.add_argument("--detect-fps", type=float, default=2, help="searches per second and camera")
    parser.add_argument("--model", default="person-320")
    parser.add_argument("--without", action="append", default=[], metavar="FAULT", help="such as SIGHUP; repeatable")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="repeatable")
    given = parser.parse_args()
    options = Options(
        minutes=given.minutes,
        seed=given.seed,
        output=given.out,
        rest_s=given.rest,
        bound_s=given.bound,
        warm_up_s=min(given.warm_up, 20 * given.minutes),
        scale=given.scale,
        together=given.together,
        detect_fps=given.detect_fps,
        model=given.model,
        without=tuple(given.without),
        only=tuple(given.only),
    )
    keep_mounts_to_ourselves()
    record = soak(options, lambda line: print(line, flush=True))
    print("\n" + write_report(record, options.output))
    return int(not all(met for _, met, _ in judge(record)))


if __name__ == "__main__":
    sys.exit(main())
