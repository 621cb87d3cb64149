"""``python -m benchmarks.peers``: measures the product against other systems in one run and prints one table (P6).

Exit status 0 when everything was measured, whatever the figures; 1 when something could not be, which is then named;
130 when interrupted.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.command_line import Names, Number, carry_out, show_progress
from benchmarks.peers import report
from benchmarks.peers.contestants import CONTESTANTS
from benchmarks.peers.rounds import Options, Results, measure

JOBS_MAX = 10_000  # what one call can wait for


def main() -> int:
    """Measure and print; return the exit status."""
    options, as_json = parse(sys.argv[1:])

    def told(results: Results, machine: str) -> str:
        if as_json:
            return json.dumps(report.as_json(results, options, machine), indent=1)
        return report.as_text(results, options, machine)

    results = carry_out(options.place, lambda: measure(options, show_progress), told)
    if isinstance(results, int):
        return results
    return 1 if results.left_out else 0


def parse(arguments: list[str]) -> tuple[Options, bool]:
    """Read the options, and whether JSON is wanted."""
    keys = [peer.key for peer in CONTESTANTS]
    parser = argparse.ArgumentParser(
        prog="scripts/bench --peers",
        description="Measures hostler against other systems. What they need is installed the first time: Python "
        "packages into .venv-peers, and redis-server, gearman-job-server and gearman-tools by apt-get.",
    )
    parser.add_argument("--rounds", type=Number(1, 1000), default=3, help="how often everything is measured (3)")
    parser.add_argument("--jobs", type=Number(20, JOBS_MAX), default=2000, help="jobs to measure a rate with (2000)")
    parser.add_argument("--only", type=Names(keys), default=frozenset(keys), help=f"of {','.join(keys)}")
    parser.add_argument("--dir", type=Path, help="a directory on the disk to measure on (the temporary directory)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables, with each round's values")
    given = parser.parse_args(arguments)
    if given.dir is not None and not given.dir.is_dir():
        parser.error(f"{given.dir} is no directory")
    peers = [peer for peer in CONTESTANTS if peer.key in given.only]
    return Options(rounds=given.rounds, jobs=given.jobs, peers=peers, place=given.dir), given.json


if __name__ == "__main__":
    sys.exit(main())
