"""``python -m tests.security --http 50000 --protobuf 50000``: bad input by the thousand, one line of figures for each.

HTTP goes to a gateway process in front of a fake coordinator, protobuf to a coordinator process. The same seed makes
the same input. What is wrong is printed with the input that showed it.

Exit codes: 0 every answer was a documented one, 1 something was wrong.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.security.outcomes import Outcome
from tests.security.rounds import run_http, run_protobuf


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.security", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--http", type=int, default=0, metavar="N", help="requests")
    parser.add_argument("--protobuf", type=int, default=0, metavar="N", help="calls")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-health", action="store_true", help="do not hold /health to its limit (on a busy machine)")
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="hf-"))
    try:
        problems = 0
        for name in ("h", "p"):
            (place / name).mkdir(mode=0o700)
        if asked.http:
            outcome = asyncio.run(run_http(place / "h", count=asked.http, seed=asked.seed, health=not asked.no_health))
            problems += shown("http", outcome, asked.seed)
        if asked.protobuf:
            outcome = asyncio.run(run_protobuf(place / "p", count=asked.protobuf, seed=asked.seed))
            problems += shown("protobuf", outcome, asked.seed)
    finally:
        shutil.rmtree(place)
    return 1 if problems else 0


def shown(name: str, outcome: Outcome, seed: int) -> int:
    """Print what came of a run, and return how much was wrong."""
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    print(f"{outcome.summary(name)}; seed {seed}", flush=True)
    return len(outcome.problems)


if __name__ == "__main__":
    sys.exit(main())
