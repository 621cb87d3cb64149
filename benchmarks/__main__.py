"""``python -m benchmarks``: measures the targets side by side in one run and prints one table of them.

Exit status 0 when everything was measured, whatever the figures; 1 when something could not be; 130 when interrupted.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.processes import BenchError, end_on_signals
from benchmarks.rounds import TARGETS, Options, measure

JOBS_MAX = 10_000  # what one call can wait for
INTERRUPTED = 130


def main() -> int:
    """Measure and print; return the exit status."""
    options, as_json = parse(sys.argv[1:])
    end_on_signals()
    machine = describe_machine(options.place)
    try:
        series = measure(options, _progress)
    except BenchError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _progress("")
    if as_json:
        print(json.dumps(report.as_json(series, options, machine), indent=1))
    else:
        print(report.as_text(series, options, machine))
    return 0


def parse(arguments: list[str]) -> tuple[Options, bool]:
    """Read the options, and whether JSON is wanted."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures hostler against its yardsticks.")
    parser.add_argument("--rounds", type=_number(1, 1000), default=5, help="how often everything is measured (5)")
    parser.add_argument("--jobs", type=_number(20, JOBS_MAX), default=2000, help="jobs to measure a rate with (2000)")
    parser.add_argument("--samples", type=_number(1, 10_000), default=300, help="jobs to measure latency with (300)")
    parser.add_argument("--only", type=_targets, default=frozenset(TARGETS), help=f"of {','.join(TARGETS)}")
    parser.add_argument("--dir", type=Path, help="a directory on the disk to measure on (the temporary directory)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables, with each round's values")
    given = parser.parse_args(arguments)
    if given.dir is not None and not given.dir.is_dir():
        parser.error(f"{given.dir} is no directory")
    options = Options(rounds=given.rounds, jobs=given.jobs, samples=given.samples, only=given.only, place=given.dir)
    return options, given.json


class _number:
    """An argument between two bounds."""

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def __call__(self, text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not self._least <= int(text) <= self._most:
            raise argparse.ArgumentTypeError(f"a number from {self._least} to {self._most} is expected")
        return int(text)


def _targets(text: str) -> frozenset[str]:
    names = frozenset(text.upper().split(","))
    if not names <= frozenset(TARGETS):
        raise argparse.ArgumentTypeError(f"of {', '.join(TARGETS)}, with commas between")
    return names


def describe_machine(place: Path | None) -> str:
    """One line on what the figures are of, and how busy it was before."""
    directory = (place or Path(tempfile.gettempdir())).resolve()
    return (
        f"{len(os.sched_getaffinity(0))} CPUs, Linux {platform.release()}, Python {platform.python_version()}, "
        f"data on {_file_system(directory)} ({directory}), load {os.getloadavg()[0]:.2f} before the start"
    )


def _file_system(directory: Path) -> str:
    best, kind = "", "an unknown file system"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, type_ = line.split()[:3]
        if directory.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, type_
    return kind


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
