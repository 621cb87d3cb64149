"""``python -m tests.faults --kills 1000 --cuts 500 --pauses 100``: faults in rounds, one line of figures at the end.

The same command goes on where it was broken off: rounds that held are in the state file. A violation is printed with
the seed of its round and the directory that holds its script, logs, truth, jobs and process list;
``--one --seed S`` with the round's counts, as printed there, runs that round alone.

Exit codes: 0 every invariant held, 1 one did not, 3 rounds are left (see --minutes).
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.invariants import Allowed
from tests.faults.rounds import KINDS, Drive, Round, rounds_of
from tests.faults.run import FaultRun, Violated
from tests.faults.schedule import Counts
from tests.support.netlab import Lab

LEFT = 3
BROKEN_OFF = 130


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each has the next one")
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0)
    parser.add_argument("--beside", type=int, default=2, metavar="N", help="rounds at a time (2)")
    parser.add_argument("--minutes", type=float, default=1e6, help="then no further round begins")
    parser.add_argument("--state", type=Path, help="where finished rounds are noted (faults-SEED.jsonl)")
    parser.add_argument("--one", action="store_true", help="one run with all these faults")
    parser.add_argument("--json", action="store_true", help="with --one: its figures as JSON")
    given = parser.parse_args()
    # Both break a run off in order: its cluster is ended, and nothing of it stays.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    counts = {kind: getattr(given, kind) for kind in KINDS}
    try:
        return _go(given, counts)
    except KeyboardInterrupt:
        print("broken off", file=sys.stderr)
        return BROKEN_OFF


def _go(given: argparse.Namespace, counts: dict[str, int]) -> int:
    if given.one:
        return _one(Round(seed=given.seed, **counts), as_json=given.json)
    rounds = rounds_of(Counts(**counts), given.seed)
    drive = Drive(rounds, given.state or Path(f"faults-{given.seed}.jsonl"), beside=given.beside)
    whole = asyncio.run(drive.run(given.minutes * 60))
    print(drive.figures)
    return 1 if drive.figures.violations else 0 if whole else LEFT


def _one(one: Round, *, as_json: bool) -> int:
    result = asyncio.run(run_alone(one))
    if as_json:
        print(json.dumps(result))
    elif result["violations"]:
        print(f"{result['text']}\n  again: python -m tests.faults {' '.join(one.arguments)}", file=sys.stderr)
    else:
        print(result["text"])
    return 1 if result["violations"] else 0


async def run_alone(one: Round) -> dict[str, Any]:
    """Run a round in this process and return what it did; cuts need several hosts."""
    allowed = Allowed(gaps=True) if one.fills else None
    began = time.monotonic()
    violations: list[str] = []
    with Lab(f"faults{os.getpid()}", 3) if one.cuts else contextlib.nullcontext() as lab:
        storm = FaultRun(one.seed, one.counts, lab=lab, allowed=allowed)
        try:
            await storm.run()
        except Violated:
            violations = [*storm.violations, f"evidence is in {storm.site.directory}"]
    report = storm.report
    kinds = ("kill", "cut", "pause", "clock", "full")
    return {
        "round": asdict(one),
        "jobs": report.jobs,
        "done": {kind: count for kind in kinds if (count := report.total(kind))},
        "causes": dict(report.causes),
        "answers": dict(report.answers),
        "pss_max_bytes": report.pss_max_bytes,
        "errors": dict(report.errors),
        "violations": violations,
        "seconds": round(time.monotonic() - began, 1),
        "text": "\n  ".join(violations) if violations else str(report),
    }


if __name__ == "__main__":
    sys.exit(main())
