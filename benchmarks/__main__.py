"""``python -m benchmarks``: measures the targets side by side in one run and prints one table of them.

Exit status 0 when everything was measured, whatever the figures; 1 when something could not be; 130 when interrupted.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.command_line import Names, Number, carry_out, show_progress
from benchmarks.rounds import TARGETS, Options, Series, measure

JOBS_MAX = 10_000  # what one call can wait for


def main() -> int:
    """Measure and print; return the exit status."""
    options, as_json = parse(sys.argv[1:])

    def told(series: Series, machine: str) -> str:
        if as_json:
            return json.dumps(report.as_json(series, options, machine), indent=1)
        return report.as_text(series, options, machine)

    series = carry_out(options.place, lambda: measure(options, show_progress), told)
    return series if isinstance(series, int) else 0


def parse(arguments: list[str]) -> tuple[Options, bool]:
    """Read the options, and whether JSON is wanted."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures hostler against its yardsticks.",
        epilog="scripts/bench --peers [options] measures it against other systems.",
    )
    parser.add_argument("--rounds", type=Number(1, 1000), default=5, help="how often everything is measured (5)")
    parser.add_argument("--jobs", type=Number(20, JOBS_MAX), default=2000, help="jobs to measure a rate with (2000)")
    parser.add_argument("--samples", type=Number(1, 10_000), default=300, help="jobs to measure latency with (300)")
    parser.add_argument("--only", type=Names(TARGETS), default=frozenset(TARGETS), help=f"of {','.join(TARGETS)}")
    parser.add_argument("--dir", type=Path, help="a directory on the disk to measure on (the temporary directory)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables, with each round's values")
    given = parser.parse_args(arguments)
    if given.dir is not None and not given.dir.is_dir():
        parser.error(f"{given.dir} is no directory")
    options = Options(rounds=given.rounds, jobs=given.jobs, samples=given.samples, only=given.only, place=given.dir)
    return options, given.json


if __name__ == "__main__":
    sys.exit(main())
