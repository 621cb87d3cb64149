"""``python -m tests.faults --seed S --kills N``: one fault run, as the tests do it, with its figures at the end."""

import argparse
import asyncio
import os
import sys

from tests.faults.invariants import Allowed
from tests.faults.run import FaultRun, Violated
from tests.faults.schedule import Counts
from tests.support.netlab import Lab


def main() -> int:
    """Read the arguments, run, and return 1 when an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    for kind in ("kills", "pauses", "cuts", "clocks", "fills"):
        parser.add_argument(f"--{kind}", type=int, default=0)
    parser.add_argument("--lab", action="store_true", help="several hosts; implied by --cuts")
    given = parser.parse_args()
    counts = Counts(kills=given.kills, pauses=given.pauses, cuts=given.cuts, clocks=given.clocks, fills=given.fills)
    allowed = Allowed(gaps=True) if given.fills else None

    async def run(lab: Lab | None) -> str:
        return str(await FaultRun(given.seed, counts, lab=lab, allowed=allowed).run())

    try:
        if given.lab or given.cuts:
            with Lab(f"faults{os.getpid()}", 3) as lab:
                print(asyncio.run(run(lab)))
        else:
            print(asyncio.run(run(None)))
    except Violated as violated:
        print(violated, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
